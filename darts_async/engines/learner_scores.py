"""The learner's log-probs of responses that an engine has sampled, on the learner's own path through model and packing.

Blocking; all calls on one thread. No gradient, no optimiser: what a run's first step would compute before its update.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from darts_async.config.paths import model_folder
from darts_async.engines.micro_batch import Row, micro_batches
from darts_async.engines.policy_model import PolicyModel, load_policy
from darts_async.engines.trained_weights import trained_weights

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.sampling import Sampled

__all__ = ["LearnerScores"]


class LearnerScores:
    """The policy of a config, loaded as the learner loads it."""

    def __init__(self, config: Config) -> None:
        """Load the model folder. Raises what transformers raises for a folder it cannot load."""
        torch.set_num_threads(config.learner.threads)
        # Activations are not kept here, so there is nothing to save by computing them twice.
        learner = config.learner.model_copy(update={"gradient_checkpointing": False})
        self._config = config.model_copy(update={"learner": learner})
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load_policy(config).to(self._device)

    def score(self, samples: Sequence[Sampled], temperature: float | None = None) -> list[npt.NDArray[np.float32]]:
        """Return the log-probs of each sample's response tokens, at `temperature` (None: `sampling.temperature`).

        All samples have a trajectory.
        """
        config = self._config
        if temperature is not None:
            sampling = config.sampling.model_copy(update={"temperature": temperature})
            config = config.model_copy(update={"sampling": sampling})
        rows = [_row(number, sample) for number, sample in enumerate(samples)]
        scores = [np.empty(row.response.size, np.float32) for row in rows]
        policy = PolicyModel(self._model, config)
        bf16 = torch.autocast(self._device.type, torch.bfloat16, enabled=config.learner.mixed_precision == "bf16")
        with torch.no_grad(), bf16:
            for batch in micro_batches(rows, config.learner, self._device):
                logprobs = policy.score(batch).logprobs.float().cpu().numpy()
                numbers = batch.versions.cpu().numpy()
                for number in np.unique(numbers).tolist():
                    scores[number][:] = logprobs[numbers == number]
        return scores

    def publish(self, path: Path) -> None:
        """Write the weights as the learner publishes a version."""
        trained_weights(self._model, model_folder(self._config), self._config).publish(path)

    @property
    def optimiser_bytes(self) -> int:
        """What training needs beside the weights: float32 gradient sums, two moments, masters of narrower weights."""
        return sum(
            parameter.numel() * (12 if parameter.dtype == torch.float32 else 4 + 12 + parameter.element_size())
            for parameter in self._model.parameters()
            if parameter.requires_grad
        )

    def memory(self) -> tuple[int, int] | None:
        """Bytes that are free and that there are in all on the GPU; None without one."""
        if self._device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        return int(free), int(total)


def _row(number: int, sample: Sampled) -> Row:
    trajectory = sample.trajectory
    assert trajectory is not None
    size = trajectory.response_tokens.size
    return Row(
        candidate_id=number,
        prompt=sample.request.prompt_tokens,
        response=trajectory.response_tokens,
        behaviour_logprobs=trajectory.behaviour_logprobs,
        # Packing mixes the rows; this field goes with each token and tells which one it is of.
        versions=np.full(size, number, np.int32),
        advantage=0.0,
    )
