"""The selector after the learner's last step, and what it accepts of an evaluation."""

from __future__ import annotations

import numpy as np

from darts_async.algorithms.effects import Cancel, Effects
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import (
    LEDGER_STATES,
    GroupOutcome,
    GroupPlan,
    ObservedLength,
    PlanAccepted,
    Progress,
    Purpose,
    RolloutEnded,
    StepDone,
    Trajectory,
    VersionSpan,
    candidate_id,
)


class Bench:
    """A selector with groups of two candidates, one group a step, staleness up to 2."""

    def __init__(self) -> None:
        self.selector = Selector(planner=StepPlanner(1, 2, 9), run_seed=0, max_response_tokens=64)

    def plan(self, group: int, purpose: Purpose = "train", version: int = 0) -> Effects:
        ids = (candidate_id(group, 0), candidate_id(group, 1))
        plan = GroupPlan(
            group_id=group,
            prompt_id=f"p{group}",
            purpose=purpose,
            rule="all",
            group_size=2,
            keep_longest=0,
            candidate_ids=ids,
            dispatch_version=version,
            prompt_tokens=np.zeros(2, np.int32),
        )
        self.selector.on_plan("a", plan)
        return self.effects()

    def respond(self, group: int, index: int, tokens: int, *spans: VersionSpan) -> Effects:
        message = Trajectory(
            candidate_id=candidate_id(group, index),
            replica=3,
            finish_reason="stop",
            response_tokens=np.ones(tokens, np.int32),
            behaviour_logprobs=np.zeros(tokens, np.float32),
            version_spans=spans or (VersionSpan(0, 0),),
        )
        self.selector.on_trajectory(message)
        self.selector.on_reward(candidate_id(group, index), 1.0)
        return self.effects()

    def cancelled(self, group: int, index: int, tokens: int) -> Effects:
        ended = RolloutEnded(candidate_id=candidate_id(group, index), replica=3, reason="cancelled", num_tokens=tokens)
        self.selector.on_ended(ended)
        return self.effects()

    def effects(self) -> Effects:
        return self.selector.take_effects() or Effects()


def test_the_last_step_stops_what_decodes_and_decides_nothing_more() -> None:
    bench = Bench()
    for group in (0, 1, 2, 3):
        bench.plan(group)
    for index in (0, 1):
        bench.respond(0, index, 5)  # released and trained
        bench.respond(1, index, 6)  # released, never trained
    bench.respond(2, 0, 7)  # half of a group
    bench.plan(9, "eval", version=1)
    bench.selector.on_step_done(StepDone(version=1, group_ids=(0,), last=True))
    stopped = {c for cancel in bench.effects().cancels if isinstance(cancel, Cancel) for c in cancel.candidate_ids}
    assert stopped == {candidate_id(2, 1), candidate_id(3, 0), candidate_id(3, 1)}  # nothing of the evaluation

    # A response that was on its way counts its tokens and brings about nothing else.
    late = bench.respond(2, 1, 9)
    assert not late.groups and not late.replies and not late.scores
    news = Progress(replica=3, candidate_ids=np.array([candidate_id(3, 0)]), num_tokens=np.array([4], np.int32))
    bench.selector.on_progress(news)
    assert not bench.effects()
    for index, tokens in ((0, 11), (1, 12)):
        assert not bench.cancelled(3, index, tokens).replies
    assert bench.selector.num_unasked == 0

    # A plan that was on its way is accepted and ended at once: its requests will follow.
    after = bench.plan(4)
    assert [type(reply) for _, reply in after.replies] == [PlanAccepted]
    assert after.cancels == [Cancel(None, (candidate_id(4, 0), candidate_id(4, 1)))]
    for index in (0, 1):
        bench.cancelled(4, index, 0)

    # The evaluation goes on as if nothing had happened.
    for index in (0, 1):
        effects = bench.respond(9, index, 8, VersionSpan(1, 0))
    ((_, outcome),) = effects.replies
    assert isinstance(outcome, GroupOutcome) and outcome.outcome == "evaluated"

    summary = bench.selector.close()
    expected = {"trained": 10, "cancelled_shutdown": 12 + 16 + 23}
    assert {s: summary[f"tokens/{s}"] for s in LEDGER_STATES} == {s: expected.get(s, 0) for s in LEDGER_STATES}
    assert summary["rollouts/cancelled_shutdown"] == 8
    assert summary["tokens_saved_estimate"] == summary["rollouts/tokens_estimated"] == 0


def test_an_evaluation_counts_only_what_its_version_sampled() -> None:
    bench = Bench()
    bench.plan(0, "eval", version=4)
    bench.respond(0, 0, 8, VersionSpan(4, 0))
    effects = bench.respond(0, 1, 8, VersionSpan(4, 0), VersionSpan(5, 3))
    ((_, outcome),) = effects.replies
    assert isinstance(outcome, GroupOutcome)  # it ends all the same
    assert (outcome.outcome, outcome.rewards, outcome.lengths) == ("evaluated", (1.0,), (ObservedLength(8, False),))
    assert bench.selector.protocol_errors == 1
    assert "evaluation of version 4" in bench.selector.last_protocol_error
