"""Generators from elsewhere, as the launcher keeps their books: who is in, as what, and who hears of a loss."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async import __version__
from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.launcher.joiners import Joiners
from darts_async.messages import (
    SCHEMA_VERSION,
    Finished,
    Heartbeat,
    Ready,
    RoleLost,
    RunComplete,
    StepMetrics,
    Warn,
)
from darts_async.runtime.join_link import (
    PART_BYTES,
    AskJoin,
    AskWeights,
    JoinClient,
    Joined,
    JoinHub,
    JoinRefused,
    Leave,
    Standing,
    StillThere,
    WeightsGone,
    WeightsPart,
)
from darts_async.runtime.run_keys import RunKeys


@dataclasses.dataclass(frozen=True)
class FarPaths(RunPaths):
    @property
    def weights(self) -> Path:
        return self.root / "weights"


def wish(**changes: Any) -> AskJoin:
    given = {"schema_version": SCHEMA_VERSION, "software": __version__, "host": "far", "pid": 7, "rank": None}
    return AskJoin(**(given | changes))


class Stand:
    """A launcher that is open to two generators beside its own two, and one who asks."""

    def __init__(self, folder: Path, silence_s: float) -> None:
        values = {"generator.replicas": "2", "launch.join": "2", "launch.bind": "tcp://127.0.0.1:20000"}
        values |= {"launch.silence_s": str(silence_s), "run.name": "r", "generator.engine": "sim"}
        self.config = load_config(None, list(values.items()))
        paths = FarPaths(folder)
        paths.weights.mkdir()
        self.weights = paths.weights
        self.lost: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self.news = asyncio.Event()
        keys = RunKeys.create(folder / "keys", join=True)
        self.hub = JoinHub("tcp://127.0.0.1:*", keys)
        self.joiners = Joiners(
            self.config, paths, self.hub, lost=self._lose, changed=self.notes.append, num_losses=lambda: len(self.lost)
        )
        self.client = JoinClient(self.hub.link.endpoint, "joiner-1", keys.folder / "join")

    async def _lose(self, loss: RoleLost) -> None:
        assert loss.role == "generator" and f"generator-{loss.rank}" not in self.joiners.roles
        self.lost.append((loss.rank, loss.incarnation))
        self.news.set()

    async def ask(self, request: Any) -> Any:
        return await self.client.ask(request, 10.0)

    async def join(self, rank: int | None = None) -> tuple[int, int] | None:
        answer = await self.ask(wish(rank=rank))
        return (answer.rank, answer.incarnation) if isinstance(answer, Joined) else None


@asynccontextmanager
async def standing(folder: Path, silence_s: float = 60.0) -> AsyncIterator[Stand]:
    stand = Stand(folder, silence_s)
    serving = asyncio.create_task(stand.joiners.serve())
    try:
        yield stand
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await stand.client.close()
        await stand.joiners.close()


async def test_ranks_beyond_the_runs_own_and_a_new_incarnation_each_time(tmp_path: Path):
    async with standing(tmp_path) as stand:
        assert [await stand.join(), await stand.join()] == [(2, 0), (3, 0)]
        refused = await stand.ask(wish())
        assert isinstance(refused, JoinRefused) and "launch.join = 2" in refused.reason
        left = await stand.ask(Leave(rank=3, incarnation=0, reason="tired"))
        assert not left.known and stand.lost == [(3, 0)]
        await stand.ask(Leave(rank=3, incarnation=0, reason="tired"))
        assert stand.lost == [(3, 0)]  # once
        assert (await stand.join(rank=3)) == (3, 1)
        assert not (await stand.ask(StillThere(rank=3, incarnation=0))).known
        assert (await stand.ask(StillThere(rank=3, incarnation=1))).known
        assert "generator-3 joins again (start 2) from far" in stand.notes
        await stand.ask(Leave(rank=2, incarnation=5, reason="never was"))
        assert stand.lost == [(3, 0)] and set(stand.joiners.roles) == {"generator-2", "generator-3"}


async def test_what_it_is_told_is_the_config_and_nothing_it_could_not_check(tmp_path: Path):
    async with standing(tmp_path) as stand:
        answer = await stand.ask(wish())
        copy = tmp_path / "copy.toml"
        copy.write_text(answer.config)
        assert load_config(str(copy)) == stand.config
        assert (Path(answer.weights_folder) / "join-mark").read_text() == answer.weights_mark
        for other in (wish(schema_version=SCHEMA_VERSION - 1), wish(software="0.0.1")):
            refused = await stand.ask(other)
            assert isinstance(refused, JoinRefused) and "install the same" in refused.reason
        stand.joiners.state = "ending"
        refused = await stand.ask(wish())
        assert isinstance(refused, JoinRefused) and "ending" in refused.reason


async def test_who_is_silent_is_lost_and_whoever_started_it_is_told(tmp_path: Path):
    async with standing(tmp_path, silence_s=0.6) as stand:
        assert await stand.join() == (2, 0)
        role = stand.joiners.roles["generator-2"]
        role.ready = True  # from here on it speaks for itself
        assert (await stand.ask(StillThere(rank=2, incarnation=0))).known
        await asyncio.wait_for(stand.news.wait(), 20)
        assert stand.lost == [(2, 0)] and role.gone
        answer = await stand.ask(StillThere(rank=2, incarnation=0))
        assert isinstance(answer, Standing) and not answer.known
        assert stand.notes[-1] == "generator-2 is lost: no sign of life for launch.silence_s = 0.6 s"


async def test_it_speaks_for_itself_alone(tmp_path: Path):
    async with standing(tmp_path) as stand:
        await stand.join()
        role = stand.joiners.roles["generator-2"]
        gauges: dict[str, float] = {}
        assert stand.joiners.takes(role, Heartbeat(role="generator", rank=2, state="x", gauges=gauges))
        assert stand.joiners.takes(role, Warn(role="generator", rank=2, text="x"))
        for other in (
            RunComplete(),
            StepMetrics(step=1, values=gauges),
            Finished(role="selector", rank=0, summary=gauges),
            Heartbeat(role="generator", rank=0, state="x", gauges=gauges),
            Ready(role="learner", rank=0, pid=1, schema_version=SCHEMA_VERSION),
        ):
            assert not stand.joiners.takes(role, other)


async def test_parts_of_a_version(tmp_path: Path):
    async with standing(tmp_path) as stand:
        content = bytes(range(256)) * (PART_BYTES // 256) + b"tail"
        (stand.weights / "v000003.safetensors").write_bytes(content)
        first = await stand.ask(AskWeights(version=3, offset=0))
        second = await stand.ask(AskWeights(version=3, offset=PART_BYTES))
        assert isinstance(first, WeightsPart) and first.data + second.data == content and second.total == len(content)
        for version, offset in ((3, len(content)), (4, 0), (3, 2**63 - 1), (2**62, 0)):
            assert isinstance(await stand.ask(AskWeights(version=version, offset=offset)), WeightsGone)


@settings(max_examples=25, deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from("jl"), st.integers(0, 5), st.integers(0, 2)), max_size=25))
def test_a_rank_has_one_start_at_a_time_and_each_is_lost_once(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int, int]]
):
    async def play() -> None:
        async with standing(tmp_path_factory.mktemp("joiners")) as stand:
            present: dict[int, int] = {}
            begun: list[tuple[int, int]] = []
            for move, rank, incarnation in moves:
                if move == "j":
                    got = await stand.join(rank=rank)
                    assert (got is None) == (len(present) == 2)
                    if got is not None:
                        assert got[0] in {2, 3} and got[0] not in present
                        assert got[1] == sum(r == got[0] for r, _ in begun)
                        assert rank not in {2, 3} - present.keys() or got[0] == rank
                        present[got[0]] = got[1]
                        begun.append(got)
                else:
                    await stand.ask(Leave(rank=rank, incarnation=incarnation, reason="x"))
                    if present.get(rank) == incarnation:
                        del present[rank]
                assert {r.rank: r.incarnation for r in stand.joiners.roles.values()} == present
            assert sorted(stand.lost + list(present.items())) == sorted(begun)

    asyncio.run(play())
