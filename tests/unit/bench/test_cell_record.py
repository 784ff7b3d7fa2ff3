"""What a cell's reports become: the training part alone is timed, and only whole runs are complete."""

import json
import time
from pathlib import Path

import pytest

from darts_async.bench.cell_record import CellRecord
from darts_async.bench.events import CellEnded, CellStep, EngineReady, decode, encode
from darts_async.config import Config
from darts_async.messages import Begin, EvalResult, StepMetrics
from darts_async.metrics import BusyClock


def cell_record(folder: Path, told: list, clock: BusyClock, *, eval_prompts: int = 4) -> CellRecord:
    document = {"run": {"dir": str(folder), "name": "cell", "steps": 1}, "eval": {"prompts": eval_prompts}}
    (folder / "cell").mkdir()
    return CellRecord(Config.model_validate(document), told.append, clock)


def held_out(label) -> EvalResult:
    return EvalResult(label=label, policy_version=0, reward=0.5, response_length=9.0, num_rollouts=4)


@pytest.mark.parametrize("eval_prompts", [0, 4])
def test_the_training_part_is_timed_from_its_begin_to_the_last_step(tmp_path, eval_prompts):
    told: list[CellStep] = []
    clock = BusyClock()
    record = cell_record(tmp_path, told, clock, eval_prompts=eval_prompts)
    began = time.monotonic()
    record.take(Begin(), {})
    if eval_prompts:
        clock.change(+1)
        time.sleep(0.05)  # evaluation: neither its time nor what the engine did in it counts
        clock.change(-1)
        record.take(held_out("before"), {})
        began = time.monotonic()
    time.sleep(0.06)  # idle
    clock.change(+1)
    time.sleep(0.02)  # busy
    record.take(StepMetrics(step=0, values={"policy_version": 1.0}), {})
    within_s = time.monotonic() - began
    record.take(StepMetrics(step=0, values={"reward/mean": 1.0}), {"policy_version": 1.0, "learner/idle_ratio": 0.5})
    assert told == [CellStep("cell", 0)]
    assert record.complete is not bool(eval_prompts)
    record.take(held_out("after"), {})
    assert record.complete
    record.end("done")
    record.close()
    bench = json.loads((tmp_path / "cell" / "summary.json").read_text())["bench"]
    assert 0.08 <= bench["training_s"] <= within_s + 1e-3
    assert 0.06 / within_s <= bench["generator_idle"] + 1e-3 <= 1 - 0.02 / within_s + 0.02
    line = json.loads((tmp_path / "cell" / "metrics.jsonl").read_text())
    assert line["learner/idle_ratio"] == 0.5


def test_a_cell_that_never_trained_has_no_times(tmp_path):
    record = cell_record(tmp_path, [], BusyClock())
    record.take(Begin(), {})
    record.end("failed", "why")
    record.close()
    summary = json.loads((tmp_path / "cell" / "summary.json").read_text())
    assert (summary["status"], summary["reason"], set(summary["bench"])) == ("failed", "why", {"date"})


def test_events_survive_the_pipe():
    for event in (EngineReady(1.5), CellStep("a-seed0", 3), CellEnded("a-seed0", "failed", "why\nnot")):
        line = encode(event)
        assert line.count(b"\n") == 1
        assert decode(line) == event
