"""The decisions: plain functions and small state machines over plain data (numpy is allowed).

Must never import asyncio, sockets, torch or vLLM, read a clock, or draw unseeded randomness: the same events in the
same order give the same decisions, which is what lets tests hold them.
"""
