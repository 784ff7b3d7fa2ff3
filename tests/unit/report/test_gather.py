"""From a run folder to data: the numbers by hand, and folders that are not whole."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.report.gather import gather, gather_run
from darts_async.report.ledger_story import MAX_SAMPLED, read_story
from darts_async.report.step_lines import read_steps
from darts_async.runtime.ledger_lock import LedgerLock


def test_a_whole_run_by_hand(make_run):
    run = gather_run(make_run("whole", 10))
    story = run.story
    assert (run.state, run.num_steps, run.wall_s, run.missing) == ("done", 10, 5.0, [])
    assert story is not None
    # At version v: 40 - v and 60 - v trained, 64 - v cancelled; two groups a version.
    assert story.tokens["trained"] == 2 * sum(100 - 2 * v for v in range(10))
    assert story.tokens["cancelled_tail"] == 2 * sum(64 - v for v in range(10))
    assert (story.rollouts["trained"], story.rollouts["cancelled_tail"], story.in_flight) == (40, 20, 0)
    # The first fifth is versions 0 and 1, the last 8 and 9.
    assert (story.first_until, story.last_from) == (2, 8)
    assert story.first.kept.mean == pytest.approx((40 + 60 + 39 + 59) / 4)
    assert story.last.kept.mean == pytest.approx((32 + 52 + 31 + 51) / 4)
    assert story.first.group_mean.mean == pytest.approx((55 + 54) / 2)
    assert story.last.group_spread.quantile(0.5) == 11  # of 60, 40 and 65: 10.8
    assert [point.mean for point in story.budgets] == [3.0] * 10
    assert [(s.label, s.version, s.reward) for s in run.held_out] == [("before", 0, 0.25), ("after", 10, 0.75)]
    assert story.events == [(6, "generator-0 was lost and started anew")]
    assert {age: totals.tokens for age, totals in run.series.ages.items()} == {0: 250.0, 1: 750.0}
    assert run.series.ages[1].log_ratio_abs == pytest.approx(750 * 0.003)


def test_steps_are_thinned_to_means_and_maxima_keep_their_peak(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": s, "wall_s": s + 1.0, "reward/mean": float(s), "response_length/max": float(s)} for s in range(10_000)
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    series = read_steps(path)
    assert (series.num_steps, series.steps_per_point, len(series.step)) == (10_000, 32, 313)
    assert series.columns["reward/mean"][0] == pytest.approx(sum(range(32)) / 32)
    assert series.columns["response_length/max"][0] == 31
    assert (series.step[-1], series.wall_s[-1]) == (10_000, 10_000.0)


def test_a_long_ledger_takes_no_more_memory(group_records):
    peaks = []
    for groups in (2_000, 8_000):
        tracemalloc.start()
        story = read_story(
            record
            for number in range(groups)
            for record in group_records(number, number // 8, (30, 50, 40 + number % 90))
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (story.num_groups, len(story.groups) <= MAX_SAMPLED) == (groups, True)
    assert peaks[1] < 2 * peaks[0]  # for four times as many


@pytest.mark.parametrize(
    ("part", "says"),
    [("ledger", "no ledger"), ("metrics", "no metrics.jsonl"), ("config", "no config.resolved.toml")],
)
def test_what_is_not_there_is_said(make_run, part: str, says: str):
    run = gather_run(make_run("half", **{part: False}))
    assert any(says in text for text in run.missing)


def test_a_run_that_was_cut_off(make_run):
    folder = make_run("cut", 6, summary=False, closed=False)
    with RunPaths(folder).metrics.open("a") as file:
        file.write('{"step": 6, "wa')
    run = gather_run(folder)
    assert (run.state, run.series.num_steps, run.series.torn) == ("cut off", 6, True)
    assert any("summary.json" in text for text in run.missing)


def test_a_run_that_goes_on(make_run):
    folder = make_run("live", 4, summary=False, closed=False)
    lock = LedgerLock(RunPaths(folder).ledger)
    try:
        run = gather_run(folder)
    finally:
        lock.release()
    assert (run.state, run.missing) == ("running", [])


def test_a_run_that_failed_at_its_start(make_run):
    folder = make_run("failed", ledger=False, metrics=False, summary=False)
    RunPaths(folder).ledger.mkdir()
    run = gather_run(folder)
    assert run.state == "not begun"
    assert any("No learner step" in text for text in run.missing)


def test_a_damaged_ledger_is_read_as_far_as_it_is_good(make_run):
    folder = make_run("damaged", 10)
    segment = RunPaths(folder).ledger / "000000.msgpack"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    run = gather_run(folder)
    assert run.story is not None
    assert 0 < run.story.num_groups < 20
    assert any("damaged" in text for text in run.missing)


@pytest.mark.parametrize("content", ["", "[]", "{", "a=" + "[" * 20_000, '{"steps": "ten"}', "null\n", "\x00\xff"])
def test_files_that_are_no_such_thing(make_run, content: str):
    folder = make_run("spoiled", 3)
    paths = RunPaths(folder)
    for path in (paths.summary, paths.metrics, paths.resolved_config, paths.starts, folder / "trace.json"):
        path.write_text(content, "utf-8")
    run = gather_run(folder)
    assert run.series.num_steps == 0
    assert run.missing


def test_a_folder_that_is_no_run(tmp_path: Path):
    with pytest.raises(ConfigError, match="no run folder"):
        gather([tmp_path])
    with pytest.raises(ConfigError, match="no such folder"):
        gather([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="at most 8"):
        gather([tmp_path] * 9)


def test_config_differences_come_first(make_run):
    folders = [make_run("one", 2), make_run("two", 2)]
    path = RunPaths(folders[1]).resolved_config
    text = path.read_text().replace("lr = ", "lr = 7", 1)
    assert "max_bad_steps = 3\n" in text
    path.write_text(text.replace("max_bad_steps = 3\n", ""))  # as a version wrote it that knew no such key
    rows = gather(folders).config
    assert [(row.key, row.differs, row.changed) for row in rows[:1]] == [("learner.lr", True, True)]
    assert not any(row.differs or row.changed for row in rows[1:])
