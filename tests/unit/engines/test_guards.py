"""Guards of the update: what is not a number is left out, counted by steps, and ends the run after a few in a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.errors import RunFailed
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

pytestmark = pytest.mark.torch

GOOD, OVERFLOW, NO_NUMBER = (1.0, 0.0), (1e25, -1e25), (float("nan"), 0.0)
"""Rewards of the two responses; the second pair gives a loss that is a number and a gradient whose norm is none."""


def _trainer(updates: int) -> Any:
    from darts_async.engines.trainer import load_trainer

    config = Config.model_validate(
        {
            "run": {"name": "guards", "steps": 10},
            "group": {"size": 2, "keep_longest": 0, "groups_per_step": 2},
            "learner": {"lr": 1e-3, "advantage": "dr_grpo", "max_bad_steps": 2, "updates_per_step": updates},
        }
    )
    return load_trainer(config)


def _step(trainer: Any, *rewards: tuple[float, float]) -> Any:
    spans = (VersionSpan(trainer.version, 0),)
    for index, pair in enumerate(rewards):
        group = 2 * trainer.version + index
        rng = np.random.default_rng(group)
        message = TrainGroup(
            group_id=group,
            prompt_id="p",
            step=trainer.version,
            prompt_tokens=np.arange(4, 9, dtype=np.int32),
            candidate_ids=(candidate_id(group, 0), candidate_id(group, 1)),
            lengths=np.array([7, 5], dtype=np.int32),
            response_tokens=rng.integers(4, 200, 12).astype(np.int32),
            behaviour_logprobs=np.full(12, -5.0, dtype=np.float32),
            version_spans=(spans, spans),
            rewards=np.array(pair, dtype=np.float32),
            baseline_rewards=np.array(pair, dtype=np.float32),
            baseline_lengths=np.array([7, 5], dtype=np.int32),
            capped=(False, False),
        )
        trainer.accumulate([message])
    return trainer.apply_step()


def _weights(trainer: Any, path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    trainer.publish(path)
    return load_file(path)


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bad", [OVERFLOW, NO_NUMBER])
def test_a_bad_group_spoils_the_update_that_it_is_in_and_no_other(tmp_path: Path, bad: tuple[float, float]) -> None:
    one, two = _trainer(1), _trainer(2)
    start = _weights(one, tmp_path / "w")
    whole, first = _step(one, bad, GOOD), _step(two, bad, GOOD)
    assert _same(_weights(one, tmp_path / "w"), start)
    assert not _same(_weights(two, tmp_path / "w"), start)  # its second update is a good one
    assert all(np.isfinite(tensor).all() for tensor in _weights(two, tmp_path / "w").values())
    for stats in (whole, first):
        assert stats.skipped and not np.isfinite(stats.grad_norm)
        assert stats.version == 1
    assert np.isfinite(whole.sums.loss) == (bad is OVERFLOW)


@pytest.mark.parametrize("updates", [1, 2])
def test_bad_steps_in_a_row_end_the_run_whatever_their_other_updates(updates: int) -> None:
    trainer = _trainer(updates)
    assert _step(trainer, GOOD, OVERFLOW).skipped
    assert not _step(trainer, GOOD, GOOD).skipped  # the row is broken
    assert _step(trainer, OVERFLOW, GOOD).skipped
    with pytest.raises(RunFailed, match="in 2 steps in a row"):
        _step(trainer, OVERFLOW, GOOD)
