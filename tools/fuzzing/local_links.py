"""All listening sockets of a run in this process, without actors: what the links alone make of spoiled messages."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from darts_async.config import load_config
from darts_async.messages import Role
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.sockets import ControlHub, Sockets
from darts_async.runtime.topology import LINKS, endpoints
from fuzzing.barrage import Barrage
from fuzzing.decoding import rss_mib

__all__ = ["fuzz_local_links"]

_BINDERS: tuple[Role, ...] = ("selector", "allocator", "learner")


def fuzz_local_links(count: int, seed: int, *, curve: bool) -> tuple[list[str], list[str]]:
    """Send `count` spoiled messages to each; return lines to print, and what went wrong."""
    return uvloop.run(_fuzz(count, seed, curve=curve))


async def _fuzz(count: int, seed: int, *, curve: bool) -> tuple[list[str], list[str]]:
    config = load_config(None, [("generator.engine", "sim")])
    with tempfile.TemporaryDirectory(prefix="darts-") as folder:
        keys = RunKeys.create(Path(folder) / "keys") if curve else None
        where = endpoints(None, folder)
        control = ControlHub(where["control"], config, keys)
        roles = [Sockets(role, 0, where, config, "" if keys is None else str(keys.folder)) for role in _BINDERS]
        links: dict[str, Any] = {"control": control.link}
        for role, sockets in zip(_BINDERS, roles, strict=True):
            links |= {name: link for name, link in sockets.data_links().items() if LINKS[name].binder == role}
        readers = [asyncio.create_task(_read(link)) for link in links.values()]
        before = rss_mib()
        barrage = Barrage(where, keys, config, random.Random(seed), as_members=True)
        sent = await asyncio.to_thread(barrage.fire, count)
        wrong = []
        try:
            async with asyncio.timeout(30):
                for name, number in sent.items():
                    while links[name].stats.dropped < number:  # noqa: ASYNC110 - a counter has no event
                        await asyncio.sleep(0.01)
        except TimeoutError:
            dropped = {name: link.stats.dropped for name, link in links.items()}
            wrong.append(f"dropped {dropped} of {sent}")
        wrong += [f"a reader ended: {task!r}" for task in readers if task.done()]
        dropped_in_all = sum(link.stats.dropped for link in links.values())
        line = f"{len(sent)} listening sockets in one process: {sum(sent.values()):,} spoiled messages, "
        line += f"{dropped_in_all:,} dropped; RSS {before:.1f} -> {rss_mib():.1f} MiB"
        barrage.close()
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for sockets in roles:
            await sockets.close(0.1)
        with contextlib.suppress(TimeoutError):
            await control.close(0.1)
    return [line], wrong


async def _read(link: Any) -> None:
    while True:
        await link.recv()
