"""The history behind a picture: bounded, exact where it says so, and the same from a file as from the run itself."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.launcher.view.history import History, Trend, resampled
from darts_async.launcher.view.tail import MetricsTail


def _line(step, **values):
    return {"step": step, "wall_s": 100.0 + step, "learner/step_s": 2.0} | values


def test_a_trend_of_few_steps_is_these_steps():
    trend = Trend()
    for value in (1.0, 5.0, 3.0):
        trend.add(value)
    assert trend.line() == ((1.0, 5.0, 3.0), 3.0)


@settings(max_examples=25)
@given(st.integers(1, 3000))
def test_a_trend_of_many_steps_is_means_of_equally_many(num_steps):
    trend = Trend()
    for step in range(num_steps):
        trend.add(float(step))
    points, last = trend.line()
    assert last == num_steps - 1
    assert len(points) <= 256
    per_point = 1
    while num_steps // per_point >= 256:
        per_point *= 2
    whole = num_steps // per_point
    assert points[:whole] == tuple(per_point * index + (per_point - 1) / 2 for index in range(whole))
    assert len(points) == math.ceil(num_steps / per_point)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 80))
def test_resampling_leaves_no_point_out(points, width):
    shown = resampled(points, width)
    assert len(shown) == min(len(points), width)
    ends = [index * len(points) // len(shown) for index in range(len(shown) + 1)]
    weights = [b - a for a, b in pairwise(ends)]
    assert sum(v * w for v, w in zip(shown, weights, strict=True)) == pytest.approx(sum(points), rel=1e-9, abs=1e-3)


def test_the_cancelled_share_is_of_all_candidates_that_were_planned():
    history = History()
    # 3 groups of 8 and 2 of 13: 50 candidates.
    history.add(_line(0, **{"candidates/8": 3.0, "candidates/13": 2.0, "cancel/rollouts_in_step": 10.0}))
    history.add(_line(1, **{"cancel/rollouts_in_step": 10.0}))  # nothing tells of how many
    assert history.trends()["cancelled_share"] == ((0.2,), 0.2)


def test_time_left_by_the_last_steps_and_the_first_limit():
    history = History()
    assert history.left_s(10) is None
    for step in range(4):
        history.add(_line(step, **{"learner/tokens": 100.0, "tokens/trained": 100.0 * (step + 1)}))
    assert history.left_s(10) == pytest.approx(6 * 2.0)
    assert history.left_s(10, max_wall_s=11.0) == pytest.approx(11.0 - 8.0)
    assert history.left_s(10, max_tokens=600) == pytest.approx((600 - 400) / 50.0)
    assert history.left_s(10, max_wall_s=1.0) == 0.0
    assert history.left_s(4) is None
    assert history.learner_tokens_per_s == 50.0


def test_what_is_no_number_is_not_there():
    history = History()
    history.add({"step": 0, "reward/mean": math.nan, "staleness/mean": "1", "response_length/kept": True})
    history.add({"reward/mean": 1.0})
    assert history.trends() == {}
    assert history.steps == 1


def test_ten_thousand_steps_take_no_more_room_than_a_thousand(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    tail.read()
    assert tail.history.steps == 0
    with path.open("w") as file:
        for step in range(10_000):
            file.write(json.dumps(_line(step, **{"reward/mean": step / 10_000, "eval/version": step + 1})) + "\n")
    tail.read()
    points, last = tail.history.trends()["reward/mean"]
    assert tail.history.steps == 10_000
    assert last == 0.9999
    assert len(points) == 157  # means of 64 steps
    assert points[0] == pytest.approx(sum(range(64)) / 64 / 10_000)


def test_a_file_that_grows_is_cut_off_and_grows_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(_line(step, **{"reward/mean": float(step)})) + "\n" for step in range(4)]
    path.write_text(lines[0] + lines[1][:20])
    tail = MetricsTail(path)
    tail.read()
    assert tail.history.steps == 1
    path.write_text(lines[0])  # what a resumed run does to a torn line
    tail.read()
    with path.open("a") as file:
        file.write(lines[1] + "no json\n" + lines[2])
    tail.read()
    tail.read()
    assert tail.history.trends()["reward/mean"].points == (0.0, 1.0, 2.0)
    path.write_text(lines[3])  # another file: from the beginning
    tail.read()
    assert tail.history.trends()["reward/mean"].points == (3.0,)
