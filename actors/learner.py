"""The learner: trains the groups it is handed, publishes every version of the policy, keeps checkpoints.

Torch lives on one thread of its own; the event loop only moves messages. Invariants: a group whose staleness exceeds
the bound is never trained on (it is swept at the door, and its step waits for another one); once an update is applied,
its version is published and its `StepDone` sent, also when the run is being stopped; a version is never skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from darts_async.algorithms.chunking import groups_wanted
from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.algorithms.limits import EndedBy, RunLimits
from darts_async.algorithms.parity import GROSS_LIMITS, FirstStep, precision_of
from darts_async.algorithms.staleness import eta_of, staleness
from darts_async.algorithms.training_record import TrainingRecord
from darts_async.config import Config
from darts_async.config.frozen import needs_proximal, needs_reference, streams_tokens
from darts_async.config.paths import RunPaths
from darts_async.engines.weight_store import WeightStore
from darts_async.errors import ProtocolError, RunFailed
from darts_async.messages import ChunksDropped, GroupSwept, PolicyScored, StepDone, StepMetrics, StreamEnd, TrainGroup
from darts_async.runtime.checkpoints import Checkpoints
from darts_async.runtime.links import LearnerLinks
from darts_async.runtime.policy_server import PolicyServer
from darts_async.runtime.score_ahead import ScoreAhead

if TYPE_CHECKING:
    from darts_async.engines.frozen import FrozenPolicies
    from darts_async.engines.trainer import StepStats, Trainer

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_SCORE_SHARE: Final = 0.25
"""Share of `launch.drain_timeout_s` for the last score, which was sent before the order to stop, to arrive."""


async def run(links: LearnerLinks, config: Config, trainer: Trainer | None = None) -> None:
    """Train until a limit of [run] is reached, then serve the last version until stopped.

    Loads the policy unless handed a trainer.
    """
    learner = _Learner(links, config)
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(learner.policy.serve())
            await learner.work(trainer)
            serving.cancel()
    finally:
        learner.torch.shutdown(wait=False, cancel_futures=True)


def _parity_limit(config: Config) -> float | None:
    """The largest mean difference of log-probs that the first step may show; None: whatever it shows."""
    if config.generator.engine == "sim":  # it makes its log-probs up: there is nothing that could agree
        return None
    return config.learner.max_parity_diff or GROSS_LIMITS[precision_of(config)]


def _load(config: Config, store: WeightStore) -> Trainer:
    from darts_async.engines.trainer import load_trainer  # noqa: PLC0415 - seconds of imports, off the event loop

    store.clear()
    return load_trainer(config)


class _Learner:
    def __init__(self, links: LearnerLinks, config: Config) -> None:
        self._links = links
        self._config = config
        self._supervisor = links.supervisor
        paths = RunPaths.of(config)
        self._checkpoints = Checkpoints(paths.checkpoints, config.checkpoint.keep)
        self._store = WeightStore(paths.weights, config.generator.replicas)
        self._eta = eta_of(config)
        self._record = TrainingRecord()
        self._first_step = FirstStep(_parity_limit(config))
        self._schedule = EvalSchedule.of(config)
        self._keeps_best = self._schedule.every_steps > 0 and config.checkpoint.keep_best
        self._limits = RunLimits.of(config)
        self._ended_by: EndedBy | None = None
        self._saved = 0
        self._scored = 0
        """The latest version whose held-out score is here."""
        self._score_news = asyncio.Event()
        self.policy = PolicyServer(links.policy, self._store, self._schedule, self._take_score)
        self.torch = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._trainer: Trainer | None = None
        self._frozen: FrozenPolicies | None = None
        """Of the trainer, where the config needs any."""
        self._ahead: ScoreAhead | None = None
        """Where tokens are streamed."""

    # --- the life of the role -------------------------------------------------------------------------------------

    async def work(self, trainer: Trainer | None) -> None:
        supervisor = self._supervisor
        supervisor.state = "loading the policy"
        self._trainer = trainer
        if trainer is None:
            await self._unless_stopping(self._load())
        if self._trainer is not None and (needs_reference(self._config) or needs_proximal(self._config)):
            self._frozen = self._trainer.frozen
            if streams_tokens(self._config):
                self._ahead = ScoreAhead(self._links.chunks, self._frozen, self._submit)
        if not supervisor.stopping.is_set():
            await supervisor.ready()
        async with self._ahead.running() if self._ahead else contextlib.nullcontext():
            await self._train()
        supervisor.state = "draining"
        await self._links.steps.send(StreamEnd(role="learner", rank=self._links.rank))
        await self._checkpoint_last()
        await self._last_score()
        if self._trainer is not None and trainer is None:
            await self._on_torch(self._trainer.close)
        summary = {**self._record.summary(), "policy_version": float(self.policy.version)}
        if self._ended_by is not None:
            summary[f"ended_by/{self._ended_by}"] = 1.0
        await supervisor.finish(summary)

    async def _load(self) -> None:
        self._trainer = await self._on_torch(_load, self._config, self._store)

    async def _train(self) -> None:
        stopping = self._supervisor.stopping
        self._record.begin(time.monotonic())
        self._show()
        while self._ended_by is None and not stopping.is_set():
            await self._unless_stopping(self._gather())
            if not stopping.is_set():
                await self._commit()
        if self._trainer is not None and stopping.is_set():
            self._trainer.abandon()
        elif not stopping.is_set():
            await self._checkpoint_last()
            self._supervisor.state = "done, serving the last weights"
            await self._unless_stopping(self._discard_groups())

    async def _unless_stopping(self, work: Coroutine[None, None, None]) -> None:
        """Run until it is done or the run is stopped, which cancels it."""
        async with asyncio.TaskGroup() as tasks:
            job = tasks.create_task(work)
            stop = tasks.create_task(self._supervisor.stopping.wait())
            await asyncio.wait((job, stop), return_when=asyncio.FIRST_COMPLETED)
            job.cancel()
            stop.cancel()

    async def _on_torch(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        with self._ahead.paused() if self._ahead else contextlib.nullcontext():
            return await self._submit(function, *arguments)

    async def _submit(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self.torch, partial(function, *arguments))

    async def _discard_groups(self) -> None:
        """Let nobody wait for room on the link: groups that come after the last step are not trained."""
        while True:
            await self._links.groups.recv()

    # --- one step ---------------------------------------------------------------------------------------------------

    async def _gather(self) -> None:
        """Take groups until the step is full, with their gradients. Cancelled when the run stops."""
        assert self._trainer is not None
        size = self._config.group.groups_per_step
        whole_batch = self._config.pipeline.mode == "sync"
        min_chunk, left = self._config.queues.min_chunk, size
        waiting: list[TrainGroup] = []
        while len(self._record.group_ids) < size:
            self._supervisor.state = f"waiting for groups ({len(self._record.group_ids)}/{size})"
            began = time.monotonic()
            waiting += await self._receive(size - len(self._record.group_ids))
            arrived = time.monotonic()
            self._record.waited(arrived - began)
            if len(waiting) < groups_wanted(left=left, min_chunk=min_chunk, whole_batch=whole_batch):
                continue
            self._supervisor.state = f"training step {self.policy.version + 1}"
            sums = await self._on_torch(self._trainer.accumulate, waiting)
            self._first_step.add(
                tokens=sums.same_version_tokens,
                diff_sum=sums.same_version_diff,
                diff_max=sums.same_version_diff_max,
            )
            self._record.computed(time.monotonic() - arrived)
            left -= len(waiting)
            waiting = []

    async def _receive(self, limit: int) -> list[TrainGroup]:
        """Wait for a group, and take with it what else is here already, up to `limit`: fewer, fuller micro-batches."""
        accepted: list[TrainGroup] = []
        while len(accepted) < limit and (not accepted or self._links.groups.stats.depth):
            message = await self._links.groups.recv()
            self._show()
            if isinstance(message, StreamEnd):
                await self._stream_ended()
            elif isinstance(message, ChunksDropped):
                self._drop_chunks(message.candidate_ids)
            elif await self._admit(message):
                accepted.append(message)
        return accepted

    async def _admit(self, group: TrainGroup) -> bool:
        """The door: refuse what is too stale. Raises `ProtocolError` for a group out of order or from the future.

        The i-th group that arrives was planned for step (i - s) // groups_per_step, where s is how many sweeps the
        selector knew of then: between none and all so far. So the plan lies between the open step and the step
        without any sweep.
        """
        version, record = self.policy.version, self._record
        size = self._config.group.groups_per_step
        latest_plan = (record.num_groups + record.num_swept) // size
        if not version <= group.step <= latest_plan:
            raise ProtocolError(
                f"the selector sent group {group.group_id} of step {group.step} where step {version} to {latest_plan} "
                "was due"
            )
        newest = max(spans[-1].version for spans in group.version_spans)
        if newest > version:
            raise ProtocolError(f"group {group.group_id} has tokens of version {newest}, the latest is {version}")
        stale = staleness(version, group.oldest_version)
        if stale > self._eta:
            record.num_swept += 1
            _log.warning("group %d swept at the door: staleness %d > %d", group.group_id, stale, self._eta)
            self._drop_chunks(group.candidate_ids)
            await self._links.steps.send(GroupSwept(group_id=group.group_id, staleness=stale))
            return False
        if self._frozen is not None:
            self._frozen.arrived(group.group_id)
        record.accept(group, version)
        return True

    def _drop_chunks(self, candidate_ids: Iterable[int]) -> None:
        if self._ahead is not None:
            self._ahead.drop(candidate_ids)

    async def _stream_ended(self) -> None:
        """The selector is draining: the stop that made it do so must be on its way here too. Never returns."""
        deadline_s = self._config.launch.drain_timeout_s
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.get_running_loop().create_future()  # cancelled by the stop
        except TimeoutError:
            raise ProtocolError(
                f"the selector ended its stream in step {self.policy.version} of {self._config.run.steps}, and no "
                f"stop came from the supervisor within launch.drain_timeout_s = {deadline_s:g}"
            ) from None

    async def _commit(self) -> None:
        """Apply the update and tell everyone. Never cancelled by a stop: what is applied is told."""
        assert self._trainer is not None
        if (mismatch := self._first_step.mismatch()) is not None:
            raise RunFailed(f"learner: {mismatch}.")
        try:
            stats = await self._on_torch(self._trainer.apply_step)
        except RunFailed:
            await self._checkpoint_last()  # the weights are the last good ones
            raise
        self._ended_by = self._limits.ended_by(
            version=stats.version,
            wall_s=self._record.wall_s(time.monotonic()),
            trained_tokens=self._record.trained_tokens,
        )
        last = self._ended_by is not None
        if last:
            _log.info("training ends with version %d: %s", stats.version, self._ended_by)
        self._supervisor.state = f"publishing version {stats.version}"
        began = time.monotonic()
        await self._on_torch(self._trainer.publish, self._store.path_of(stats.version))
        publish_ms = 1e3 * (time.monotonic() - began)
        await self.policy.publish(stats.version, last=last)
        await self._links.steps.send(StepDone(version=stats.version, group_ids=self._record.group_ids, last=last))
        await self._report(stats, publish_ms)
        if not last and (self._is_periodic(stats.version) or self._awaits_score(stats.version)):
            await self._checkpoint(stats.version)

    async def _report(self, stats: StepStats, publish_ms: float) -> None:
        trainer = {
            **stats.sums.metrics(),
            **stats.observed,
            "learner/grad_norm": stats.grad_norm,
            "learner/lr": stats.lr,
        }
        values = self._record.finish_step(
            now_s=time.monotonic(),
            version=stats.version,
            skipped=stats.skipped,
            publish_ms=publish_ms,
            trainer=trainer,
        )
        self._show()
        await self._supervisor.send(StepMetrics(step=stats.version - 1, values=values))

    def _show(self) -> None:
        self._supervisor.gauges |= {
            "learner/idle_ratio": self._record.idle_ratio,
            "learner/skipped_steps": float(self._record.num_skipped),
            "policy_version": float(self.policy.version),
            "queue/ready_groups/depth": float(self._links.groups.stats.depth),
        }

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _is_periodic(self, version: int) -> bool:
        every = self._config.checkpoint.every_steps
        return every > 0 and version % every == 0

    def _awaits_score(self, version: int) -> bool:
        """Whether the version is evaluated and may turn out to be the best: those of the schedule, and the last."""
        return self._keeps_best and (self._schedule.is_due(version) or self._ended_by is not None)

    async def _checkpoint_last(self) -> None:
        version = self.policy.version
        if version > self._saved:
            await self._checkpoint(version, last=True)
        elif version:
            await self._checkpoints.written(version, last=True)

    async def _checkpoint(self, version: int, *, last: bool = False) -> None:
        assert self._trainer is not None
        self._supervisor.state = "writing the checkpoint" if last else "writing a checkpoint"
        folder = self._checkpoints.path_of(version)
        await self._on_torch(self._trainer.save_checkpoint, folder)
        self._saved = version
        _log.info("checkpoint %s", folder)
        await self._checkpoints.written(
            version, periodic=self._is_periodic(version), awaits_score=self._awaits_score(version), last=last
        )

    async def _take_score(self, message: PolicyScored) -> None:
        self._scored = max(self._scored, message.version)
        if self._keeps_best:
            await self._checkpoints.scored(message.version, message.reward, message.response_length)
        self._score_news.set()

    async def _last_score(self) -> None:
        """At the end of a complete run the last version's score counts too; it is on its way here."""
        if self._keeps_best and self._ended_by is not None and self._supervisor.stop_reason == "done":
            try:
                async with asyncio.timeout(_SCORE_SHARE * self._config.launch.drain_timeout_s):
                    while self._scored < self.policy.version:
                        self._score_news.clear()
                        await self._score_news.wait()
            except TimeoutError:
                _log.warning("no held-out score of version %d: the last checkpoint is not ranked", self.policy.version)
        await self._checkpoints.ended()


if __name__ == "__main__":
    from darts_async.runtime.process import main

    main("learner", run)
