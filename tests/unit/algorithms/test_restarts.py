"""Restarts by hand: which ends are curable, the waits, the cap; and who counts as silent."""

import pytest

from darts_async.algorithms.restarts import Loss, RestartPolicy, SignsOfLife


def test_waits_double_up_to_a_minute_and_end_at_the_cap():
    policy = RestartPolicy(max_restarts=9, backoff_s=0.5)
    waits = [policy.restart("generator-1") for _ in range(10)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, None]
    assert policy.counts == {"generator-1": 9}
    assert policy.restart("learner-0") == 0.5  # each role is counted by itself
    assert RestartPolicy(0, 1.0).restart("learner-0") is None
    many = RestartPolicy(1000, 1.0)
    assert [many.restart("x") for _ in range(1000)][-1] == 60


@pytest.mark.parametrize(
    ("loss", "text", "curable"),
    [
        (Loss.of("was killed by SIGKILL", by_signal=True), " was killed by SIGKILL", True),
        (Loss.of("exited with status 1", by_signal=False), " exited with status 1", False),
        (Loss.of("exited with status 0", by_signal=False), " exited with status 0", False),
        (
            Loss.of("exited with status 1", by_signal=False, fault="EngineDead: x", curable=True),
            ": EngineDead: x",
            True,
        ),
        (Loss.of("exited with status 1", by_signal=False, fault="ConfigError: x"), ": ConfigError: x", False),
        # It was killed because its engine hung after a fault: the fault says why.
        (Loss.of("was killed by SIGKILL", by_signal=True, fault="RunFailed: x"), ": RunFailed: x", False),
        (Loss.of("was killed by SIGKILL", by_signal=True, killed_for="was silent"), " was silent", True),
    ],
)
def test_what_a_restart_can_cure(loss: Loss, text: str, curable: bool):
    assert (loss.text, loss.curable) == (text, curable)


def test_silence_counts_from_the_last_sign_of_life():
    signs = SignsOfLife(silence_s=10, look_s=1)
    signs.heard("a", 0)
    signs.heard("b", 0)
    assert [signs.silent(float(now)) for now in range(1, 6)] == [[]] * 5
    signs.heard("b", 5)
    assert [signs.silent(float(now)) for now in range(6, 11)] == [[]] * 5
    assert signs.silent(11) == ["a"]
    signs.forget("a")
    assert [signs.silent(float(now)) for now in range(12, 16)] == [[]] * 4
    assert signs.silent(16) == ["b"]


def test_nobody_pays_for_the_sleep_of_the_watcher():
    signs = SignsOfLife(silence_s=10, look_s=1)
    signs.heard("a", 0)
    assert signs.silent(1) == []
    assert signs.silent(101) == []  # it was stopped for 100 s; what came meanwhile is unread
    assert signs.silent(103) == []
    assert [signs.silent(float(now)) for now in range(104, 109)] == [[]] * 5
    assert signs.silent(110) == ["a"]
