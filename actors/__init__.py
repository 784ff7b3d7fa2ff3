"""The four roles. One file each, with an `async def run(links, config)`; spawned as `python -m actors.<role>`.

An actor only moves messages: decisions live in `darts_async.algorithms`, bytes in `darts_async.transport`,
torch and vLLM in `darts_async.engines`. Links come in as arguments, so the same code runs over ZeroMQ, over
in-memory links in tests, and on simulated engines.
"""
