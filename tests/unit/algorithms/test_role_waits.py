"""What the learner, a generator and the allocator say they wait for, case by case."""

import dataclasses

import pytest

from darts_async.algorithms.credits import CreditBook
from darts_async.algorithms.dispatch_waits import admission_waits, credit_waits
from darts_async.algorithms.generator_waits import GeneratorAt, generator_waits
from darts_async.algorithms.learner_waits import LearnerAt, learner_waits
from darts_async.algorithms.staleness import Admission


def said(pending):
    return [(one.whom, one.what) for one in pending]


@pytest.mark.parametrize(
    ("stage", "whom", "what"),
    [
        ("groups", "selector-0", "waits for 5 of the 8 groups of step 7"),
        ("selector", "selector-0", "waits for the selector to take in where it stands"),
        ("computing", "", "is training step 7"),
        ("spool", "", "is writing 3 groups of step 7 to the spool"),
        ("telling", "generator-2", "waits for room on the link to generator-2, to tell of version 6"),
        ("reporting", "selector-0", "waits for room on the link to the selector, to report step 7"),
        ("score", "allocator-0", "waits for the held-out score of version 6"),
        ("stop", "", "waits for the launcher's order to stop: the selector has ended its stream"),
        ("ended", "allocator-0", "has ended training with version 6 and waits for the end of the run"),
    ],
)
def test_the_learner(stage, whom, what):
    at = LearnerAt(stage=stage, what="training step 7", version=6, received=3, size=8, peer="generator-2")
    assert said(learner_waits(at)) == [(whom, what)]


def test_a_synchronous_learner_says_that_it_waits_for_all():
    at = LearnerAt(stage="groups", version=0, received=0, size=4, awaits_all=True)
    assert said(learner_waits(at)) == [
        ("selector-0", "waits for 4 of the 4 groups of step 1, which trains once all are here")
    ]


def test_a_generator_without_requests_waits_for_the_allocator():
    at = GeneratorAt(version=3, known=3, free=17)
    assert said(generator_waits(at)) == [("allocator-0", "waits for requests: 17 credits given out and not used")]


def test_a_generator_at_work_says_what_else_is_held_up_and_by_whom():
    at = GeneratorAt(version=3, known=4, num_running=2, oldest_s=12.4, held=[5, 6, 5], parked=[4], reports=1, loading=4)
    assert said(generator_waits(at)) == [
        ("", "loads version 4"),
        ("", "decodes 2 candidates, the oldest for 12 s"),
        ("selector-0", "waits with 1 report for room on the link to the selector"),
        ("learner-0", "holds 3 requests for version 5 (serves 3), which is not published yet"),
        ("", "holds 1 parked candidate for version 4 (serves 3)"),
    ]
    kept = dataclasses.replace(at, num_running=0, reports=0, loading=None, held=[4], parked=[], evaluates=3)
    assert said(generator_waits(kept)) == [
        ("allocator-0", "holds 1 request for version 4 (serves 3): version 3 stays until its evaluation is over")
    ]


def test_a_swap_that_needs_an_empty_engine_waits_for_what_runs():
    at = GeneratorAt(version=3, known=4, num_running=1, empties_for=4)
    assert said(generator_waits(at))[1] == ("", "loads version 4 once the engine is empty")
    assert "loads" not in str(said(generator_waits(GeneratorAt(version=3, known=4, empties_for=4))))


def test_the_allocator_names_the_bound_that_holds_it_up():
    admission = Admission(groups_per_step=2, eta=1, steps=10, in_flight_groups=3)
    assert admission_waits(admission) == []
    for group in range(3):
        admission.dispatched(group)
    assert said(admission_waits(admission)) == [
        ("selector-0", "waits for one of 3 groups in flight (queues.in_flight_groups = 3)")
    ]
    admission.completed(0)
    admission.dispatched(3)
    assert said(admission_waits(admission)) == [
        (
            "learner-0",
            "waits for version 1: 0 groups trained and 4 live reach the bound of 4 (staleness at most 1)",
        )
    ]
    admission.eta = 2  # a live setting: there is room again, up to the next bound
    assert "in flight" in admission_waits(admission)[0].what


def test_credits_are_counted_per_replica():
    book = CreditBook()
    assert said(credit_waits(book, 4, "the next group")) == [
        ("generator-0", "waits for the first credits of a generator, for the next group")
    ]
    book.grant("generator-0", 3, 0)
    book.grant("generator-1", 6, 0)
    assert said(credit_waits(book, 8, "the next group", reserve=4)) == [
        ("generator-0", "waits for credits of generator-0 for the next group: 0 free of 8 needed"),
        ("generator-1", "waits for credits of generator-1 for the next group: 2 free of 8 needed"),
    ]
