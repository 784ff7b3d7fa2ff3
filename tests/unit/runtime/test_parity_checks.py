"""The rows that the doctor makes of samples: how responses end, and what is said of a mismatch."""

import numpy as np

from darts_async.algorithms.parity import ScoredResponse, TemperatureFit, compare
from darts_async.messages import Trajectory, VersionSpan
from darts_async.runtime.job_events import Check, Stage, decode, encode
from darts_async.runtime.parity_checks import ends_check, parity_check

EOS = frozenset({1})


def _trajectory(*tokens: int, stopped: bool = True) -> Trajectory:
    return Trajectory(
        candidate_id=1,
        replica=0,
        finish_reason="stop" if stopped else "length",
        response_tokens=np.array(tokens, np.int32),
        behaviour_logprobs=np.full(len(tokens), -1.0, np.float32),
        version_spans=(VersionSpan(0, 0),),
    )


def test_ends():
    good, capped = _trajectory(5, 6, 1), _trajectory(5, 6, 7, stopped=False)
    fine = ends_check([good, capped], [], EOS, 3)
    assert (fine.status, fine.measured) == (
        "pass",
        "1 of 2 ended by themselves, the others at 3 tokens; all with token 1",
    )
    assert ends_check([capped], [], EOS, 3).status == "warn"
    other = ends_check([good, _trajectory(5, 9)], [], EOS, 3)
    assert other.status == "fail" and "1 of them end with token 9, the model folder names 1" in other.measured
    passed_over = ends_check([good, _trajectory(1, 5, 1)], [], EOS, 3)
    assert passed_over.status == "fail" and "1 go on after token 1" in passed_over.measured
    failed = ends_check([good], ["too long"], EOS, 3)
    assert failed.status == "fail" and "1 of 2 samples failed: too long" in failed.measured


def test_parity_rows():
    engine, learner = np.array([-1.0, -2.0], np.float32), np.array([-1.5, -2.0], np.float32)
    parity = compare([ScoredResponse(engine, learner, True)])
    assert parity_check("p", parity, 0.3, 1.0, None).status == "pass"
    row = parity_check("p", parity, 0.1, 1.0, TemperatureFit(0.7, 1e-3))
    assert row.status == "fail"
    assert "mean |difference| 2.5e-01 (limit 0.1), max 5.0e-01" in row.measured
    assert "best temperature, 0.7: 1.0e-03" in row.measured
    assert row.remedy.startswith("Likely: temperature")


def test_events_survive_the_pipe_and_are_bounded():
    for event in (Stage("x"), Check("a", "warn", "b", "c")):
        assert decode(encode(event)) == event
    assert len(encode(Check("a", "fail", "x" * 100_000, "y" * 100_000))) < 8192
