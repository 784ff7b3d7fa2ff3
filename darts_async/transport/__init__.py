"""Bytes and sockets; no RL words. Typed links over ZeroMQ and their in-memory twins, behind one contract.

Public names: the contract (`links`), the codec (`codec`), ZeroMQ links (`zmq_links`), in-memory links
(`memory_links`).
"""
