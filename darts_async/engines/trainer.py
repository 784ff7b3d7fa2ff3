"""The policy under training: forward and backward over groups as they arrive, one exact update a step.

Blocking, and everything in here must run on one thread (torch keeps its thread count per thread); the learner gives
it a thread of its own so that its event loop never waits. No asyncio, no links.

Invariant: the gradient of a step is that of one full batch, whatever the order of arrival and the micro-batch size:
token losses are summed, never averaged, until `apply_step` divides once by the step's loss tokens. The model runs in
evaluation mode (no dropout), so its log-probs are the ones the engine would compute.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from darts_async.algorithms.group_advantages import GroupAdvantages
from darts_async.config.paths import model_folder
from darts_async.engines.activation_checkpoints import checkpoint_activations
from darts_async.engines.frozen import FrozenPolicies
from darts_async.engines.loss_tokens import LossTokens
from darts_async.engines.micro_batch import MicroBatch, micro_batches, rows_of
from darts_async.engines.objective import Objective
from darts_async.engines.observations import Observations
from darts_async.engines.optimiser import StepOptimiser
from darts_async.engines.policy_model import PolicyModel, PolicyScorer, load_model
from darts_async.engines.token_sums import TokenSums
from darts_async.engines.weights import export_tensors, write_checkpoint, write_weights
from darts_async.errors import RunFailed

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.messages import TrainGroup

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepStats:
    """One finished step."""

    version: int
    """The policy version that the step made."""
    skipped: bool
    """A loss or gradient was not finite: the weights are those of the version before."""
    grad_norm: float
    """Norm of the mean gradient before clipping; NaN or infinite when skipped for it."""
    lr: float
    sums: TokenSums
    observed: dict[str, float] = field(default_factory=dict)
    """Metrics of the shadows, the curves by age and the frozen policies."""


class PolicyTrainer:
    """A causal language model, its optimiser and the unfinished step."""

    def __init__(self, config: Config, dtype: torch.dtype | None = None) -> None:
        """Load the model folder, in `model.dtype` or `dtype`. Raises what transformers raises for a folder it cannot
        load, and `ConfigError` for a function of the user's and for what the model cannot do."""
        settings = config.learner
        self._advantages = GroupAdvantages(config)
        self._objective = Objective(config)
        torch.set_num_threads(settings.threads)
        self._source = model_folder(config)
        self._config = config
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=settings.mixed_precision)
        self._model: Any = load_model(self._source, config, dtype)
        scorer = PolicyScorer(self._model, config)
        if settings.gradient_checkpointing:
            checkpoint_activations(self._model)
        self._policy = PolicyModel(self._accelerator.prepare_model(scorer), config)
        self._optimiser = StepOptimiser(self._model.named_parameters(), settings, steps=config.run.steps)
        self._observations = Observations(config, [p for p in self._model.parameters() if p.requires_grad])
        self._sums = TokenSums()
        self._abandoned = threading.Event()
        self._bad_steps = 0
        self.version = 0
        """The policy version whose weights these are."""
        self.frozen = FrozenPolicies(config, self._accelerator.device, self._accelerator.autocast)

    def accumulate(self, groups: Sequence[TrainGroup]) -> TokenSums:
        """Add the gradient of the groups' summed token losses to the step; return these groups' sums.

        Blocks for one forward and backward pass per micro-batch; `abandon` ends it after the running one.
        """
        settings = self._config.learner
        rows = [
            row
            for group in groups
            for row in rows_of(group, self._advantages(group), mask_truncated=settings.mask_truncated)
        ]
        self.frozen.fill(groups, rows, go_on=self._goes_on)
        sums = TokenSums()
        for batch in micro_batches(rows, settings, self._accelerator.device):
            if self._abandoned.is_set():
                break
            sums += self._accumulate(batch)
            self.frozen.take_news()
        self._sums += sums
        return sums

    def _accumulate(self, batch: MicroBatch) -> TokenSums:
        tokens = self.loss_tokens(batch)
        self._observations.observe(tokens, self.version)
        loss, sums = self._objective(tokens)
        self._accelerator.backward(loss)
        self._optimiser.collect()
        sums.micro_batches = 1
        sums.padded_tokens = batch.input_ids.numel()
        return sums

    def loss_tokens(self, batch: MicroBatch) -> LossTokens:
        """Score a micro-batch under the policy, with gradient."""
        scores = self._policy.score(batch, entropy=self._config.learner.entropy_weight > 0)
        proximal = batch.proximal_logprobs
        return LossTokens(
            policy=scores.logprobs,
            behaviour=batch.behaviour_logprobs,
            proximal=scores.logprobs.detach() if proximal is None else proximal,
            advantages=batch.advantages,
            responses=batch.responses,
            lengths=batch.lengths,
            ages=self.version - batch.versions,
            current=batch.oldest_versions == self.version,
            reference=batch.reference_logprobs,
            entropy=scores.entropy,
        )

    def apply_step(self) -> StepStats:
        """Make the next version from the accumulated gradients. Raises `RunFailed` after too many bad steps in a row.

        A step whose loss or gradient norm is not finite leaves the weights as they are; it still makes a version, so
        that flow control, which counts versions, goes on. So does a step without loss tokens (all masked).
        """
        sums, self._sums = self._sums, TokenSums()
        self._observations.compare(self._optimiser.gradients, self.version)
        update = self._optimiser.apply(
            denominator=sums.denominator, loss=sums.loss, step=self.version, clip=self._accelerator.clip_grad_norm_
        )
        self._bad_steps = 0 if update.finite else self._bad_steps + 1
        if not update.finite:
            _log.warning(
                "step %d skipped: loss %g, gradient norm %g (%d in a row)",
                self.version,
                sums.loss,
                update.grad_norm,
                self._bad_steps,
            )
        if self._bad_steps >= self._config.learner.max_bad_steps:
            raise RunFailed(
                f"learner: loss or gradient not finite in {self._bad_steps} steps in a row "
                f"(learner.max_bad_steps = {self._config.learner.max_bad_steps}; last loss {sums.loss:g}, gradient "
                f"norm {update.grad_norm:g}). Lower learner.lr, or look for rewards that are not numbers."
            )
        self.version += 1
        self.frozen.refresh(self._model)
        return StepStats(
            version=self.version,
            skipped=not update.finite,
            grad_norm=update.grad_norm,
            lr=update.lr,
            sums=sums,
            observed=self._observations.finish() | self.frozen.take_metrics(),
        )

    def _goes_on(self) -> bool:
        return not self._abandoned.is_set()

    def abandon(self) -> None:
        """Give the unfinished step up (from any thread): a running `accumulate` returns after its micro-batch."""
        self._abandoned.set()

    def publish(self, path: Path) -> None:
        """Write the current weights as one safetensors file, complete or not at all."""
        write_weights(path, export_tensors(self._accelerator.unwrap_model(self._model)))

    def save_checkpoint(self, folder: Path) -> None:
        """Write the current weights as a Hugging Face folder, complete or not at all."""
        write_checkpoint(folder, self._accelerator.unwrap_model(self._model), self._source)

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The unfinished step's gradient sums, float32, one per parameter."""
        return self._optimiser.gradients


def load_trainer(config: Config, dtype: torch.dtype | None = None) -> PolicyTrainer:
    """Load the policy of a config, in `model.dtype` or `dtype`. Takes seconds; call it on the thread that will do all
    torch work."""
    return PolicyTrainer(config, dtype)
