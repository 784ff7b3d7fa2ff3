"""The table: figures by hand, means and ranges over seeds, and what happens to cells that failed."""

import csv
import dataclasses
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.bench.columns import ALL, LEARNED, OFF_POLICY, RACE, SPEED, TABLES, CellResult, reward_curve
from darts_async.bench.table import to_csv, to_markdown


def cell_result(preset="a", seed=0, *, trained=600, after=0.5, steps=(9.0, 1.0, 3.0), status="done") -> CellResult:
    ends = {"rejected": 100, "cancelled_tail": 300 if trained == 600 else 1000 - 100 - trained, "stale": 0}
    summary = {
        "status": status,
        "reason": "it broke | badly\nhere",
        "tokens": {"generated": 1000, "trained": trained, "failed": 12, "cancelled_shutdown": None, **ends},
        "rollouts": {"generated": 30, "trained": 20},
        "idle_ratio": {"generator": 0.9, "learner": 0.25},
        "staleness": {"mean": 0.5, "max": 1.0},
        "eval": {
            "before": {"reward": 0.25, "response_length": 70.0},
            "after": {"reward": after, "response_length": 30},
        },
        "bench": {"training_s": 12.0, "generator_idle": 0.125},
    }
    metrics = [{"step": i, "learner/step_s": s, "response_length/generated": 10.0 * s} for i, s in enumerate(steps)]
    return CellResult(preset, seed, summary, metrics)


def figures_of(cell: CellResult) -> dict[str, float | None]:
    return {column.key: column.figure(cell) for column in (*SPEED, *LEARNED)}


def markdown_rows(text: str) -> list[list[str]]:
    return [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_every_figure_of_a_cell():
    assert figures_of(cell_result()) == {
        "step_s": 2.0,  # the first step is left out: median of 1 and 3
        "training_s": 12.0,
        "generator_idle": 0.125,
        "learner_idle": 0.25,
        "staleness_mean": 0.5,
        "tokens_generated": 1000,
        "tokens_trained": 600,
        "tokens_rejected": 100,
        "tokens_cancelled": 300,
        "tokens_other": 12,
        "useful_share": 0.6,
        "length_finished": pytest.approx(130 / 3),
        "length_kept": 30.0,
        "reward_before": 0.25,
        "reward_after": 0.5,
        "length_before": 70.0,
        "length_after": 30.0,
    }


def test_the_only_step_is_not_left_out():
    assert figures_of(cell_result(steps=(9.0,)))["step_s"] == 9.0


def test_a_row_is_the_mean_over_seeds_with_its_range():
    cells = [cell_result(after=0.5), cell_result(seed=1, after=0.7), cell_result("b")]
    text = to_markdown(cells, "a note", TABLES["presets"])
    assert text.startswith("a note\n")
    head, _, first, second = markdown_rows(text)[4:]
    assert (first[:2], second[:2]) == (["`a`", "2"], ["`b`", "1"])
    assert first[head.index("reward after")] == "0.600 (0.500..0.700)"
    assert first[head.index("reward before")] == "0.250"
    assert second[head.index("reward after")] == "0.500"


def test_a_failed_cell_is_named_and_in_no_mean():
    cells = [cell_result(after=0.5), cell_result(seed=1, after=0.9, status="failed"), CellResult("b", 0, None)]
    text = to_markdown(cells, "", TABLES["presets"])
    head, _, first, second = markdown_rows(text)[4:]
    assert first[head.index("reward after")] == "0.500"
    assert second[1:] == ["0", *[""] * (len(head) - 2)]
    assert "- not in the tables: a, seed 1: failed: it broke | badly here\n" in text
    assert text.endswith("- not in the tables: b, seed 0: not run\n")


def test_the_off_policy_table_by_hand():
    steps = [{"mismatch_kl": k, "learner/ess": e, "reward/mean": r} for k, e, r in ((0.1, 1.0, 0), (0.3, 0.5, 0.5))]
    cell = CellResult("eta 4", 0, cell_result().summary, steps)
    text = to_markdown([cell], "a note", TABLES["off_policy"])
    head, _, row = markdown_rows(text)
    assert dict(zip(head, row, strict=True)) == {
        "setting": "`eta 4`",
        "seeds": "1",
        "staleness": "0.50",
        "largest": "1",
        "KL": "2.0e-01",
        "ESS": "75%",
        "corrected": "",
        "clipped": "",  # not measured
        "masked": "",
        "capped": "",
        "reward, last 5 steps": "0.250",
        "held-out before": "0.250",
        "after": "0.500",
    }


def test_the_last_steps_are_five():
    last = next(column for column in OFF_POLICY if column.key == "reward_last")
    assert last.figure(CellResult("a", 0, {}, [{"reward/mean": float(i)} for i in range(8)])) == 5.0  # of 3..7


def raced(seconds, rewards, *, equal_s=None, before=0.5, after=0.95) -> CellResult:
    """A cell whose steps took so long; rewards: of the checkpoints, by version."""
    scores = [{"version": v, "reward": r, "response_length": 9.0} for v, r in rewards.items()]
    summary = {
        "status": "done",
        "eval": {"before": {"reward": before}, "after": {"reward": after}},
        "bench": {"held_out": scores},
    }
    lengths = range(1, 201)
    return CellResult("a", 0, summary, [{"learner/step_s": s} for s in seconds], lengths, equal_s)


def figure(cell: CellResult, key: str) -> float | None:
    return next(column for column in RACE if column.key == key).figure(cell)


def test_a_target_is_reached_when_the_first_version_that_has_it_is_made():
    cell = raced((1.0, 2.0, 4.0), {1: 0.79, 2: 0.86})
    assert reward_curve(cell) == [(0.0, 0.5), (1.0, 0.79), (3.0, 0.86), (7.0, 0.95)]
    assert (figure(cell, "s_to_0.8"), figure(cell, "s_to_0.85"), figure(cell, "s_to_0.9")) == (3.0, 3.0, 7.0)
    assert figure(raced((1.0,), {}, after=0.7), "s_to_0.8") is None  # never, not at the end


def test_the_evaluation_before_training_is_not_in_the_time():
    cell = raced((3.0, 2.0, 4.0), {1: 0.6, 2: 0.86})
    cell.summary["bench"]["training_s"] = 7.0  # the learner waited 2 s longer for its first group
    assert reward_curve(cell)[1:] == [(1.0, 0.6), (3.0, 0.86), (7.0, 0.95)]


def test_a_checkpoint_counts_before_the_evaluation_at_the_end():
    assert reward_curve(raced((1.0,), {1: 0.6}, after=0.7))[-1] == (1.0, 0.6)


def test_scores_in_the_run_are_on_the_curve():
    cell = raced((1.0, 1.0), {})
    steps = [cell.steps[0], {"learner/step_s": 1.0, "eval/version": 1.0, "eval/reward": 0.85}]
    assert reward_curve(dataclasses.replace(cell, steps=steps)) == [(0.0, 0.5), (1.0, 0.85), (2.0, 0.95)]


def test_reward_at_equal_time_and_lengths_by_hand():
    cell = raced((1.0, 2.0, 4.0), {1: 0.79, 2: 0.86}, equal_s=6.5)
    assert figure(cell, "reward_equal_time") == 0.86
    assert figure(dataclasses.replace(cell, equal_s=None), "reward_equal_time") is None
    assert (figure(cell, "length_mean"), figure(cell, "length_p99")) == (100.5, 198)


def test_no_figure_is_twice_in_the_csv():
    assert len({column.key for column in ALL}) == len(ALL) > len({*SPEED, *LEARNED})


def test_csv_has_a_line_a_cell_and_nothing_for_what_was_not_measured():
    lines = list(csv.DictReader(io.StringIO(to_csv([cell_result(), CellResult("b", 3, None)]))))
    assert (lines[0]["useful_share"], lines[0]["tokens_cancelled_shutdown"], lines[0]["status"]) == ("0.6", "", "done")
    assert (lines[1]["preset"], lines[1]["seed"], lines[1]["status"], lines[1]["step_s"]) == ("b", "3", "not run", "")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_mean_lies_in_its_range(rewards):
    cells = [cell_result(seed=seed, after=reward) for seed, reward in enumerate(rewards)]
    head, _, row = markdown_rows(to_markdown(cells, "", TABLES["presets"]))[3:]
    numbers = [float(part) for part in row[head.index("reward after")].replace("..", " ").strip(")").split(" (")[0:1]]
    assert min(rewards) - 6e-4 <= numbers[0] <= max(rewards) + 6e-4
