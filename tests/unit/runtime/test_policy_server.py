"""The policy link: nobody is left out of a version that is evaluated, and versions come in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.engines.weight_store import WeightStore
from darts_async.errors import ProtocolError
from darts_async.messages import (
    AllocatorHello,
    GeneratorHello,
    PolicyApplied,
    PolicyReply,
    PolicyScored,
    PolicyUpdate,
)
from darts_async.runtime.policy_server import PolicyServer
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryDealer, MemoryExchange


class Stand:
    """A server and its peers."""

    def __init__(self, folder: Path, every_steps: int) -> None:
        self.link: MemoryExchange[PolicyUpdate, PolicyReply] = MemoryExchange(
            send=Codec(PolicyUpdate), receive=Codec(PolicyReply)
        )
        self.scores: asyncio.Queue[PolicyScored] = asyncio.Queue()
        store = WeightStore(folder, replicas=1)
        self.server = PolicyServer(self.link.hub, store, EvalSchedule(every_steps=every_steps), self.scores.put)

    async def join(self, name: str) -> MemoryDealer[PolicyReply, PolicyUpdate]:
        dealer = self.link.dealer(name)
        await dealer.send(AllocatorHello() if name == "allocator-0" else GeneratorHello(replica=0))
        return dealer


@asynccontextmanager
async def _served(folder: Path, every_steps: int = 2) -> AsyncIterator[Stand]:
    stand = Stand(folder, every_steps)
    serving = asyncio.create_task(stand.server.serve())
    try:
        async with asyncio.timeout(10):
            yield stand
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_every_version_reaches_everyone_in_order_and_says_if_it_is_the_last(tmp_path: Path):
    async with _served(tmp_path) as stand:
        peers = [await stand.join("generator-0"), await stand.join("allocator-0")]
        assert [(await peer.recv()).version for peer in peers] == [0, 0]
        for version in (1, 2, 3):
            await stand.server.publish(version, last=version == 3)
        for peer in peers:
            updates = [await peer.recv() for _ in range(3)]
            assert [(u.version, u.last) for u in updates] == [(1, False), (2, False), (3, True)]
            assert updates[2].weights.endswith("v000003.safetensors")


async def test_a_late_joiner_learns_the_version_that_is_evaluated_before_the_latest(tmp_path: Path):
    async with _served(tmp_path) as stand:
        for version in (1, 2, 3):
            await stand.server.publish(version)
        peer = await stand.join("generator-0")
        assert [(await peer.recv()).version for _ in range(2)] == [2, 3]
        await stand.server.publish(4)
        late = await stand.join("generator-1")
        # The evaluation of 2 may go on. The latest is evaluated itself: once is enough.
        assert [(await late.recv()).version for _ in range(2)] == [2, 4]
        await stand.server.publish(5)
        assert [(await p.recv()).version for p in (peer, peer, late)] == [4, 5, 5]


def _versions_in(folder: Path) -> list[int]:
    return sorted(int(path.stem[1:]) for path in folder.iterdir())


async def test_a_replica_that_starts_anew_is_told_of_what_is_left_and_keeps_it(tmp_path: Path):
    async with _served(tmp_path) as stand:
        peer = await stand.join("generator-0")
        assert (await peer.recv()).version == 0
        for version in range(1, 5):
            (tmp_path / f"v{version:06d}.safetensors").touch()
            await stand.server.publish(version)
            assert (await peer.recv()).version == version
        await peer.send(PolicyApplied(replica=0, version=3, update_ms=1.0))
        await peer.send(PolicyScored(version=3, reward=0.0, response_length=1.0))
        await stand.scores.get()  # by now the confirmation has been dealt with: 1 and 2 are removed
        assert _versions_in(tmp_path) == [3, 4]
        stand.server.lost(0, 0)
        (tmp_path / "v000005.safetensors").touch()
        await stand.server.publish(5)
        again = await stand.join("generator-0")
        assert [(await again.recv()).version for _ in range(2)] == [4, 5]  # 2 was evaluated too, and is gone


async def test_scores_are_passed_on(tmp_path: Path):
    async with _served(tmp_path) as stand:
        peer = await stand.join("allocator-0")
        await peer.send(PolicyScored(version=2, reward=0.5, response_length=8.0))
        score = await stand.scores.get()
        assert (score.version, score.reward, score.response_length) == (2, 0.5, 8.0)


async def test_a_confirmation_of_what_was_never_published_is_an_error(tmp_path: Path):
    stand = Stand(tmp_path, 0)
    await stand.link.dealer("generator-0").send(PolicyApplied(replica=0, version=1, update_ms=1.0))
    with pytest.raises(ProtocolError, match="confirmed version 1, the latest is 0"):
        await asyncio.wait_for(stand.server.serve(), 10)
