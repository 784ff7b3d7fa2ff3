"""The same candidates on different engines: speed, slots, late starts and delayed messages never change what is kept.

A simulation in time: every candidate is on one of several engines, each with its own speed, number of slots and delay
of messages; cancels reach it late. The selector sees what arrives, in the order in which it arrives.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.effects import Cancel, Effects
from darts_async.algorithms.ledger_records import CandidateEnded
from darts_async.algorithms.selection import RULES, survivor_draw
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import (
    LEDGER_STATES,
    GroupOutcome,
    GroupPlan,
    Progress,
    ReplaceCandidate,
    RolloutEnded,
    StepDone,
    Trajectory,
    VersionSpan,
    candidate_id,
    index_of,
)

CAP = 24
GROUP = 3
DRAW = 11


@dataclass(frozen=True)
class Engine:
    speed: float
    """Seconds a token."""
    slots: int
    delay_s: float
    interval: int
    """Tokens between two reports."""


@dataclass
class Simulation:
    """One group on some engines. Lengths of replacements are those of the candidates they follow."""

    rule: str
    size: int
    longest: int
    lengths: list[int]
    engines: list[Engine]
    failing: frozenset[int] = frozenset()
    """Indices (before any replacement) that fail half way, or, with length 1, never start."""
    capped: bool = False
    """Whether CAP tokens mean that the response ran into the cap."""
    zero_variance: str = "keep"
    now_s: float = 0.0
    kept: tuple[int, ...] | None = None
    outcomes: list[str] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)

    def run(self) -> dict[str, float]:
        """Play until nothing happens any more; return the summary of the books."""
        self.selector = Selector(
            planner=StepPlanner(1, 1), run_seed=0, max_response_tokens=CAP, zero_variance=self.zero_variance
        )
        self.queue: list[tuple[float, int, str, int, int]] = []
        self.waiting: list[list[int]] = [[] for _ in self.engines]
        self.running: dict[int, int] = {}
        """Candidate's index to its engine."""
        self.order = 0
        plan = GroupPlan(
            group_id=GROUP,
            draw=DRAW,
            prompt_id="p",
            rule=self.rule,
            group_size=self.size,
            keep_longest=self.longest,
            candidate_ids=tuple(candidate_id(GROUP, i) for i in range(len(self.lengths))),
            dispatch_version=0,
            prompt_tokens=np.zeros(1, np.int32),
        )
        self.selector.on_plan("allocator-0", plan)
        for index in range(len(self.lengths)):
            self.enqueue(index)
        self.carry_out()
        while self.queue:
            self.now_s, _, kind, index, tokens = heapq.heappop(self.queue)
            getattr(self, kind)(index, tokens)
            self.carry_out()
        summary = self.selector.close()
        self.carry_out()
        return summary

    def at(self, delay_s: float, kind: str, index: int, tokens: int = 0) -> None:
        self.order += 1
        heapq.heappush(self.queue, (self.now_s + delay_s, self.order, kind, index, tokens))

    def enqueue(self, index: int) -> None:
        engine = index % len(self.engines)
        self.waiting[engine].append(index)
        self.admit(engine)

    def admit(self, engine: int) -> None:
        while self.waiting[engine] and list(self.running.values()).count(engine) < self.engines[engine].slots:
            index = self.waiting[engine].pop(0)
            self.running[index] = engine
            self.at(self.engines[engine].speed, "decode", index, 1)

    def leave(self, index: int) -> Engine:
        engine = self.running.pop(index)
        self.admit(engine)
        return self.engines[engine]

    def decode(self, index: int, tokens: int) -> None:
        if index not in self.running:
            return
        engine = self.engines[self.running[index]]
        length = self.lengths[index % len(self.lengths)]
        if index in self.failing and 2 * tokens >= length:
            self.at(self.leave(index).delay_s, "failed", index, tokens)
        elif tokens >= length:
            self.at(self.leave(index).delay_s, "finished", index, length)
        else:
            if tokens % engine.interval == 0:
                self.at(engine.delay_s, "progress", index, tokens)
            self.at(engine.speed, "decode", index, tokens + 1)

    def abort(self, index: int, _: int) -> None:
        for engine, waiting in enumerate(self.waiting):
            if index in waiting:
                waiting.remove(index)
                self.at(self.engines[engine].delay_s, "cancelled", index, 0)
        if index in self.running:
            self.at(self.leave(index).delay_s, "cancelled", index, 1)

    def progress(self, index: int, tokens: int) -> None:
        ids, counts = np.array([candidate_id(GROUP, index)], np.int64), np.array([tokens], np.int32)
        self.selector.on_progress(Progress(replica=0, candidate_ids=ids, num_tokens=counts))

    def finished(self, index: int, length: int) -> None:
        message = Trajectory(
            candidate_id=candidate_id(GROUP, index),
            replica=0,
            finish_reason="length" if self.capped and length == CAP else "stop",
            response_tokens=np.zeros(length, np.int32),
            behaviour_logprobs=np.zeros(length, np.float32),
            version_spans=(VersionSpan(0, 0),),
        )
        self.selector.on_trajectory(message)

    def failed(self, index: int, tokens: int) -> None:
        self.ended(index, tokens, "failed")

    def cancelled(self, index: int, tokens: int) -> None:
        self.ended(index, tokens, "cancelled")

    def ended(self, index: int, tokens: int, reason: str) -> None:
        candidate = candidate_id(GROUP, index)
        message = RolloutEnded(candidate_id=candidate, replica=0, reason=reason, num_tokens=tokens)  # type: ignore[arg-type]
        self.selector.on_ended(message)

    def scored(self, index: int, _: int) -> None:
        self.selector.on_reward(candidate_id(GROUP, index), float(self.lengths[index % len(self.lengths)] % 2))

    def carry_out(self) -> None:
        effects = self.selector.take_effects() or Effects()
        for wanted in effects.scores:
            self.at(0.7, "scored", index_of(wanted.candidate_id))
        for cancel in effects.cancels:
            assert isinstance(cancel, Cancel)
            for candidate in cancel.candidate_ids:
                self.at(self.engines[index_of(candidate) % len(self.engines)].delay_s, "abort", index_of(candidate))
        for _, reply in effects.replies:
            if isinstance(reply, ReplaceCandidate):
                self.enqueue(index_of(reply.candidate_id))
            elif isinstance(reply, GroupOutcome):
                self.outcomes.append(reply.outcome)
        for group in effects.groups:
            self.kept = tuple(index_of(candidate) for candidate in group.candidate_ids)
            self.at(0.0, "trained", 0)
        self.ends.update(r.candidate_id for r in effects.records if isinstance(r, CandidateEnded))

    def trained(self, *_: int) -> None:
        self.selector.on_step_done(StepDone(version=1, group_ids=(GROUP,)))


engines = st.builds(
    Engine,
    speed=st.floats(0.1, 10),
    slots=st.integers(1, 6),
    delay_s=st.floats(0, 30),
    interval=st.integers(1, 8),
)
sizes = st.integers(2, 4)


def by_definition(rule: str, size: int, longest: int, lengths: list[int]) -> tuple[int, ...]:
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    short = order[:size] if rule == "shortest" else order[: size - longest]
    rest = [i for i in order if i not in short]
    if rule == "survivor":
        rest.sort(key=lambda i: survivor_draw(0, candidate_id(DRAW, i)))
    elif rule == "dual_end":
        rest.reverse()
    return tuple(sorted([*short, *rest[: size - len(short)]]))


@given(
    st.sampled_from(["shortest", "dual_end", "survivor"]),
    sizes.flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n - 1), st.lists(st.integers(1, CAP), min_size=n, max_size=9))
    ),
    st.lists(engines, min_size=1, max_size=3),
)
def test_what_is_kept_depends_on_the_lengths_alone(
    rule: str, group: tuple[int, int, list[int]], on: list[Engine]
) -> None:
    size, longest, lengths = group
    simulation = Simulation(rule, size, longest, lengths, on)
    summary = simulation.run()
    assert simulation.kept == by_definition(rule, size, longest, lengths)
    assert simulation.outcomes == ["trained"]
    assert summary["rollouts/trained"] == size
    assert summary["rollouts/cancelled_shutdown"] == 0


@given(
    st.sampled_from(sorted(RULES)),
    sizes.flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n - 1), st.lists(st.integers(1, CAP), min_size=n, max_size=9))
    ),
    st.lists(engines, min_size=1, max_size=3),
    st.frozensets(st.integers(0, 12)),
    st.sampled_from(["keep", "drop", "rescue"]),
)
def test_no_rule_hangs_and_every_candidate_ends_once_when_some_fail_are_capped_or_never_start(
    rule: str, group: tuple[int, int, list[int]], on: list[Engine], failing: frozenset[int], zero_variance: str
) -> None:
    size, longest, lengths = group
    simulation = Simulation(rule, size, longest, lengths, on, failing, capped=True, zero_variance=zero_variance)
    summary = simulation.run()
    assert len(simulation.outcomes) == 1
    assert (simulation.outcomes == ["trained"]) == (simulation.kept is not None)
    # The run was not cut short: everything ended by a decision.
    assert summary["rollouts/cancelled_shutdown"] == 0
    assert summary["rollouts/generated"] == sum(summary[f"rollouts/{state}"] for state in LEDGER_STATES)
    assert set(simulation.ends.values()) == {1}
    assert len(simulation.ends) == summary["rollouts/generated"]
