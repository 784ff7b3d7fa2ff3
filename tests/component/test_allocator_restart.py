"""Whole runs in one process whose allocator (or selector) is lost over and over: nothing is skipped or done twice."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop

from actors.local import LocalRun
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import EvaluationScored, GroupEnded, GroupPlanned, LedgerRecord
from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.engines.token_sums import TokenSums
from darts_async.messages import EvalResult, Message, TrainGroup
from darts_async.runtime.ledger_reader import LedgerReader

_DEADLINE_S = 60.0
_ADAPTIVE = {
    "allocation.signal": "std",
    "allocation.budget": "11.3",
    "allocation.prune_fraction": "0.1",
    "selection.rule": "dual_end",
}


class _Stats:
    skipped, grad_norm, lr, sums = False, 0.0, 0.0, TokenSums()
    observed: ClassVar[dict[str, float]] = {}

    def __init__(self, version: int) -> None:
        self.version = version


class _Trainer:
    """Writes down what it is given, and says so."""

    def __init__(self) -> None:
        self.version = 0
        self.steps: list[list[TrainGroup]] = []
        self.loop = asyncio.get_running_loop()
        self.news = asyncio.Event()
        self.num_groups = 0
        self._open: list[TrainGroup] = []

    def accumulate(self, groups: list[TrainGroup]) -> TokenSums:
        self._open += groups
        self.num_groups += len(groups)
        self.loop.call_soon_threadsafe(self.news.set)
        return TokenSums()

    def apply_step(self) -> _Stats:
        self.steps.append(self._open)
        self._open = []
        self.version += 1
        return _Stats(self.version)

    def abandon(self) -> None:
        pass

    def publish(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)

    save_recovery = save_checkpoint

    def contents(self) -> list[list[tuple[Any, ...]]]:
        """Per step, what a gradient could depend on, whatever the groups' numbers are."""
        return [
            sorted((g.prompt_id, g.response_tokens.tobytes(), g.rewards.tobytes(), len(g.candidate_ids)) for g in step)
            for step in self.steps
        ]


def _play(
    folder: Path, keys: dict[str, str], losses: dict[int, str]
) -> tuple[_Trainer, list[Message], list[LedgerRecord]]:
    """`losses`: number of groups that the learner has had, to who is lost then."""
    settings = {"run.dir": str(folder), "run.name": "r", "run.steps": "6", "model.dtype": "float32"}
    settings |= {"generator.engine": "sim", "generator.replicas": "2", "group.groups_per_step": "4"}
    settings |= {"eval.prompts": "4", "eval.every_steps": "2"}
    settings |= {"generator.engine_args.mean_tokens": "30", "generator.engine_args.token_s": "0.0003"}
    config = load_config(None, list((settings | keys).items()))
    reports: list[Message] = []

    async def go() -> _Trainer:
        trainer, run = _Trainer(), LocalRun(config, reports.append)
        playing = asyncio.create_task(run.run(trainer=trainer))
        try:
            async with asyncio.timeout(_DEADLINE_S):
                for due, who in sorted(losses.items()):
                    while trainer.num_groups < due:
                        trainer.news.clear()
                        await trainer.news.wait()
                    await run.lose(who)
                await playing
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
        return trainer

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            trainer = runner.run(go())
    finally:
        shutil.rmtree(RunPaths.of(config).weights, ignore_errors=True)
    audit, records = LedgerAudit(), []
    for record in LedgerReader(RunPaths.of(config).ledger):
        audit.feed(record)
        records.append(record)
    audit.finish(live=False)
    assert audit.violations == []
    return trainer, reports, records


def _scores(records: list[LedgerRecord]) -> list[tuple[str, int, float]]:
    return [(r.label, r.version, r.reward) for r in records if isinstance(r, EvaluationScored)]


@pytest.mark.parametrize("keys", [{}, _ADAPTIVE], ids=["fixed", "adaptive"])
def test_a_run_on_policy_trains_on_the_same_whoever_is_lost(tmp_path: Path, keys: dict[str, str]) -> None:
    keys = {"pipeline.mode": "stream"} | keys
    plain, told, books = _play(tmp_path / "plain", keys, {})
    losses = {1: "allocator-0", 6: "allocator-0", 9: "selector-0", 11: "allocator-0", 14: "allocator-0"}
    lost, again, records = _play(tmp_path / "lost", keys, losses)
    assert lost.contents() == plain.contents()
    assert _scores(records) == _scores(books)
    results = [{m for m in reports if isinstance(m, EvalResult)} for reports in (told, again)]
    keyed = [{(m.label, m.policy_version, m.reward) for m in some} for some in results]
    assert keyed[0] == keyed[1]


def test_off_policy_every_draw_is_trained_once_or_waits(tmp_path: Path) -> None:
    keys = {"pipeline.mode": "async", "pipeline.max_staleness": "2"}
    losses = {2: "allocator-0", 5: "generator-0", 6: "allocator-0", 11: "selector-0", 15: "allocator-0"}
    trainer, _, records = _play(tmp_path, keys, losses)
    assert [len(step) for step in trainer.steps] == [4] * 6
    draws = {r.group_id: r.draw for r in records if isinstance(r, GroupPlanned)}
    ended = [r for r in records if isinstance(r, GroupEnded)]
    trained = [draws[r.group_id] for r in ended if r.outcome == "trained"]
    assert len(trained) == len(set(trained)) == 24
    assert any(r.reason == "allocator_lost" for r in ended)
    assert set(range(max(trained))) <= {draws[r.group_id] for r in ended if not r.starts_again} | set(trained)
    assert [(label, version) for label, version, _ in _scores(records)] == [
        ("before", 0),
        ("during", 2),
        ("during", 4),
        ("after", 6),
    ]
