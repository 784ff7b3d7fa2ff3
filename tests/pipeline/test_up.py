"""Whole runs in real processes over real sockets, with the simulated engine: how they end, and what they leave."""

import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import msgpack
import pytest
from prometheus_client.parser import text_string_to_metric_families

from darts_async.config.rules import NUM_TCP_PORTS
from darts_async.report.gather import gather_run
from darts_async.sinks.catalogue import meaning_of
from darts_async.tracing import merge_trace

pytestmark = pytest.mark.torch


def test_a_run_to_its_end(up):
    several = ("--generator.replicas", "2", "--generator.engine_args.fail_share", "0.05", "--eval.every_steps", "2")
    parts = '[{name="task"}, {name="length", label="short", weight=0, params={target=1, limit=9}}]'
    run = up.sim("--run.steps", "5", "--metrics.prometheus", "127.0.0.1:0", "--reward.functions", parts, *several)
    run.wait_for("step 2/5")
    page = scraped(run.output)
    assert run.wait(100) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    summary = run.summary
    run.assert_balanced()
    assert (summary["status"], summary["steps"], summary["policy_version"]) == ("done", 5, 5)
    assert summary["rollouts"]["trained"] == 5 * 8 * 8
    assert summary["rollouts"]["cancelled_tail"] > 0
    assert summary["rollouts"]["failed"] > 0
    assert summary["staleness"]["max"] <= 1
    assert summary["ended_by"] == "steps"
    assert summary["eval"]["after"]["policy_version"] == 5
    assert [found["policy_version"] for found in summary["eval"]["during"]] == [2, 4]
    lines = [json.loads(line) for line in (run.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert {"learner/loss", "reward/mean", "staleness/max", "mismatch_kl", "tokens/trained"} <= set(lines[-1])
    assert all(line["reward/component/task"] == line["reward/mean"] for line in lines)
    shorts = [line["reward/component/short"] for line in lines]
    assert all(0 <= short <= 1 for short in shorts) and any(0 < short < 1 for short in shorts)
    nameless = {name for line in lines for name in line if meaning_of(name)[0] is None}
    assert nameless == {"step", "wall_s"}
    assert page["darts_async_role_up", "generator", "1"] == page["darts_async_role_up", "selector", "0"] == 1
    steps_done = int(page["darts_async_run_steps_done", "launcher", "0"])
    assert 2 <= steps_done <= 5
    assert page["darts_async_learner_step_seconds", "learner", "0"] == lines[steps_done - 1]["learner/step_s"]
    assert page["darts_async_reward_mean", "selector", "0"] == lines[steps_done - 1]["reward/mean"]
    assert page["darts_async_eval_reward", "allocator", "0"] >= 0
    traced = run.traced()
    roles = {"allocator-0", "generator-0", "generator-1", "selector-0", "learner-0"}
    assert set(traced.processes.values()) == roles
    assert (traced.spans["select"], traced.spans["optimiser"], traced.spans["publish"]) == (5 * 8, 5, 5)
    assert traced.spans["evaluate"] == 2 + 2 and traced.spans["checkpoint"] >= 1
    assert traced.arrows == traced.spans["dispatch"] >= 5 * 8
    assert 0 < traced.instants["cancel"] <= summary["rollouts"]["cancelled_tail"]
    told = gather_run(run.run_folder)
    assert (told.state, told.num_steps, told.timeline.source, told.missing) == ("done", 5, "trace", [])
    assert told.story is not None
    assert told.story.tokens == {state: summary["tokens"][state] for state in told.story.tokens}
    assert [(score.label, score.version) for score in told.held_out] == [
        ("before", 0), ("during", 2), ("during", 4), ("after", 5)
    ]  # fmt: skip
    # Groups of the last step may not be older than version 3, which no replica loads before 2 is evaluated.
    assert next(line["eval/version"] for line in lines if "eval/reward" in line) == 2
    scored = [*summary["eval"]["during"], summary["eval"]["after"]]
    best = json.loads((run.run_folder / "checkpoints" / "best.json").read_text())
    assert best["reward"] == pytest.approx(max(found["reward"] for found in scored), rel=1e-5)
    kept = {f"step_{best['step']}", "step_5"}
    assert {path.name for path in (run.run_folder / "checkpoints").iterdir()} == kept | {"best.json"}
    for name in kept:
        assert (run.run_folder / "checkpoints" / name / "model.safetensors").is_file()
        assert (run.run_folder / "checkpoints" / name / "training_state" / "tensors.safetensors").is_file()
    assert "step 5/5" in run.output
    assert "held-out set during" in run.output


def scraped(output: str) -> dict[tuple[str, str, str], float]:
    """What the run tells Prometheus now: by name, role and rank."""
    (url,) = re.findall(r"metrics for Prometheus: (http://127\.0\.0\.1:\d+/metrics)", output)
    with urllib.request.urlopen(url, timeout=10) as answer:
        families = text_string_to_metric_families(str(answer.read(), "utf-8"))
    return {
        (sample.name, sample.labels["role"], sample.labels["rank"]): sample.value
        for family in families
        for sample in family.samples
    }


_PROGRAM = """
import sys
import darts_async
print("the program runs")
sim = {"engine": "sim", "engine_args": {"token_s": 0.002}}
where = {"dir": sys.argv[1], "name": "test", "steps": 2}
result = darts_async.run(
    "quickstart", {"selection.rule": "shortest"}, run=where, generator=sim, eval__prompts=8, learner__lr=0.0
)
print(result.summary == darts_async.Result.read(result.folder).summary, len(result.metrics()), result.checkpoint.name)
"""
"""Without a guard: nothing that the run starts may import it."""


def test_the_ledger_on_disk_agrees_with_the_summary_of_a_run_from_python(up):
    run = up.python(_PROGRAM)
    assert run.wait(100) == 0, run.output + run.logs()
    assert run.output.count("the program runs") == 1
    assert "step 2/2" in run.output
    assert run.output.endswith("True 2 step_2\n")
    run.assert_nothing_is_left()
    ended: dict[int, tuple[str, int]] = {}
    for segment in sorted((run.run_folder / "ledger").glob("*.msgpack")):
        with segment.open("rb") as file:
            for _, _, packed in msgpack.Unpacker(file):
                record = msgpack.unpackb(packed)
                if record["kind"] == "candidate":
                    assert record["candidate_id"] not in ended
                    ended[record["candidate_id"]] = (record["state"], record["tokens"])
    for state, count in run.summary["rollouts"].items():
        if state != "generated":
            assert sum(s == state for s, _ in ended.values()) == count
            assert sum(tokens for s, tokens in ended.values() if s == state) == run.summary["tokens"][state]
    assert len(ended) == run.summary["rollouts"]["generated"]
    command = [sys.executable, "-m", "darts_async.cli", "replay", str(run.run_folder), "--check", "--json"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    replayed = json.loads(check.stdout)
    assert (replayed["closed"], replayed["live"], replayed["violations"], replayed["steps"]) == (True, False, [], 2)
    for what in ("rollouts", "tokens"):
        assert run.summary[what].items() <= replayed[what].items()


def _free_ports() -> int:
    """The first of enough free TCP ports in a row; below those that the kernel hands out by itself."""
    while True:
        first = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as open_ones, contextlib.suppress(OSError):
            for port in range(first, first + NUM_TCP_PORTS):
                open_ones.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def test_sync_over_tcp_trains_without_staleness_until_its_time_is_up(up, tmp_path):
    config = tmp_path / "sync.toml"
    config.write_text('extends = "quickstart"\n[pipeline]\nmode = "sync"\nmax_staleness = 0\n')
    limits = ("--run.steps", "10000", "--run.max_wall_s", "1.5")
    run = up.sim(str(config), *limits, "--launch.bind", f"tcp://127.0.0.1:{_free_ports()}")
    assert run.wait(100) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    summary = run.summary
    assert (summary["status"], summary["ended_by"]) == ("done", "wall_s")
    assert 1 <= summary["policy_version"] == summary["eval"]["after"]["policy_version"] < 10000
    assert run.summary["staleness"]["max"] == 0
    run.assert_balanced()


def test_ctrl_c_at_any_moment_drains(up):
    run = up.sim("--run.steps", "10000")
    run.wait_for("all roles are ready")
    delay_s = random.uniform(0, 4)
    time.sleep(delay_s)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(15) == 130, f"after {delay_s:.2f} s:\n{run.output}{run.logs()}"
    run.assert_nothing_is_left()
    assert run.summary["status"] == "interrupted"
    run.assert_balanced()
    assert len(run.traced().processes) == 4
    assert "Traceback" not in run.output


def test_ctrl_c_while_starting_leaves_the_terminal_as_it_was(up):
    run = up.sim(on_terminal=True)
    run.wait_for("learner-0")  # the picture
    run.terminal.resize(60, 20)
    run.process.send_signal(signal.SIGWINCH)  # as the kernel does on the terminal that controls a process
    run.wait_for("m" + "╌" * 40 + "\x1b")  # the bar, between "step 0 of 32  " and "  0:00", in 60 columns
    run.process.send_signal(signal.SIGINT)
    assert run.wait(15) == 130
    run.assert_nothing_is_left()
    assert run.summary["rollouts"]["generated"] == 0
    run.terminal.assert_as_before()
    before, _, behind = run.output.rpartition("\x1b[?25h\x1b[?1049l")
    assert before.count("\x1b[?1049h") == 1
    assert "interrupted: 0 steps in " in behind
    assert "Traceback" not in behind


@pytest.mark.long
def test_second_ctrl_c_does_not_wait(up):
    run = up.sim("--run.steps", "10000", "--launch.drain_timeout_s", "60")
    run.wait_for("/10000")
    run.role("learner").suspend()  # it will not drain
    run.process.send_signal(signal.SIGINT)
    run.wait_for("interrupted: draining")
    run.process.send_signal(signal.SIGINT)
    assert run.wait(5) == 130
    run.assert_nothing_is_left()


_LONG = [pytest.param(role, marks=pytest.mark.long) for role in ("generator", "allocator", "learner")]


@pytest.mark.parametrize("role", ["selector", *_LONG])
def test_a_killed_role_ends_the_run_when_no_restart_is_left(up, role: str):
    run = up.sim("--run.steps", "10000", "--launch.max_restarts", "0")
    run.wait_for("/10000")
    run.role(role).send_signal(signal.SIGKILL)
    assert run.wait(20) == 1
    run.assert_nothing_is_left()
    assert run.summary["status"] == "failed"
    assert f"{role}-0 was killed by SIGKILL" in run.output
    assert str(run.run_folder / "logs" / f"{role}-0.log") in run.output


def test_nothing_survives_the_launcher(up):
    run = up.sim("--run.steps", "10000")
    run.wait_for("all roles are ready")
    run.process.kill()
    run.assert_nothing_is_left()
    assert not (run.run_folder / "trace.json").exists()
    assert merge_trace(run.run_folder) is not None  # what the roles had written by then
    assert len(run.traced().processes) == 4


@pytest.mark.long
def test_a_killed_generator_is_replaced_while_the_other_goes_on(up):
    run = up.sim("--run.steps", "16", "--generator.replicas", "2", "--launch.restart_backoff_s", "0.2")
    run.wait_for("step  2/16")
    run.role("generator", rank=1).send_signal(signal.SIGKILL)
    assert run.wait(100) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    run.assert_balanced()
    summary = run.summary
    assert (summary["status"], summary["policy_version"], summary["restarts"]) == ("done", 16, {"generator-1": 1})
    assert summary["rollouts"]["trained"] <= 16 * 8 * 8
    assert "generator-1 was killed by SIGKILL: restart 1 of 3 in 0.2 s" in run.output
    assert any("generator-1 was killed by SIGKILL" in text for text in summary["warnings"])
    command = [sys.executable, "-m", "darts_async.cli", "replay", str(run.run_folder), "--check", "--json"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    assert json.loads(check.stdout)["rollouts"]["failed"] == summary["rollouts"]["failed"]


@pytest.mark.long
def test_an_engine_that_dies_restarts_its_generator_until_it_is_enough(up):
    run = up.sim("--generator.engine_args.dies_after_tokens", "3000", "--launch.max_restarts", "1")
    assert run.wait(60) == 1
    assert "generator-0: EngineDead" in run.output
    assert "restart 1 of 1" in run.output
    assert "launch.max_restarts = 1 are used up" in run.output
    assert run.summary["restarts"] == {"generator-0": 1}
    run.assert_nothing_is_left()


@pytest.mark.long
def test_ctrl_c_while_a_generator_waits_for_its_restart(up):
    run = up.sim("--run.steps", "10000", "--generator.replicas", "2", "--launch.restart_backoff_s", "30")
    run.wait_for("/10000")
    run.role("generator", rank=0).send_signal(signal.SIGKILL)
    run.wait_for("restart 1 of 3 in 30 s")
    run.process.send_signal(signal.SIGINT)
    assert run.wait(15) == 130, run.output + run.logs()
    run.assert_nothing_is_left()
    assert run.summary["status"] == "interrupted"
    run.assert_balanced()


def test_not_ready_in_time_names_who_is_missing(up):
    run = up.sim("--launch.ready_timeout_s", "0.5")
    assert run.wait(20) == 1
    assert "launch.ready_timeout_s" in run.output
    assert "learner-0" in run.output
    run.assert_nothing_is_left()
