"""The policy under training: forward and backward over groups as they arrive, one exact update a step.

Blocking, and everything in here must run on one thread (torch keeps its thread count per thread); the learner gives
it a thread of its own so that its event loop never waits. No asyncio, no links.

Invariant: the gradient of an update is that of one full batch, whatever the order of arrival, the micro-batch size and
the number of processes: token losses are summed, never averaged, until they are divided once by the update's
denominator. The model runs in evaluation mode (no dropout), so its log-probs are the ones the engine would compute.

A step is one update or several (`learner.updates_per_step`): its groups are split, in the order they come, into equal
shares, and each share but the last is an update as soon as it is complete; `apply_step` makes the last one.

With several processes (`parallel_trainer`) there is one of these in each, and all make the same calls.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from darts_async.algorithms.group_advantages import GroupAdvantages
from darts_async.config.paths import model_folder
from darts_async.engines.activation_checkpoints import checkpoint_activations
from darts_async.engines.frozen import FrozenPolicies
from darts_async.engines.loss_tokens import LossTokens
from darts_async.engines.micro_batch import MicroBatch, Row, collate, cost_tokens, plan_micro_batches, rows_of
from darts_async.engines.objective import Objective
from darts_async.engines.observations import Observations
from darts_async.engines.optimiser import StepOptimiser, Update
from darts_async.engines.policy_model import PolicyModel, PolicyScorer, load_policy
from darts_async.engines.ranks import Ranks
from darts_async.engines.step_stats import StepStats
from darts_async.engines.token_sums import TokenSums
from darts_async.engines.trained_weights import trained_weights
from darts_async.engines.training_state import FOLDER as STATE_FOLDER
from darts_async.engines.training_state import (
    TrainingState,
    load_training_state,
    random_state,
    restore_random,
    save_training_state,
)
from darts_async.errors import ConfigError, ProtocolError, RunFailed

if TYPE_CHECKING:
    from typing import TypeAlias

    from darts_async.config import Config
    from darts_async.engines.parallel_trainer import ParallelTrainer
    from darts_async.messages import TrainGroup

    Trainer: TypeAlias = "PolicyTrainer | ParallelTrainer"

_log = logging.getLogger(__name__)


class PolicyTrainer:
    """A causal language model, its optimiser and the unfinished step."""

    def __init__(self, config: Config, dtype: torch.dtype | None = None, *, ranks: Ranks | None = None) -> None:
        """Load the model folder, in `model.dtype` or `dtype`. Raises what transformers raises for a folder it cannot
        load, and `ConfigError` for a function of the user's and for what the model cannot do."""
        settings = config.learner
        self._advantages = GroupAdvantages(config)
        self._objective = Objective(config)
        torch.set_num_threads(settings.threads)
        self._source = model_folder(config)
        self._config = config
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=settings.mixed_precision)
        self._model: Any = load_policy(config, dtype)
        scorer = PolicyScorer(self._model, config)
        if settings.gradient_checkpointing:
            checkpoint_activations(self._model)
        self._policy = PolicyModel(self._accelerator.prepare_model(scorer), config)
        self._ranks = ranks or Ranks()
        self._ranks.shard(self._policy.model, self._accelerator.device)
        bare = self._accelerator.unwrap_model(self._model)
        self._weights = trained_weights(bare, self._source, config, sharded=self._ranks.sharded)
        self._optimiser = StepOptimiser(self._model.named_parameters(), settings, steps=config.run.steps)
        self._observations = Observations(config, [p for p in self._model.parameters() if p.requires_grad])
        self._share_groups = config.group.groups_per_step // settings.updates_per_step
        self._begin_step()
        self._abandoned = threading.Event()
        self._bad_steps = 0
        self.version = 0
        """The policy version whose weights these are."""
        if settings.init_optimiser:
            self._take_optimiser()
        # In shards the policy only runs in all processes at once, and each scores its own rows with a frozen one.
        shared = None if self._ranks.sharded else self._model
        self.frozen = FrozenPolicies(config, self._accelerator.device, self._accelerator.autocast, shared)

    def _take_optimiser(self) -> None:
        """Begin with what the checkpoint that the weights are from knew of the gradients before it."""
        try:
            self._optimiser.load_state_dict(load_training_state(self._source / STATE_FOLDER).optimiser)
        except (ProtocolError, ValueError) as error:
            fix = "Set it to false, or model.path to a checkpoint that was written with checkpoint.optimiser."
            raise ConfigError("learner.init_optimiser", True, str(error), fix) from error

    def _begin_step(self) -> None:
        self._sums = TokenSums()
        """Of the open update, in this process."""
        self._num_groups = 0
        """In the open update."""
        self._updates: list[Update] = []
        """Made in this step."""
        self._step_sums = TokenSums()
        """Of these."""

    def accumulate(self, groups: Sequence[TrainGroup]) -> TokenSums:
        """Add the gradient of the groups' summed token losses; return these groups' sums (of this process's share).

        Makes the updates whose shares are complete, except the step's last one. Blocks for one forward and backward
        pass per micro-batch; `abandon` ends it after the running one.
        """
        total, left = TokenSums(), list(groups)
        while left:
            is_last = len(self._updates) == self._config.learner.updates_per_step - 1
            room = len(left) if is_last else self._share_groups - self._num_groups
            part, left = left[:room], left[room:]
            total += self._add(part)
            self._num_groups += len(part)
            if not is_last and self._num_groups == self._share_groups:
                # All processes make the update, or none does.
                if self._ranks.any(self._abandoned.is_set(), self._accelerator.device):
                    break
                self._update()
        return total

    def _add(self, groups: Sequence[TrainGroup]) -> TokenSums:
        settings, device = self._config.learner, self._accelerator.device
        rows = [
            row
            for group in groups
            for row in rows_of(group, self._advantages(group), mask_truncated=settings.mask_truncated)
        ]
        parts = plan_micro_batches(rows, settings, device)
        mine = self._ranks.share([cost_tokens(part, settings, device) for part in parts])
        my_rows = [row for index in mine if index is not None for row in parts[index]]
        self.frozen.fill(groups, my_rows, go_on=self._goes_on)
        sums = TokenSums()
        for index in mine:
            if self._ranks.stops(self._abandoned.is_set(), device):
                break
            if index is None:
                self._pass_without_weight(min(rows, key=lambda row: row.num_tokens))
            else:
                sums += self._accumulate(collate(parts[index], device, padding_free=settings.packing == "padding_free"))
            self.frozen.take_news()
        self._sums += sums
        return sums

    def _pass_without_weight(self, row: Row) -> None:
        """A forward and backward pass that adds zeros: with shards all processes must make equally many."""
        settings, device = self._config.learner, self._accelerator.device
        scores = self._policy.score(collate([row], device, padding_free=settings.packing == "padding_free"))
        self._observations.keep_pace(scores.logprobs, self.version)
        self._accelerator.backward(scores.logprobs.sum() * 0.0)
        self._optimiser.collect()

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
            # After the step's first update the weights are no longer the ones that sampled anything.
            current=(batch.oldest_versions == self.version) & (not self._updates),
            reference=batch.reference_logprobs,
            entropy=scores.entropy,
        )

    def apply_step(self) -> StepStats:
        """Make the next version from the accumulated gradients. Raises `RunFailed` after too many bad steps in a row.

        An update whose loss or gradient norm is not finite leaves the weights as they are, and its step is a bad one;
        it still makes a version, so that flow control, which counts versions, goes on. So does a step without loss
        tokens (all masked).
        """
        self._update()
        skipped = not all(update.finite for update in self._updates)
        self._bad_steps = self._bad_steps + 1 if skipped else 0
        if self._bad_steps >= self._config.learner.max_bad_steps:
            last = self._updates[-1]
            raise RunFailed(
                f"learner: loss or gradient not finite in {self._bad_steps} steps in a row "
                f"(learner.max_bad_steps = {self._config.learner.max_bad_steps}; last loss {self._step_sums.loss:g}, "
                f"gradient norm {last.grad_norm:g}). Lower learner.lr, or look for rewards that are not numbers."
            )
        updates, sums = self._updates, self._step_sums
        self._begin_step()
        self.version += 1
        self.frozen.refresh(self._model)
        self._observations.reduce_figures(self._ranks.add_up, self._accelerator.device)
        return StepStats(
            version=self.version,
            skipped=skipped,
            grad_norm=sum(update.grad_norm for update in updates) / len(updates),
            lr=updates[-1].lr,
            sums=sums,
            observed=self._observations.finish() | self.frozen.take_metrics(),
        )

    def _update(self) -> None:
        """Make one update of the gradients so far, or skip it if a number is not finite. The same in all processes."""
        mine, self._sums, self._num_groups = self._sums, TokenSums(), 0
        sums = self._ranks.join(mine, self._accelerator.device)
        if self._ranks.adds_gradients:
            self._optimiser.reduce(self._ranks.add_up)
            self._observations.reduce(self._ranks.add_up, self.version)
        self._observations.compare(self._optimiser.gradients, self.version)
        update = self._optimiser.apply(
            denominator=sums.denominator, loss=sums.loss, step=self.version, clip=self._accelerator.clip_grad_norm_
        )
        if not update.finite:
            _log.warning(
                "step %d, update %d skipped: loss %g, gradient norm %g (%d bad steps in a row before it)",
                self.version,
                len(self._updates) + 1,
                sums.loss,
                update.grad_norm,
                self._bad_steps,
            )
        self._updates.append(update)
        self._step_sums += sums

    def _goes_on(self) -> bool:
        return not self._abandoned.is_set()

    def abandon(self) -> None:
        """Give the unfinished step up (from any thread): a running `accumulate` returns after its micro-batch."""
        self._abandoned.set()

    def publish(self, path: Path) -> None:
        """Write what is trained, the weights or their adapter, as one safetensors file, complete or not at all."""
        self._weights.publish(path, main=self._ranks.main)

    def save_checkpoint(self, folder: Path) -> None:
        """Write a Hugging Face folder of the current weights and, with `checkpoint.optimiser`, what is needed to go on
        from them; complete or not at all."""
        self._save(folder, whole=True, state=self._config.checkpoint.optimiser)

    def save_recovery(self, folder: Path) -> None:
        """Write a checkpoint that can be gone on from, whatever `checkpoint.optimiser` says."""
        self._save(folder, whole=False, state=True)

    def _save(self, folder: Path, *, whole: bool, state: bool) -> None:
        further: list[Callable[[Path], None]] = []
        if state:
            stands = TrainingState(self.version, self._bad_steps, self._optimiser.state_dict(), random_state())
            further.append(lambda partial: save_training_state(partial / STATE_FOLDER, stands))
        self._weights.save(folder, further, whole=whole, main=self._ranks.main)

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint, between two steps: the next one is the one that would have followed.

        Raises `ProtocolError` when it is damaged, of another model, or has no training state. Loads the weights a
        second time for a moment.
        """
        state = load_training_state(folder / STATE_FOLDER)
        weights = self._weights.read(folder)
        try:
            self._optimiser.load_state_dict(state.optimiser)
        except ValueError as error:
            raise ProtocolError(f"{folder}: {error}") from error
        self._weights.take(weights)
        restore_random(state.random)
        self._optimiser.drop()
        self._begin_step()
        self._bad_steps = state.bad_steps
        self.version = state.version
        self.frozen.refresh(self._model)

    def close(self) -> None:
        """Nothing to end here: there is one process."""

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The open update's gradient sums, float32 or wider, one per parameter."""
        return self._optimiser.gradients


def load_trainer(config: Config, dtype: torch.dtype | None = None) -> Trainer:
    """Load the policy of a config, in `model.dtype` or `dtype` (one process only). Takes seconds; call it on the thread
    that will do all torch work."""
    if config.learner.processes > 1:
        from darts_async.engines.parallel_trainer import ParallelTrainer  # noqa: PLC0415 - it builds on this module

        return ParallelTrainer(config)
    return PolicyTrainer(config, dtype)
