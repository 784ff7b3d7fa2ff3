"""The allocator's pure parts: budgets that add up, credits that are never overdrawn, phases in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.allocation import FixedMean
from darts_async.algorithms.credits import CreditBook
from darts_async.algorithms.dispatch import Dispatcher, GroupJob, ReplacementJob
from darts_async.algorithms.evaluation import EvalSchedule, EvalScore
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.algorithms.seeding import rollout_seed, stable_hash
from darts_async.algorithms.staleness import Admission


def _dispatcher(*, steps: int = 2, evals: int = 2, budget: float = 3.0) -> Dispatcher:
    return Dispatcher(
        admission=Admission(groups_per_step=2, eta=1, steps=steps, in_flight_groups=4),
        order=PromptOrder(5, seed=1),
        allocation=FixedMean(budget),
        steps=steps,
        num_eval_prompts=evals,
        eval_samples=2,
    )


@given(mean=st.floats(1, 64), groups=st.integers(1, 300))
def test_fixed_mean_adds_up_and_stays_beside_the_mean(mean: float, groups: int):
    allocation = FixedMean(mean)
    numbers = [allocation.candidates(draw) for draw in range(groups)]
    assert abs(sum(numbers) - groups * mean) < 1 + 1e-6
    assert all(int(mean) <= number <= int(mean) + 1 for number in numbers)


def test_fixed_mean_by_hand():
    allocation = FixedMean(2.5)
    assert [allocation.candidates(draw) for draw in range(4)] == [2, 3, 2, 3]


def test_credits_are_cumulative_and_never_overdrawn():
    book = CreditBook()
    assert book.pick(1) is None
    book.grant("a", 4)
    book.grant("b", 6)
    assert book.pick(5) == "b"
    book.spend("b", 5)
    assert (book.free("b"), book.pick(2)) == (1, "a")
    book.grant("b", 6)  # a repeat changes nothing
    assert book.free("b") == 1
    with pytest.raises(ValueError, match="1 credits"):
        book.spend("b", 2)
    book.grant("b", 11)
    assert book.free("b") == 6


def test_ties_go_to_the_first_name():
    book = CreditBook()
    book.grant("generator-1", 4)
    book.grant("generator-0", 4)
    assert book.pick(4) == "generator-0"


def test_every_epoch_visits_every_prompt_once_and_resumes():
    order = PromptOrder(7, seed=3)
    visits = [order.prompt_of(order.next()) for _ in range(21)]
    assert [sorted(visits[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert visits[:7] != visits[7:14]
    resumed = PromptOrder(7, seed=3, cursor=10)
    assert [resumed.prompt_of(resumed.next()) for _ in range(11)] == visits[10:]


def test_hashes_are_stable_and_keep_types_apart():
    assert stable_hash("a", 1) == stable_hash("a", 1)
    assert len({stable_hash("12"), stable_hash(12), stable_hash("1", "2"), stable_hash("12", "")}) == 4
    assert rollout_seed(0, "p", 5) != rollout_seed(0, "p", 5, attempt=1)
    assert 0 <= rollout_seed(7, "p", 5) < 2**31


def test_phases_of_a_whole_run():
    dispatcher = _dispatcher()
    assert dispatcher.next_job() is None  # nobody has granted credits yet
    dispatcher.credits.grant("g", 100)
    before = [dispatcher.next_job(), dispatcher.next_job()]
    assert [job.purpose for job in before] == ["eval", "eval"]
    assert dispatcher.next_job() is None  # training starts when the evaluation is in
    assert dispatcher.evaluated(0, (1.0, 0.0), (4, 6)) is None
    score = dispatcher.evaluated(1, (1.0, 1.0), (2, 8))
    assert (score.reward, score.response_length, score.num_rollouts) == (0.75, 5.0, 4)
    for version in (1, 2):
        while (job := dispatcher.next_job()) is not None:
            assert job.purpose == "train"
            assert job.num_candidates == 3
        live = sorted(dispatcher.admission._decoding)[:2]
        for group in live:
            dispatcher.admission.completed(group)
            dispatcher.group_ended(group, trained=True)
        assert dispatcher.phase == "train"  # the version is not published yet
        dispatcher.published(version)
    assert dispatcher.phase == "after"
    after = [dispatcher.next_job(), dispatcher.next_job()]
    assert {job.policy_version for job in after} == {2}
    dispatcher.evaluated(after[0].group_id, (1.0,), (1,))
    assert dispatcher.evaluated(after[1].group_id, (), ()).num_rollouts == 1
    assert dispatcher.phase == "complete"
    assert dispatcher.next_job() is None


def test_group_waits_for_credits_for_all_of_its_candidates():
    dispatcher = _dispatcher(evals=0)
    dispatcher.credits.grant("g", 2)
    assert dispatcher.next_job() is None
    dispatcher.credits.grant("g", 3)
    job = dispatcher.next_job()
    assert isinstance(job, GroupJob)
    assert job.num_candidates == 3


def test_replacements_go_first_and_to_their_siblings():
    dispatcher = _dispatcher(evals=0)
    dispatcher.credits.grant("a", 3)
    first = dispatcher.next_job()
    dispatcher.credits.grant("b", 9)
    dispatcher.replace(first.group_id, 77)
    assert dispatcher.next_job() is None  # "a" has no credit; new groups do not overtake
    dispatcher.credits.grant("a", 4)
    assert dispatcher.next_job() == ReplacementJob(first.group_id, 77, "a")
    assert dispatcher.next_job().peer == "b"


def test_replacement_of_an_ended_group_is_dropped_without_spending():
    dispatcher = _dispatcher(evals=0)
    dispatcher.credits.grant("a", 4)
    first = dispatcher.next_job()
    dispatcher.replace(first.group_id, 77)
    dispatcher.group_ended(first.group_id, trained=False)
    assert dispatcher.next_job() is None
    assert dispatcher.credits.free("a") == 1


def _with_evaluations(*, steps: int = 6, every: int = 2, evals: int = 2, eta: int = 1) -> Dispatcher:
    return Dispatcher(
        admission=Admission(groups_per_step=1, eta=eta, steps=steps, in_flight_groups=8),
        order=PromptOrder(5, seed=1),
        allocation=FixedMean(3.0),
        steps=steps,
        num_eval_prompts=evals,
        eval_samples=2,
        schedule=EvalSchedule(every_steps=every, samples=2),
    )


def _jobs(dispatcher: Dispatcher) -> list:
    jobs = []
    while (job := dispatcher.next_job()) is not None:
        jobs.append(job)
    return jobs


def _train(dispatcher: Dispatcher, job: GroupJob, version: int, *, last: bool = False) -> None:
    dispatcher.admission.completed(job.group_id)
    dispatcher.group_ended(job.group_id, trained=True)
    dispatcher.published(version, last=last)


def _evaluate(dispatcher: Dispatcher, jobs: list) -> EvalScore | None:
    return [dispatcher.evaluated(job.group_id, (1.0, 0.0), (4, 8)) for job in jobs][-1]


def test_an_evaluation_goes_before_further_training_groups_and_training_goes_on_beside_it():
    dispatcher = _with_evaluations()
    dispatcher.credits.grant("g", 1000)
    _evaluate(dispatcher, _jobs(dispatcher))
    first, second = _jobs(dispatcher)
    _train(dispatcher, first, 1)
    (third,) = _jobs(dispatcher)
    _train(dispatcher, second, 2)
    *during, fourth = _jobs(dispatcher)
    assert [(job.purpose, job.policy_version) for job in during] == [("eval", 2)] * 2
    assert (fourth.purpose, fourth.policy_version) == ("train", 2)
    _train(dispatcher, third, 3)
    _train(dispatcher, fourth, 4)  # the next evaluation is due before this one is over: it waits
    assert [job.purpose for job in _jobs(dispatcher)] == ["train", "train"]
    assert _evaluate(dispatcher, during) == EvalScore("during", 2, 0.5, 6.0, 4)
    again = _jobs(dispatcher)
    assert [(job.purpose, job.policy_version) for job in again] == [("eval", 4)] * 2
    assert _evaluate(dispatcher, again).version == 4
    assert dispatcher.phase == "train"


def test_groups_that_wait_cannot_take_the_credits_of_an_evaluation():
    dispatcher = _with_evaluations(eta=8)
    dispatcher.credits.grant("g", 9)
    assert len(_jobs(dispatcher)) == 2
    dispatcher.evaluated(0, (), ())
    dispatcher.evaluated(1, (), ())
    dispatcher.credits.grant("g", 13)
    assert [job.num_candidates for job in _jobs(dispatcher)] == [3, 3]  # of 9, two are kept back
    dispatcher.replace(2, 77)
    assert isinstance(dispatcher.next_job(), ReplacementJob)
    assert dispatcher.credits.free("g") == 2
    dispatcher.replace(2, 78)
    assert dispatcher.next_job() is None
    dispatcher.published(2)
    (job,) = _jobs(dispatcher)  # neither the replacement nor anything else holds it up
    assert (job.purpose, dispatcher.credits.free("g")) == ("eval", 0)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_limit_ends_training_with_the_version_that_it_is_told_of(last: int):
    dispatcher = _with_evaluations(steps=100)
    dispatcher.credits.grant("g", 1000)
    _evaluate(dispatcher, _jobs(dispatcher))
    waiting, during = [], []
    for version in range(1, last + 1):
        for job in _jobs(dispatcher):
            (waiting if job.purpose == "train" else during).append(job)
        _train(dispatcher, waiting.pop(0), version, last=version == last)
    assert waiting  # they are not waited for
    if during:  # an evaluation that is under way is
        assert dispatcher.phase == "train" and _jobs(dispatcher) == []
        assert _evaluate(dispatcher, during).version == 2
    assert dispatcher.phase == "after"
    after = _jobs(dispatcher)
    assert [(job.purpose, job.policy_version) for job in after] == [("eval", last)] * 2  # the last is not done twice
    assert _evaluate(dispatcher, after) == EvalScore("after", last, 0.5, 6.0, 4)
    assert dispatcher.phase == "complete"
    for job in waiting:
        dispatcher.group_ended(job.group_id, trained=False)
    assert dispatcher.next_job() is None


def test_a_limit_waits_for_the_reports_of_what_was_trained():
    dispatcher = _with_evaluations(evals=0)
    dispatcher.credits.grant("g", 100)
    job, _ = _jobs(dispatcher)
    dispatcher.published(1, last=True)  # overtook the group's outcome
    assert (dispatcher.phase, dispatcher.next_job()) == ("train", None)
    dispatcher.group_ended(job.group_id, trained=True)
    assert dispatcher.phase == "complete"
