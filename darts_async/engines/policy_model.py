"""A causal language model that scores tokens: the policy under training, or a frozen copy of it.

Blocking; all calls on one thread. The model runs without dropout, so its log-probs are the ones the engine computes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.utils.checkpoint import checkpoint

from darts_async.config.paths import model_folder
from darts_async.engines.fused_logprobs import fused_logprobs, scores_of_logits
from darts_async.engines.output_layer import decoder_of, is_plain
from darts_async.engines.packed_rows import keeps_apart
from darts_async.engines.segment_attention import segments_known, use_segment_attention
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from darts_async.config import Config
    from darts_async.engines.micro_batch import MicroBatch

__all__ = ["PolicyModel", "PolicyScorer", "TokenScores", "load_model", "load_policy"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a model says of a micro-batch's loss tokens, float32 or wider, with gradient unless under `no_grad`."""

    logprobs: torch.Tensor
    """[T], at the sampling temperature."""
    entropy: torch.Tensor | None
    """[T] of the distribution at that temperature, in nats; None if not asked for."""


def load_model(folder: Path, config: Config, dtype: torch.dtype | None = None) -> Any:
    """Load a Hugging Face folder in evaluation mode. Raises what transformers raises for it.

    In `model.dtype`, or in `dtype` where that is given (float64, for exact comparisons).
    """
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype or getattr(torch, config.model.dtype), local_files_only=True
    )
    return model.eval()


def load_policy(config: Config, dtype: torch.dtype | None = None) -> Any:
    """Load the policy that is trained: the model folder, with a fresh adapter where `learner.lora_rank` asks for one,
    all else frozen then. Raises what `load_model` raises, and `ConfigError` for an adapter that it cannot have."""
    folder = model_folder(config)
    model = load_model(folder, config, dtype)
    if config.learner.lora_rank:
        from darts_async.engines.lora import add_adapter  # noqa: PLC0415 - peft, where there is an adapter

        add_adapter(model, config, folder)
    return model


class PolicyScorer(torch.nn.Module):
    """The module that accelerate prepares, in the place of the bare model: tokens in, scores out, no logits.

    The output layer is applied in this forward pass and not by the layer's own `forward`. So this, and not the model
    inside, is what must be wrapped: replicas synchronise on the module whose `forward` is called, and with FSDP2
    `fully_shard` gathers a module's parameters for that module's own forward pass. Shard the decoder layers and then
    this scorer as the root: embedding, final norm and output layer (tied or not) then belong to the root, and are whole
    in here. An output layer sharded as a unit of its own would not be. The model itself is `.model`, unchanged, for
    whoever writes weights. Build the scorer from real weights before anything is sharded: it runs the model once, to
    see whether its logits are a plain linear map of the hidden states; where they are not, its own logits are used.
    """

    def __init__(self, model: Any, config: Config) -> None:
        super().__init__()
        self.model = model
        self._temperature = config.sampling.temperature
        self._chunk = config.learner.logprob_chunk_tokens
        self._fused = is_plain(model)
        if not self._fused:
            _log.info(
                "%s: its logits are more than a linear map of its hidden states; its own logits are used, whole",
                type(model).__name__,
            )
        self._segments = False
        if config.learner.packing == "padding_free":
            self._pack_rows()

    def _pack_rows(self) -> None:
        """Attention response by response where the model lets it, else under transformers' mask; refuse what mixes."""
        self._segments = use_segment_attention(self.model)
        if self._segments and keeps_apart(self, self.model.get_output_embeddings()):
            return
        self._segments = False
        if not keeps_apart(self, self.model.get_output_embeddings()):
            raise ConfigError(
                "learner.packing",
                "padding_free",
                f"{type(self.model).__name__} cannot keep responses apart that stand in one row",
                'use packing = "bucketed"',
            )
        _log.info("%s: padding-free rows need a mask of row x row", type(self.model).__name__)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        *,
        logits_to_keep: int = 0,
        position_ids: torch.Tensor | None = None,
        segments: Sequence[int] | None = None,
        entropy: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return log-probs [T] of `targets` at `positions` of the flattened `input_ids` [R, W], and entropies [T].

        `position_ids` and `segments` (lengths, of the one row there is) for packed rows. `logits_to_keep`: no position
        lies before the last so many of a row (0: anywhere).
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if segments is not None and self._segments:
            with segments_known():
                return self._scores(inputs | {"segments": segments}, positions, targets, logits_to_keep, entropy)
        return self._scores(inputs, positions, targets, logits_to_keep, entropy)

    def _scores(
        self, inputs: dict[str, Any], positions: torch.Tensor, targets: torch.Tensor, keep: int, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._fused:
            return self._scores_of_own_logits(inputs, positions, targets, keep, entropy)
        head = self.model.get_output_embeddings()
        hidden = decoder_of(self.model)(**inputs).last_hidden_state
        return fused_logprobs(
            hidden.flatten(0, 1).index_select(0, positions),
            head.weight,
            head.bias,
            targets,
            temperature=self._temperature,
            chunk_tokens=self._chunk,
            entropy=entropy,
        )

    def _scores_of_own_logits(
        self, inputs: dict[str, Any], positions: torch.Tensor, targets: torch.Tensor, keep: int, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of the kept positions at once, the float32 work on them in chunks that the backward pass repeats."""
        width = inputs["input_ids"].shape[1]
        keep = keep or width
        kept = positions - (positions // width + 1) * (width - keep)  # index in the flattened [R, keep]
        logits = self.model(**inputs, logits_to_keep=keep).logits.flatten(0, 1).index_select(0, kept)
        parts = [
            checkpoint(scores_of_logits, part, target, self._temperature, entropy=entropy, use_reentrant=False)
            for part, target in zip(torch.split(logits, self._chunk), torch.split(targets, self._chunk), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies) if entropy else None


class PolicyModel:
    """Scores micro-batches with a model, or with a scorer that somebody has placed and wrapped."""

    def __init__(self, model: Any, config: Config) -> None:
        """`model` is a bare causal language model, or a `PolicyScorer` however it is wrapped by now."""
        self.model = PolicyScorer(model, config) if isinstance(model, transformers.PreTrainedModel) else model

    def score(self, batch: MicroBatch, *, entropy: bool = False) -> TokenScores:
        """Forward pass over a micro-batch."""
        return TokenScores(
            *self.model(
                batch.input_ids,
                batch.positions,
                batch.targets,
                logits_to_keep=batch.logits_to_keep,
                position_ids=batch.position_ids,
                segments=batch.segments,
                entropy=entropy,
            )
        )
