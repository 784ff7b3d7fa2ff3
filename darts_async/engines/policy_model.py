"""A causal language model that scores tokens: the policy under training, or a frozen copy of it.

Blocking; all calls on one thread. The model runs without dropout, so its log-probs are the ones the engine computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from darts_async.engines.logprobs import token_logprobs

if TYPE_CHECKING:
    from pathlib import Path

    from darts_async.config import Config
    from darts_async.engines.micro_batch import MicroBatch

__all__ = ["PolicyModel", "TokenScores", "load_model"]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a model says of a micro-batch's loss tokens, float32 or wider, with gradient unless under `no_grad`."""

    logprobs: torch.Tensor
    """[T], at the sampling temperature."""
    entropy: torch.Tensor | None
    """[T] of the distribution at that temperature, in nats; None if not asked for."""


def load_model(folder: Path, config: Config) -> Any:
    """Load a Hugging Face folder in `model.dtype`, in evaluation mode. Raises what transformers raises for it."""
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, config.model.dtype), local_files_only=True
    )
    return model.eval()


class PolicyModel:
    """Scores with a model that somebody else has loaded, placed and wrapped."""

    def __init__(self, model: Any, config: Config) -> None:
        self.model = model
        self._temperature = config.sampling.temperature

    def score(self, batch: MicroBatch, *, entropy: bool = False) -> TokenScores:
        """Forward pass over a micro-batch."""
        logits = self.model(input_ids=batch.input_ids, logits_to_keep=batch.logits_to_keep, use_cache=False).logits
        chosen = logits.reshape(-1, logits.shape[-1]).index_select(0, batch.positions)
        if entropy:
            logs = torch.log_softmax(chosen.float() / self._temperature, dim=-1)
            return TokenScores(
                logs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1), -(logs.exp() * logs).sum(dim=-1)
            )
        return TokenScores(token_logprobs(chosen, batch.targets, self._temperature), None)
