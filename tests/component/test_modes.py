"""Whole runs in one process with the simulated engine: what each mode trains on, and that the books balance."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from actors.local import LocalRun
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import GroupEnded, GroupPlanned
from darts_async.algorithms.seeding import rollout_seed
from darts_async.algorithms.staleness import eta_of
from darts_async.config import Config, builtin_configs, load_config
from darts_async.config.paths import RunPaths
from darts_async.engines.sim_engine import SimEngine
from darts_async.engines.sim_response import sample_response
from darts_async.engines.token_sums import TokenSums
from darts_async.messages import LEDGER_STATES, Finished, Message, RolloutRequest, StepMetrics, TrainGroup, index_of
from darts_async.runtime.ledger_reader import LedgerReader

_DEADLINE_S = 40.0


@dataclass
class Stats:
    """What the learner reads of a finished step."""

    version: int
    skipped: bool = False
    grad_norm: float = 0.0
    lr: float = 0.0
    sums: TokenSums = field(default_factory=TokenSums)
    observed: dict[str, float] = field(default_factory=dict)


class Recorder:
    """A trainer that writes down what it is given; publishes empty files."""

    def __init__(self) -> None:
        self.version = 0
        self.steps: list[list[TrainGroup]] = []
        self.calls: list[int] = []
        """Groups per `accumulate`."""
        self._open: list[TrainGroup] = []

    def accumulate(self, groups: list[TrainGroup]) -> TokenSums:
        self.calls.append(len(groups))
        self._open += groups
        return TokenSums()

    def apply_step(self) -> Stats:
        self.steps.append(self._open)
        self._open = []
        self.version += 1
        return Stats(self.version)

    def abandon(self) -> None:
        pass

    def publish(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)

    def contents(self) -> list[dict[int, tuple[Any, ...]]]:
        """Per step: group id to everything of it that a gradient could depend on, in any order of arrival."""
        return [
            {
                group.group_id: (
                    group.prompt_id,
                    group.candidate_ids,
                    group.response_tokens.tobytes(),
                    group.behaviour_logprobs.tobytes(),
                    group.rewards.tobytes(),
                    group.baseline_rewards.tobytes(),
                    group.capped,
                )
                for group in step
            }
            for step in self.steps
        ]


@dataclass
class Result:
    trained: Recorder
    config: Config
    reports: list[Message]
    engines: list[SimEngine]

    @property
    def summary(self) -> dict[str, float]:
        """The selector's, with its ledger."""
        return self.of("selector")

    def of(self, role: str) -> dict[str, float]:
        (found,) = [m.summary for m in self.reports if isinstance(m, Finished) and m.role == role]
        return found

    def planned(self, group: TrainGroup, candidate: int) -> np.ndarray:
        """What the simulated engine answers for a candidate when nothing comes between."""
        attempt = int(index_of(candidate) >= self.config.group.size)  # a replacement
        request = RolloutRequest(
            candidate_id=candidate,
            prompt_tokens=group.prompt_tokens,
            seed=rollout_seed(self.config.run.seed, group.prompt_id, candidate, attempt),
            max_response_tokens=self.config.model.max_response_tokens,
            min_policy_version=0,
        )
        return sample_response(self.engines[0]._params, request).tokens

    def check_books(self) -> None:
        """Every candidate ended once, and the tokens are those that the engines made."""
        for what in ("rollouts", "tokens"):
            ended = sum(self.summary[f"{what}/{state}"] for state in LEDGER_STATES)
            assert ended == self.summary[f"{what}/generated"] > 0
        made = sum(m.summary["tokens"] for m in self.reports if isinstance(m, Finished) and m.role == "generator")
        assert made == self.summary["tokens/generated"]
        # A replacement that was asked for as the run ended was never dispatched: it has no report, and 0 tokens.
        assert self.summary["rollouts/tokens_estimated"] <= self.summary["rollouts/failed"]
        books = read_ledger(RunPaths.of(self.config).ledger).audit
        assert {f"rollouts/{s}": n for s, n in books.rollouts.items()}.items() <= self.summary.items()
        assert {f"tokens/{s}": n for s, n in books.tokens.items()}.items() <= self.summary.items()
        trained = sum(len(group.candidate_ids) for step in self.trained.steps for group in step)
        assert trained == self.summary["rollouts/trained"]
        assert all(engine.num_unfinished == 0 for engine in self.engines)


def play(tmp_path: Path, preset: str, *args: dict[str, Any], loop: Any = uvloop.new_event_loop, **keys: str) -> Result:
    """One run of a preset, without evaluation; `args`: of each simulated engine; keys: `section__key` overrides."""
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    overrides = {
        "run.dir": str(folder),
        "run.name": "r",
        "eval.prompts": "0",
        "run.steps": "5",
        "model.dtype": "float32",
    }
    overrides |= {"generator.engine": "sim", "generator.replicas": str(len(args)), "group.groups_per_step": "4"}
    overrides |= {name.replace("__", "."): value for name, value in keys.items()}
    config = load_config(preset, list(overrides.items()))
    engines = [SimEngine(_with_args(config, arguments), rank) for rank, arguments in enumerate(args)]
    trainer, reports = Recorder(), []

    async def go() -> None:
        run = LocalRun(config, reports.append)
        await asyncio.wait_for(run.run(engines=engines, trainer=trainer), _DEADLINE_S)

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(go())
    finally:
        shutil.rmtree(RunPaths.of(config).weights, ignore_errors=True)  # in shared memory, not under tmp_path
    assert len(trainer.steps) == config.run.steps
    assert RunPaths.of(config).ledger.is_dir()
    return Result(trainer, config, reports, engines)


def _with_args(config: Config, arguments: dict[str, Any]) -> Config:
    generator = config.generator.model_copy(update={"engine_args": {"mean_tokens": 30, "token_s": 0.0002} | arguments})
    return config.model_copy(update={"generator": generator})


FAST: dict[str, Any] = {}
SLOW: dict[str, Any] = {"token_s": 0.001}


@pytest.mark.parametrize(
    ("preset", "args"),
    [("grpo_sync", {}), ("grpo_sync", {"fail_share": 0.05}), ("quickstart", {}), ("darts_paper", {})],
)
def test_sync_and_stream_train_on_the_same_groups_whatever_the_speed(tmp_path: Path, preset: str, args: dict[str, Any]):
    sync = play(tmp_path, preset, FAST | args, pipeline__mode="sync")
    # Another mode, another number of engines of different speed, another event loop.
    stream = play(tmp_path, preset, SLOW | args, FAST | args, pipeline__mode="stream", loop=asyncio.new_event_loop)
    assert bool(args) == (sync.summary["rollouts/failed"] > 0)
    assert [len(step) for step in sync.trained.contents()] == [4] * 5
    assert sync.trained.contents() == stream.trained.contents()
    assert sync.trained.calls == [4] * 5  # nothing is computed before the whole batch is there
    assert len(stream.trained.calls) > 5
    for result in (sync, stream):
        result.check_books()
        values = [m.values for m in result.reports if isinstance(m, StepMetrics)]
        assert max(v.get("staleness/max", 0) for v in values) == 0


UNEVEN: dict[str, Any] = {"sigma": 1.0, "prompt_sigma": 1.0, "fail_share": 0.05}


@pytest.mark.parametrize("mode", ["sync", "stream"])
def test_deferred_prompts_come_back_in_long_rounds(tmp_path: Path, mode: str):
    result = play(tmp_path, "tail_batching", UNEVEN, SLOW | UNEVEN, pipeline__mode=mode, run__steps="12")
    result.check_books()
    allocator, ledger = result.of("allocator"), read_ledger(tmp_path)
    assert allocator["long_rounds"] >= 1
    deferred = [r.group_id for r in ledger.ends if r.outcome == "cancelled" and r.reason == "deferred"]
    assert len(deferred) >= 4 * allocator["long_rounds"]
    assert result.summary["rollouts/cancelled_tail"] > 0
    assert result.summary["rollouts/stale"] == 0
    # A deferred prompt is trained when it starts again, or it waits: none is lost. Its epoch is not over before.
    again = Counter(ledger.prompt_of[group] for group in deferred)
    starts = Counter(ledger.prompt_of.values())
    assert sum(starts[prompt] - 1 for prompt in again) == len(deferred) - allocator["prompts_deferred"]
    # In a long round there is nobody but those who were deferred, and nobody is deferred once more.
    firsts = {prompt: min(g for g in ledger.prompt_of if ledger.prompt_of[g] == prompt) for prompt in starts}
    steps = [[g.group_id for g in step] for step in result.trained.steps]
    long = [step for step in steps if all(firsts[ledger.prompt_of[g]] != g for g in step)]
    assert len(long) >= allocator["long_rounds"]  # by chance a step of another round has none but such, too
    assert all(len(step) == 4 for step in steps)


@dataclass
class LedgerOnDisk:
    prompt_of: dict[int, str]
    ends: list[GroupEnded]
    audit: LedgerAudit


def read_ledger(folder: Path) -> LedgerOnDisk:
    """The groups of the only run under this folder, its books audited."""
    prompts, ends = {}, []
    (ledger,) = {path.parent for path in folder.glob("**/000000.msgpack")}
    audit = LedgerAudit()
    for record in LedgerReader(ledger):
        audit.feed(record)
        if isinstance(record, GroupPlanned):
            prompts[record.group_id] = record.prompt_id
        elif isinstance(record, GroupEnded):
            ends.append(record)
    audit.finish(live=False)
    assert audit.violations == []
    return LedgerOnDisk(prompts, ends, audit)


@pytest.mark.parametrize("mode", ["one_step_off", "async"])
def test_a_partial_rollout_goes_on_under_the_next_version(tmp_path: Path, mode: str):
    result = play(tmp_path, "partial_rollout", UNEVEN, SLOW | UNEVEN, pipeline__mode=mode, run__steps="12")
    result.check_books()
    groups = [(version, group) for version, step in enumerate(result.trained.steps) for group in step]
    spans = [(v, s, n) for v, g in groups for s, n in zip(g.version_spans, g.lengths.tolist(), strict=True)]
    # Tokens keep the version that sampled them, and what is trained on is never too old.
    assert all(0 <= v - s[0].version <= 1 for v, s, _ in spans)
    assert any(len(s) == 2 for _, s, _ in spans)
    assert result.summary["rollouts/stale"] == 0
    assert sum(m.summary["parked"] for m in result.reports if isinstance(m, Finished) and m.role == "generator") > 0
    # The joined response is the one that would have been sampled without a pause.
    for _, group in groups:
        ends = np.cumsum(group.lengths)
        for candidate, tokens in zip(group.candidate_ids, np.split(group.response_tokens, ends[:-1]), strict=True):
            assert tokens.tolist() == result.planned(group, candidate).tolist()


def test_one_step_off_swaps_between_batches(tmp_path: Path):
    result = play(tmp_path, "one_step_off", FAST, SLOW, run__steps="8")
    result.check_books()
    groups = [(version, group) for version, step in enumerate(result.trained.steps) for group in step]
    assert all(len(spans) == 1 for _, group in groups for spans in group.version_spans)
    assert {version - group.oldest_version for version, group in groups} == {0, 1}


NO_RUN = {"base", "small_chat"}
"""No config of a run; one whose model does not ship with the package."""


@pytest.mark.parametrize("preset", sorted(p.stem for p in builtin_configs().glob("*.toml") if p.stem not in NO_RUN))
def test_every_preset_trains_and_balances_with_failures_and_uneven_engines(tmp_path: Path, preset: str):
    result = play(tmp_path, preset, UNEVEN, SLOW | UNEVEN, reward__workers="1", run__steps="4")
    result.check_books()
    assert [len(step) for step in result.trained.steps] == [4] * 4
    assert result.summary["rollouts/stale"] == 0
    for version, step in enumerate(result.trained.steps):
        assert all(0 <= version - group.oldest_version <= eta_of(result.config) for group in step)
