"""What ends training, and with which step."""

import pytest

from darts_async.algorithms.limits import RunLimits
from darts_async.config import load_config


@pytest.mark.parametrize(
    ("limits", "version", "wall_s", "tokens", "ended_by"),
    [
        (RunLimits(3), 2, 1e9, 10**9, None),
        (RunLimits(3), 3, 0.0, 0, "steps"),
        (RunLimits(3, max_wall_s=10.0), 1, 9.9, 0, None),
        (RunLimits(3, max_wall_s=10.0), 1, 10.0, 0, "wall_s"),
        (RunLimits(3, max_trained_tokens=100), 1, 0.0, 99, None),
        (RunLimits(3, max_trained_tokens=100), 1, 0.0, 100, "trained_tokens"),
        (RunLimits(3, 10.0, 100), 3, 11.0, 101, "steps"),  # all at once: the plan was carried out
        (RunLimits(3, 10.0, 100), 2, 11.0, 101, "wall_s"),
    ],
)
def test_ended_by(limits: RunLimits, version: int, wall_s: float, tokens: int, ended_by: str | None):
    assert limits.ended_by(version=version, wall_s=wall_s, trained_tokens=tokens) == ended_by


def test_limits_of_a_config():
    config = load_config(None, [("run.steps", "7"), ("run.max_wall_s", "2.5"), ("run.max_trained_tokens", "90")])
    assert RunLimits.of(config) == RunLimits(7, 2.5, 90)
