"""Which version a replica loads next: never past one that is evaluated, never back, never stuck for good."""

from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.algorithms.swap_order import SwapOrder
from darts_async.messages import PolicyUpdate


def _update(version: int) -> PolicyUpdate:
    return PolicyUpdate(version=version, weights=f"v{version}")


def _serve(order: SwapOrder) -> int | None:
    update = order.next()
    if update is None:
        return None
    order.served(update.version)
    return update.version


def test_without_evaluations_the_newest_is_served():
    order = SwapOrder(EvalSchedule())
    assert _serve(order) is None
    order.published(_update(0))
    assert _serve(order) == 0  # the version the engine starts with is confirmed too
    for version in (1, 3, 2):
        order.published(_update(version))
    assert (_serve(order), _serve(order)) == (3, None)


def test_an_evaluated_version_is_served_though_overtaken_and_held():
    order = SwapOrder(EvalSchedule(every_steps=2))
    for version in (0, 1, 2, 3, 4, 5):
        order.published(_update(version))
    assert _serve(order) == 2
    assert order.is_holding and _serve(order) is None
    order.evaluated(2)
    assert (_serve(order), _serve(order)) == (4, None)
    order.published(_update(6))
    assert _serve(order) is None
    order.evaluated(4)
    assert _serve(order) == 6


def test_what_is_evaluated_already_is_passed_by():
    order = SwapOrder(EvalSchedule(every_steps=2))
    order.published(_update(2))
    order.published(_update(3))
    order.evaluated(2)  # another replica had all of its groups
    assert (_serve(order), order.is_holding) == (3, False)
    order.published(_update(2))  # late news
    assert _serve(order) is None


@given(
    every=st.integers(0, 4),
    last=st.integers(1, 12),
    events=st.lists(st.sampled_from(["publish", "serve", "evaluated"]), max_size=60),
)
def test_every_evaluated_version_is_served_before_its_evaluation_ends_and_the_last_is_reached(every, last, events):
    order, schedule = SwapOrder(EvalSchedule(every_steps=every)), EvalSchedule(every_steps=every)
    published, done, served = 0, 0, []
    order.published(_update(0))
    for event in [*events, *["publish", "serve", "evaluated"] * (2 * last + 2)]:
        if event == "publish" and published < last:
            published += 1
            order.published(_update(published))
        elif event == "serve":
            version = _serve(order)
            if version is not None:
                served.append(version)
        elif event == "evaluated" and served and schedule.is_due(served[-1]) and done < served[-1]:
            done = served[-1]  # an evaluation ends only where its version is served
            order.evaluated(done)
    assert served == sorted(set(served))
    assert served[-1] == last
    assert {v for v in range(1, last + 1) if schedule.is_due(v)} <= set(served)
