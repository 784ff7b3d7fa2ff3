"""Nothing outlives a launcher that is killed: neither who was started anew nor who stands still."""

import signal
import time

import pytest

pytestmark = pytest.mark.torch


def test_neither_a_restarted_role_nor_a_stopped_one_survives_the_launcher(up):
    run = up.sim("--run.steps", "10000", "--launch.restart_backoff_s", "0.1", "--launch.max_restarts", "10")
    run.wait_for("generator-0 is ready")
    run.wait_for("selector-0 is ready")
    first = run.role("generator")
    first.send_signal(signal.SIGKILL)
    run.wait_for("restart 1 of 10")
    deadline = time.monotonic() + 100
    while run.output.count("generator-0 is ready") < 2:
        assert time.monotonic() < deadline, run.output + run.logs()
        time.sleep(0.05)
    again, selector = run.role("generator"), run.role("selector")
    workers = selector.children()
    assert again.pid != first.pid and workers
    for process in (selector, *workers):
        process.send_signal(signal.SIGSTOP)
    assert {again, selector, *workers, run.role("learner"), run.role("allocator")} <= set(run.processes())
    run.process.kill()
    run.assert_nothing_is_left()
