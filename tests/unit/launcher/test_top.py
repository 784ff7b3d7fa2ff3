"""`top` on runs that are over, and on one that answers, falls silent, and is taken up again elsewhere."""

import asyncio
import io
import json

import pytest
from rich.console import Console

from darts_async.config import load_config, to_toml
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.launcher.run_end import RunEnd
from darts_async.launcher.top import _Run, _Silence, top
from darts_async.runtime.outside_link import EvalLine, OutsideHub, RoleLine, StatusAnswer


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.logs.mkdir(parents=True)
    paths.resolved_config.write_text(to_toml(load_config(None)))  # 32 steps
    lines = [
        {"step": step, "wall_s": 9.0 + step, "reward/mean": 0.5 + step / 10, "tokens/trained": 10.0}
        for step in range(3)
    ]
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def _shown(paths, width=80):
    console = Console(file=io.StringIO(), width=width)
    assert top(paths.root, console) == 0
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _summary(**other):
    scores = {"reward": 0.75, "response_length": 30.0, "rollouts": 8, "policy_version": 2}
    return {
        "status": "done",
        "steps": 3,
        "policy_version": 3,
        "wall_s": 61.0,
        "tokens": {"generated": 100, "trained": 80, "rejected": 20, "cancelled_tail": 0, "failed": None},
        "tokens_saved_estimate": None,
        "eval": {"before": None, "during": [scores], "after": {"reward": None, "response_length": None}},
        "warnings": ["one", "two\x1b[2J"],
    } | other


def test_the_end_of_a_run(paths):
    paths.summary.write_text(json.dumps(_summary()))
    rows = _shown(paths)
    assert rows[0].split() == ["run", "done"]
    assert rows[1].startswith("step 3 of 32  ")
    assert rows[1].endswith("  1:01")
    assert rows[4].startswith("reward    0.70  ▁▅█  ")
    assert "held-out  at version 2 0.750 (30.0 tokens)" in rows
    assert "tokens    100: 80% trained, 20% rejected" in rows
    assert rows[rows.index("last warnings") + 1 :][:2] == ["two [2J", "one"]
    assert any(row.startswith("the run is over: done after 3 steps, at ") for row in rows)


def test_a_run_that_failed_says_why_on_top(paths):
    paths.summary.write_text(json.dumps(_summary(status="failed", reason="no disk")))
    assert _shown(paths)[2] == "why: no disk"


@pytest.mark.parametrize("summary", ["", "{", '{"status": "done", "steps": 3}'])
def test_what_is_no_summary_is_left_out(paths, summary):
    paths.summary.write_text(summary)
    rows = _shown(paths)
    assert rows[1].startswith("step 3 of 32  ")
    assert rows[1].endswith("  0:11")
    assert "tokens    10: 100% trained, nothing" in rows


def test_what_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        top(tmp_path, Console())


def _answer(step, **other):
    values = {
        "run": "run",
        "state": "running",
        "wall_s": 1.0,
        "step": step,
        "steps": 10,
        "roles": (RoleLine(name="learner-0", state="s", state_s=1, pid=1, restarts=0, gauges={"x": 1.0}),),
        "queues": (),
        "waits": (),
        "verdict": "",
        "still_s": 0.0,
        "stalls": 0,
        "stalls_log": "",
        "warnings": (),
        "changed": {},
        "evals": (EvalLine(label="before", version=0, reward=0.5, response_length=9.0),),
    }
    return StatusAnswer(**values | other)


async def _serve(hub, step):
    while True:
        peer, _ = await hub.link.recv()
        await hub.answer(peer, _answer(step))


@pytest.fixture
def folders(tmp_path):
    made = [tmp_path / name for name in "12"]
    for folder in made:
        folder.mkdir(mode=0o700)
    return made


async def test_it_follows_a_run_from_start_to_start(paths, folders, monkeypatch):
    monkeypatch.setattr("darts_async.launcher.top._ANSWER_S", 0.3)
    run = _Run(paths)
    assert isinstance(await run.look(), RunEnd)
    for step, folder in enumerate(folders):  # two starts, on sockets of their own
        hub = OutsideHub(folder, paths.control_file)
        serving = asyncio.create_task(_serve(hub, step))
        try:
            found = [await run.look(), await run.look()]
            assert [one.step for one in found] == [step, step]
            assert found[0].roles[0].gauges == {"x": 1.0}
            assert run.tail.history.steps == 3
            serving.cancel()
            silent = await run.look()
            assert isinstance(silent, _Silence)
            assert "does not answer" in silent.why
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await hub.close()
        assert isinstance(await run.look(), RunEnd)
    await run.close()
