"""What reaches the weights: a user's own functions and shaped rewards, on the shipped tiny policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from darts_async.config import Config
from darts_async.errors import ConfigError
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

if TYPE_CHECKING:
    from darts_async.engines.trainer import PolicyTrainer

pytestmark = pytest.mark.torch

SOURCE = """
import numpy as np
import torch

def centred(rewards, baseline_rewards):
    return rewards - np.mean(baseline_rewards)

def clipped_ratio(tokens, reference, settings):
    r = (tokens.policy - reference.old_logprobs).exp()
    bounded = torch.clip(r, 1 - settings.clip_low, 1 + settings.clip_high)
    return torch.maximum(-r * tokens.advantages, -bounded * tokens.advantages)
"""


def _trainer(**learner: Any) -> PolicyTrainer:
    from darts_async.engines.trainer import load_trainer

    settings = {"advantage": "dr_grpo", "correction": "none", **learner}
    # hot enough that random tokens are not impossible
    sections = {"model": {"max_response_tokens": 12}, "sampling": {"temperature": 8.0}, "learner": settings}
    return load_trainer(Config.model_validate(sections))


def _group() -> TrainGroup:
    rng = np.random.default_rng(0)
    lengths = (5, 10, 12)
    return TrainGroup(
        group_id=0,
        prompt_id="p",
        step=0,
        prompt_tokens=rng.integers(4, 200, 6).astype(np.int32),
        candidate_ids=tuple(candidate_id(0, index) for index in range(3)),
        lengths=np.array(lengths, np.int32),
        response_tokens=rng.integers(4, 200, sum(lengths)).astype(np.int32),
        behaviour_logprobs=rng.uniform(-8, -5, sum(lengths)).astype(np.float32),
        version_spans=((VersionSpan(0, 0),),) * 3,
        rewards=np.array([1, 1, 0], np.float32),
        baseline_rewards=np.array([1, 1, 0], np.float32),
        baseline_lengths=np.array(lengths, np.int32),
        capped=(False, False, True),
    )


def _gradient(trainer: PolicyTrainer, group: TrainGroup) -> Any:
    import torch

    trainer.accumulate([group])
    found = torch.cat([gradient.flatten() for gradient in trainer.gradients])
    assert found.abs().max() > 1e-2
    return found


def test_own_functions_train_as_the_built_in_ones_they_copy(tmp_path: Path) -> None:
    import torch

    (tmp_path / "own.py").write_text(SOURCE)
    own = _trainer(loss=f"{tmp_path}/own.py:clipped_ratio", advantage=f"{tmp_path}/own.py:centred")
    expected = _gradient(_trainer(), _group())
    torch.testing.assert_close(_gradient(own, _group()), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("key", ["loss", "advantage"])
def test_a_function_that_is_not_there_stops_before_the_model_is_loaded(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"learner.{key} = .*there is no file"):
        _trainer(**{key: f"{tmp_path}/absent.py:f"})


def test_overlong_responses_are_trained_on_their_shaped_rewards() -> None:
    import torch

    # cap 12, buffer 4: 10 tokens lose half of the penalty, 12 all of it
    rewards = np.array([1, 1 - 0.5 * 0.8, 0 - 0.8], np.float32)
    by_hand = msgspec.structs.replace(_group(), rewards=rewards, baseline_rewards=rewards)
    expected = _gradient(_trainer(), by_hand)
    shaped = _gradient(_trainer(overlong_buffer_tokens=4, overlong_penalty=0.8), _group())
    scale = float(expected.abs().max())
    torch.testing.assert_close(shaped, expected, atol=1e-5 * scale, rtol=1e-5)
    assert float((shaped - _gradient(_trainer(), _group())).abs().max()) > 0.1 * scale
