"""What a selector makes of the ledger of another one: by hand."""

from __future__ import annotations

from darts_async.algorithms.effects import Drop
from darts_async.algorithms.ledger_records import (
    CandidateEnded,
    CandidateReplaced,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    KeptCandidate,
    LedgerRecord,
    RunOpened,
    StepTrained,
)
from darts_async.algorithms.rounds import Rounds
from darts_async.algorithms.run_draws import RunDraws
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.selector_recovery import SelectorRecovery
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import (
    ChunksDropped,
    LearnerState,
    ObservedLength,
    StateTaken,
    StepDone,
    TrainedStep,
    candidate_id,
)


def _planned(group_id: int) -> GroupPlanned:
    return GroupPlanned(
        group_id=group_id,
        draw=group_id,
        prompt_id=f"p{group_id}",
        rule="shortest",
        group_size=2,
        keep_longest=0,
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(3)),
        dispatch_version=0,
    )


def _ended(group_id: int, index: int, state: str, tokens: int = 5, reward: float | None = None) -> CandidateEnded:
    return CandidateEnded(candidate_id=candidate_id(group_id, index), state=state, tokens=tokens, reward=reward)  # type: ignore[arg-type]


def _released(group_id: int) -> GroupReleased:
    kept = tuple(KeptCandidate(candidate_id(group_id, index), 4 + index, 0.5) for index in range(2))
    lengths = (ObservedLength(4, censored=False), ObservedLength(5, censored=False), ObservedLength(5, censored=True))
    return GroupReleased(group_id=group_id, step=0, kept=kept, lengths=lengths)


def _anew(*records: LedgerRecord, stream_tokens: bool = False) -> Selector:
    recovery = SelectorRecovery(max_response_tokens=9, run_seed=0, draws=RunDraws(Rounds(1), 1))
    recovery.feed(RunOpened(run="r", seed=0, rule="shortest"))
    for record in records:
        recovery.feed(record)
    selector = Selector(planner=StepPlanner(1, 2), run_seed=0, max_response_tokens=9, stream_tokens=stream_tokens)
    selector.take_up(recovery)
    return selector


def _ends(selector: Selector) -> list[tuple[int, str, int, bool]]:
    effects = selector.take_effects()
    assert effects is not None
    ends = [record for record in effects.records if isinstance(record, CandidateEnded)]
    return [(end.candidate_id, end.state, end.tokens, end.estimated) for end in ends]


def test_what_was_under_way_failed_and_what_was_cancelled_stays_so() -> None:
    selector = _anew(
        _planned(0),
        _released(0),  # its last candidate was cancelled, and has not reported
        _planned(1),
        CandidateReplaced(failed_id=candidate_id(1, 0), candidate_id=candidate_id(1, 3)),
        _planned(2),
        _ended(2, 0, "failed"),
        GroupEnded(group_id=2, outcome="rejected", reason="1 of 2 candidates left"),
    )
    lost = [(candidate_id(1, index), "failed", 0, True) for index in range(4)]
    cancelled = [(candidate_id(2, index), "cancelled_tail", 0, True) for index in (1, 2)]
    assert _ends(selector) == [(candidate_id(0, 2), "cancelled_tail", 0, True), *lost, *cancelled]
    assert selector.num_live == 1 and selector.fence == 3
    selector.on_learner_state(LearnerState(epoch=1, version=0, received=(0,)))
    selector.on_step_done(StepDone(version=1, group_ids=(0,)))
    assert _ends(selector) == [(candidate_id(0, 0), "trained", 4, False), (candidate_id(0, 1), "trained", 5, False)]
    assert selector._groups == {} and selector.close()["tokens/generated"] == 14


def test_an_end_that_was_written_by_half_is_written_to_its_end() -> None:
    selector = _anew(_planned(0), _ended(0, 2, "rejected"), _released(0), _ended(0, 0, "trained", 4, 0.5))
    assert selector.take_effects() is not None
    selector.on_learner_state(LearnerState(epoch=1, version=1, steps=(TrainedStep(1, (0,)),)))
    effects = selector.take_effects()
    assert effects is not None
    end, group, step = effects.records
    assert isinstance(end, CandidateEnded) and end.candidate_id == candidate_id(0, 1)
    assert isinstance(group, GroupEnded) and (group.outcome, group.version) == ("trained", 1)
    assert isinstance(step, StepTrained) and step.group_ids == (0,)
    assert selector.close()["tokens/trained"] == 9


def test_the_learner_forgets_what_was_streamed_of_lost_groups() -> None:
    selector = _anew(_planned(0), _ended(0, 2, "rejected"), _released(0), _planned(1), stream_tokens=True)
    effects = selector.take_effects()
    assert effects is not None and effects.cancels == [Drop(2)]
    of_lost, rest = tuple(candidate_id(1, index) for index in range(3)), (candidate_id(0, 2),)
    assert [m.candidate_ids for m in effects.groups if isinstance(m, ChunksDropped)] == [rest, of_lost]
    selector.on_learner_state(LearnerState(epoch=1, version=0))
    effects = selector.take_effects()
    assert effects is not None
    answer, dropped = effects.groups
    assert isinstance(answer, StateTaken) and isinstance(dropped, ChunksDropped)
    assert dropped.candidate_ids == (candidate_id(0, 0), candidate_id(0, 1))
