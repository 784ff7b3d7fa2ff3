"""Weights that are fetched over the link on which a generator joined; who has no key gets nothing."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from darts_async.errors import LinkBroken, ProtocolError, RunFailed
from darts_async.messages import PolicyUpdate
from darts_async.runtime.far_weights import FarWeights
from darts_async.runtime.join_link import (
    PART_BYTES,
    AskWeights,
    JoinClient,
    JoinHub,
    Standing,
    StillThere,
    WeightsGone,
    WeightsPart,
)
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import FarWeightsPlace


def weights(num_bytes: int) -> bytes:
    """A safetensors file with one tensor of so many bytes."""
    header = msgspec.json.encode({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}})
    return struct.pack("<Q", len(header)) + header + os.urandom(num_bytes)


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


class Published:
    """The launcher's end, with versions in memory."""

    def __init__(self, hub: JoinHub) -> None:
        self.hub = hub
        self.files: dict[int, bytes] = {}
        self.num_asked = 0
        self.num_published = 0
        self.publish_again_at, self.again = -1, b""

    async def serve(self) -> None:
        while True:
            peer, request = await self.hub.link.recv()
            assert isinstance(request, AskWeights)
            self.num_asked += 1
            content, stamp = self.files.get(request.version, b""), str(self.num_published)
            if self.num_asked == self.publish_again_at:
                self.files[request.version], self.num_published = self.again, self.num_published + 1
            data = content[request.offset : request.offset + PART_BYTES]
            gone = WeightsGone(version=request.version)
            part = (
                WeightsPart(version=request.version, offset=request.offset, total=len(content), stamp=stamp, data=data)
                if data
                else gone
            )
            await self.hub.answer(peer, part)


@asynccontextmanager
async def published(folder: Path) -> AsyncIterator[tuple[Published, str, Path]]:
    keys = RunKeys.create(folder / "keys", join=True)
    hub = JoinHub("tcp://127.0.0.1:*", keys)
    stand = Published(hub)
    serving = asyncio.create_task(stand.serve())
    try:
        yield stand, hub.link.endpoint, keys.folder / "join"
    finally:
        serving.cancel()
        await hub.close()


def fetcher(endpoint: str, keys: Path, folder: Path, max_bytes: int = 1 << 30) -> FarWeights:
    folder.mkdir(exist_ok=True)
    client = JoinClient(endpoint, "weights-1", keys)
    return FarWeights(FarWeightsPlace(endpoint, str(folder), max_bytes), client, 10.0)


def update(version: int) -> PolicyUpdate:
    return PolicyUpdate(version=version, weights=f"/nowhere/v{version}" if version else "")


async def test_a_version_arrives_whole_and_earlier_ones_go(tmp_path: Path):
    async with published(tmp_path) as (stand, endpoint, keys):
        far = fetcher(endpoint, keys, tmp_path / "here")
        stand.files = {1: weights(100), 2: weights(2 * PART_BYTES + 17), 3: weights(5)}
        assert await far.weights_of(update(0)) == ""
        for version in (1, 2, 3):
            assert content_of(await far.weights_of(update(version))) == stand.files[version]
            kept = sorted(p.name for p in (tmp_path / "here").iterdir())
            assert kept == [f"v{v:06d}.safetensors" for v in range(max(1, version - 1), version + 1)]
        assert stand.num_asked == 1 + 3 + 1
        await far.close()


async def test_a_version_that_is_published_again_meanwhile_is_not_mixed(tmp_path: Path):
    async with published(tmp_path) as (stand, endpoint, keys):
        far = fetcher(endpoint, keys, tmp_path / "here")
        stand.files[1], stand.again = weights(2 * PART_BYTES), weights(2 * PART_BYTES)
        stand.publish_again_at = 2
        assert content_of(await far.weights_of(update(1))) == stand.again
        assert stand.num_asked == 3 + 3
        await far.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"version 7 of the policy is not published \(any more\)"),
        (b"not a model" * 9, "is not a safetensors file"),
        (weights(1000)[:-1], "cut off"),
        (weights(20_000), "this model has at most 10000"),
    ],
)
async def test_what_is_no_version_of_this_model_is_never_handed_out(tmp_path: Path, content: bytes, words: str):
    async with published(tmp_path) as (stand, endpoint, keys):
        far = fetcher(endpoint, keys, tmp_path / "here", max_bytes=10_000)
        stand.files[7] = content
        with pytest.raises(ProtocolError, match=words):
            await far.weights_of(update(7))
        assert list((tmp_path / "here").glob("v*")) == []
        stand.files[8] = weights(8)
        assert content_of(await far.weights_of(update(8))) == stand.files[8]
        assert len(list((tmp_path / "here").iterdir())) == 1
        await far.close()


async def test_whoever_has_other_keys_is_not_answered(tmp_path: Path):
    async with published(tmp_path) as (stand, endpoint, keys):
        stand.files[1] = weights(8)
        for name in ("other", "role"):
            (tmp_path / name).mkdir()
        stranger = RunKeys.create(tmp_path / "other" / "keys", join=True).folder / "join"
        (stranger / "server.public").write_bytes((keys / "server.public").read_bytes())
        # Nor do the run's own generators belong here: theirs is another key.
        for who in (stranger, keys.parent):
            client = JoinClient(endpoint, "weights-1", who)
            with pytest.raises(LinkBroken, match=r"does not answer within 0\.5 s"):
                await client.fetch(1, 0, 0.5)
            await client.close()
        assert stand.num_asked == 0
        client = JoinClient(endpoint, "weights-1", keys)
        assert (await client.fetch(1, 0, 10.0)) is not None
        await client.close()


async def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(tmp_path: Path):
    keys = RunKeys.create(tmp_path / "keys", join=True)
    hub = JoinHub("tcp://127.0.0.1:*", keys)
    client = JoinClient(hub.link.endpoint, "joiner-1", keys.folder / "join")
    asking = asyncio.create_task(client.ask(StillThere(rank=1, incarnation=0), 1.0))
    peer, _ = await hub.link.recv()
    with pytest.raises(LinkBroken):
        await asking
    asking = asyncio.create_task(client.ask(StillThere(rank=1, incarnation=1), 10.0))
    await hub.link.recv()
    await hub.answer(peer, Standing(known=False, state="running"))
    await hub.answer(peer, Standing(known=True, state="running"))
    answer = await asking
    assert isinstance(answer, Standing) and answer.known
    await client.close()
    await hub.close()


async def test_keys_that_others_can_read_are_refused(tmp_path: Path):
    keys = RunKeys.create(tmp_path / "keys", join=True).folder / "join"
    (keys / "generator.secret").chmod(0o644)
    with pytest.raises(RunFailed, match="readable by nobody else"):
        JoinClient("tcp://127.0.0.1:9", "joiner-1", keys)


def test_a_run_that_nobody_may_join_has_no_key_for_it(tmp_path: Path):
    keys = RunKeys.create(tmp_path / "keys")
    assert not (keys.folder / "join").exists() and keys.joiners() == frozenset()
    open_run = RunKeys.create(tmp_path / "keys", join=True)
    assert sorted(path.name for path in (open_run.folder / "join").iterdir()) == [
        "generator.public",
        "generator.secret",
        "server.public",
    ]
    (joiner,) = open_run.joiners()
    allowed = open_run.allowed(("rollouts", "plans", "control", "groups", "policy"))
    assert {link for link, admitted in allowed.items() if joiner in admitted} == {"rollouts", "control", "policy"}
    assert {path.stat().st_mode & 0o777 for path in (open_run.folder / "join").iterdir()} == {0o600}
    assert (open_run.folder / "join").stat().st_mode & 0o777 == 0o700
