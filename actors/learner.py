"""The learner: trains the groups it is handed, publishes every version of the policy, keeps checkpoints.

Torch lives on one thread of its own; the event loop only moves messages. Invariants: a group whose staleness exceeds
the bound is never trained on (it is swept at the door, and its step waits for another one); once an update is applied,
its version is published and its `StepDone` sent, also when the run is being stopped; a version is never skipped.

Started anew (or in a run that goes on) it first becomes what it was: groups are in the spool before they are trained
on, a step is in the journal before anybody hears of it. Then it tells the selector what it has (`LearnerState`), and
takes no group that was sent before the selector knew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from darts_async import clock
from darts_async.algorithms.chunking import groups_wanted
from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.algorithms.finished_step import FinishedStep
from darts_async.algorithms.learner_waits import LearnerAt, Stage, learner_waits
from darts_async.algorithms.limits import EndedBy, RunLimits
from darts_async.algorithms.parity import GROSS_LIMITS, FirstStep, precision_of
from darts_async.algorithms.staleness import eta_of, staleness
from darts_async.algorithms.training_record import TrainingRecord
from darts_async.config import Config
from darts_async.config.frozen import needs_proximal, needs_reference, streams_tokens
from darts_async.config.live import with_values
from darts_async.config.paths import RunPaths
from darts_async.engines.weight_store import WeightStore
from darts_async.errors import ProtocolError, RunFailed
from darts_async.messages import (
    ChunksDropped,
    GroupSwept,
    LearnerState,
    SetKnobs,
    StateTaken,
    StepDone,
    StepMetrics,
    StreamEnd,
    TrainedStep,
    TrainGroup,
)
from darts_async.runtime.links import LearnerLinks
from darts_async.runtime.policy_server import PolicyServer
from darts_async.runtime.replay_steps import replay_steps
from darts_async.runtime.saving import Saving
from darts_async.runtime.score_ahead import ScoreAhead
from darts_async.runtime.spool import Chunk, Refused, Spool, SpooledStep
from darts_async.runtime.step_journal import StepJournal
from darts_async.runtime.waiting import Outlook
from darts_async.tracing.learner_spans import LearnerSpans
from darts_async.transport.refusals import Refusals

if TYPE_CHECKING:
    from pathlib import Path

    from darts_async.engines.frozen import FrozenPolicies
    from darts_async.engines.step_stats import StepStats
    from darts_async.engines.trainer import Trainer

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_KEPT_STEPS: Final = 128
"""Steps that a selector is told of: more than it can lag behind, which is bounded by `max_staleness` (at most 64)."""
_EPOCH_BITS: Final = 16
_SCORE_SHARE: Final = 0.25
"""Share of `launch.drain_timeout_s` for the last score, which was sent before the order to stop, to arrive."""


async def run(links: LearnerLinks, config: Config, trainer: Trainer | None = None) -> None:
    """Train until a limit of [run] is reached, then serve the last version until stopped.

    Loads the policy unless handed a trainer.
    """
    learner = _Learner(links, config)
    links.supervisor.look, links.supervisor.knobs = learner.look, learner.set_knobs
    try:
        async with asyncio.TaskGroup() as tasks:
            helpers = [tasks.create_task(learner.serve()), tasks.create_task(learner.heed_losses())]
            await learner.work(trainer)
            for helper in helpers:
                helper.cancel()
    finally:
        learner.close()


def _parity_limit(config: Config) -> float | None:
    """The largest mean difference of log-probs that the first step may show; None: whatever it shows."""
    if config.generator.engine == "sim":  # it makes its log-probs up: there is nothing that could agree
        return None
    return config.learner.max_parity_diff or GROSS_LIMITS[precision_of(config)]


def _load(config: Config) -> Trainer:
    from darts_async.engines.trainer import load_trainer  # noqa: PLC0415 - seconds of imports, off the event loop

    return load_trainer(config)


def _republish(checkpoint: Path, path: Path, config: Config) -> None:
    from darts_async.engines.trained_weights import republish  # noqa: PLC0415 - torch, see above

    republish(checkpoint, path, config)


class _Learner:
    def __init__(self, links: LearnerLinks, config: Config) -> None:
        self._links = links
        self._config = config
        self._supervisor = links.supervisor
        self._paths = paths = RunPaths.of(config)
        self._store = WeightStore(paths.weights, config.generator.replicas)
        self._eta = eta_of(config)
        self._record = TrainingRecord()
        self._spans = LearnerSpans()
        self._first_step = FirstStep(_parity_limit(config))
        self._schedule = EvalSchedule.of(config)
        self._limits = RunLimits.of(config)
        self._ended_by: EndedBy | None = None
        self._spool = Spool(paths.spool)
        self._journal = StepJournal(paths.spool)
        self._saving = Saving(config, self._schedule, self._spool, self._on_torch)
        self.policy = PolicyServer(links.policy, self._store, self._schedule, self._saving.take_score)
        self._is_up = asyncio.Event()
        """It is what an earlier start of the learner was, if there was one."""
        self._epoch = 0
        """Groups of an earlier one are void; see `TrainGroup.epoch`."""
        self._answered = 0
        """The last epoch that the selector has answered."""
        self._open = SpooledStep()
        """Of the open step, what an earlier start of the learner had received."""
        self._swept: set[int] = set()
        """Groups that an earlier start swept in the open step: they may come again, and count once."""
        self._refused: set[int] = set()
        """All that this start swept; few, if any."""
        self._repeats = Refusals("the groups link")
        self._steps: deque[TrainedStep] = deque(maxlen=_KEPT_STEPS)
        self._telling = asyncio.Lock()
        """What the selector is told of steps and of the state reaches the link in the order it became true."""
        self.torch = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._trainer: Trainer | None = None
        self._frozen: FrozenPolicies | None = None
        """Of the trainer, where the config needs any."""
        self._stage: Stage = "computing"
        self._num_computed = 0
        """Calls of the trainer that have returned."""
        self._ahead: ScoreAhead | None = None
        """Where tokens are streamed."""
        self._goes_on = self._supervisor.incarnation > 0 or self._supervisor.resumed
        if not self._goes_on:
            self._is_up.set()

    # --- what others ask of it ----------------------------------------------------------------------------------------

    def look(self) -> Outlook:
        """What it is at, or waits for."""
        record, stage = self._record, self._stage
        at = LearnerAt(
            stage=stage,
            what=self._supervisor.state,
            version=self.policy.version,
            received=len(record.group_ids),
            size=self._config.group.groups_per_step,
            awaits_all=self._config.pipeline.mode == "sync",
            peer=self.policy.telling,
            mark=(stage, self._links.groups.stats.received if stage == "groups" else self._num_computed),
        )
        return Outlook(self._num_computed + record.num_groups + record.num_swept, learner_waits(at))

    async def set_knobs(self, order: SetKnobs) -> str:
        """Heeded where it is looked at next: chunks with the next group, limits and checkpoints at the step's end."""
        self._config = with_values(self._config, {key: change.new for key, change in order.changes.items()})
        self._limits = RunLimits.of(self._config)
        self._saving.follow(self._config)
        return ""

    @contextlib.contextmanager
    def _at(self, stage: Stage) -> Iterator[None]:
        """The main task's alone: what is done in the background holds nothing up."""
        before, self._stage = self._stage, stage
        try:
            yield
        finally:
            self._stage = before

    # --- the life of the role -------------------------------------------------------------------------------------

    async def work(self, trainer: Trainer | None) -> None:
        supervisor = self._supervisor
        supervisor.state = "loading the policy"
        await asyncio.to_thread(self._clean, fresh=not self._goes_on, all_weights=trainer is None)
        self._trainer = trainer
        if trainer is None:
            await self._unless_stopping(self._load())
        if self._trainer is not None:
            self._saving.trainer = self._trainer
            if needs_reference(self._config) or needs_proximal(self._config):
                self._frozen = self._trainer.frozen
                if streams_tokens(self._config):
                    self._ahead = ScoreAhead(self._links.chunks, self._frozen, self._submit)
        if self._goes_on and not supervisor.stopping.is_set():
            await self._unless_stopping(self._take_up())
        if not supervisor.stopping.is_set():
            await supervisor.ready()
        async with self._ahead.running() if self._ahead else contextlib.nullcontext():
            await self._train()
        supervisor.state = "draining"
        await self._drain()
        if self._trainer is not None and trainer is None:
            await self._on_torch(self._trainer.close)
        summary = {**self._record.summary(), "policy_version": float(self._journal.version)}
        if self._ended_by is not None:
            summary[f"ended_by/{self._ended_by}"] = 1.0
        await supervisor.finish(summary)

    def _clean(self, *, fresh: bool, all_weights: bool) -> None:
        """Remove what an earlier run, or a half-written version of an earlier start, left behind."""
        if not fresh:
            self._store.clear_partial()
            return
        self._spool.clear()
        if all_weights:
            self._store.clear()

    async def _load(self) -> None:
        self._trainer = await self._on_torch(_load, self._config)

    async def _drain(self) -> None:
        """Say that nothing follows; keep what the run came to."""
        version = self.policy.version
        if self._is_up.is_set():
            # The open step is given up: the selector ends its groups, so nobody may train them later.
            await self._spool.sync()
            await asyncio.to_thread(self._spool.drop_from, version)
        await self._links.steps.send(StreamEnd(role="learner", rank=self._links.rank))
        await self._saving.last(version)
        done = self._ended_by is not None and self._supervisor.stop_reason == "done"
        wait_s = _SCORE_SHARE * self._config.launch.drain_timeout_s if done else 0.0
        with self._at("score"):
            await self._saving.last_score(version, wait_s)
        if done:
            await self._saving.finished()

    async def serve(self) -> None:
        """Serve the policy until cancelled."""
        await self._is_up.wait()
        await self.policy.serve()

    async def heed_losses(self) -> None:
        """Tell a selector that is started anew what there is, keep no weights for a generator that is gone, until
        cancelled."""
        await self._is_up.wait()
        while True:
            lost = await self._supervisor.losses.get()
            if lost.role == "selector":
                await self._tell_state()
            elif lost.role == "generator":
                self.policy.lost(lost.rank, lost.incarnation)

    def close(self) -> None:
        """Let go of threads and files."""
        self.torch.shutdown(wait=False, cancel_futures=True)
        self._spool.close()
        self._journal.close()

    # --- after a loss -----------------------------------------------------------------------------------------------

    async def _take_up(self) -> None:
        """Become what the earlier start of the learner was, and say so. Cancelled when the run stops."""
        assert self._trainer is not None
        self._supervisor.state = "taking up the run"
        await asyncio.to_thread(self._journal.read, self._remember)
        version = self._journal.version
        if self._supervisor.resumed:
            self._look_at_limits()
        await self._saving.restore()
        await replay_steps(
            self._trainer,
            self._spool,
            (self._paths.recovery, self._paths.checkpoints),
            version,
            groups_per_step=self._config.group.groups_per_step,
            on_torch=self._on_torch,
            on_version=self._passed,
        )
        if version:
            # In the place of the file that is there, if it is: on a GPU the weights are not the same to the last bit.
            await self._on_torch(self._trainer.publish, self._store.path_of(version))
        await self._republish_evaluated(version)
        self._open = await asyncio.to_thread(self._spool.read, version)
        self.policy.resume(version, last=self._ended_by is not None)
        self._is_up.set()
        await self._tell_state()
        if self._record.last is not None:
            # Its report may have been lost with the one who made it; a repeated one is not counted.
            await self._supervisor.send(StepMetrics(step=version - 1, values=self._record.last.values))

    def _remember(self, step: FinishedStep) -> None:
        self._record.restore(step)
        self._steps.append(TrainedStep(step.version, step.group_ids))
        self._ended_by = step.ended_by or None
        self._saving.ended = self._ended_by is not None

    def _look_at_limits(self) -> None:
        """A run that goes on may have been given other limits than those that had ended it."""
        last = self._record.last
        if last is not None and last.ended_by:
            self._ended_by = self._limits.ended_by(
                version=last.version, wall_s=last.elapsed_s, trained_tokens=self._record.trained_tokens
            )
            self._saving.ended = self._ended_by is not None

    async def _passed(self, version: int) -> None:
        """A version that was made before is there again: whoever evaluates it may still ask for its file."""
        assert self._trainer is not None
        self._supervisor.state = f"taking up the run at version {version}"
        if self._schedule.is_due(version) and not self._store.path_of(version).exists():
            await self._on_torch(self._trainer.publish, self._store.path_of(version))

    async def _republish_evaluated(self, version: int) -> None:
        """The last evaluated version before this one may not be evaluated yet. Where its file is gone and it was not
        passed, it has a checkpoint: that is written when it is made, and kept until its score is here."""
        due = self._schedule.due_between(0, version)
        if not due or self._store.path_of(due[-1]).exists():
            return
        checkpoint = self._paths.checkpoints / f"step_{due[-1]}"
        if checkpoint.is_dir():
            await self._on_torch(_republish, checkpoint, self._store.path_of(due[-1]), self._config)

    async def _tell_state(self) -> None:
        """Begin an epoch: the selector sends again what is not in this state; what it sent before is void."""
        async with self._telling:
            self._epoch = max(self._epoch, self._supervisor.incarnation << _EPOCH_BITS) + 1
            state = LearnerState(
                epoch=self._epoch,
                version=self._journal.version,
                steps=tuple(self._steps),
                received=(*(group.group_id for group in self._open.groups), *self._record.group_ids),
                last=self._ended_by is not None,
            )
            await self._spool.sync()
            await self._links.steps.send(state)

    async def _await_selector(self) -> None:
        """Until the selector has heard of the state. Cancelled when the run stops."""
        self._supervisor.state = "waiting for the selector"
        with self._at("selector"):
            while self._answered < self._epoch:
                message = await self._links.groups.recv()
                if not isinstance(message, TrainGroup):  # groups before the answer are void
                    await self._heed(message)

    async def _heed(self, message: StateTaken | ChunksDropped | StreamEnd) -> None:
        match message:
            case ChunksDropped():
                self._drop_chunks(message.candidate_ids)
            case StreamEnd():
                await self._stream_ended()
            case StateTaken() if message.epoch == self._epoch:
                self._answered = message.epoch
                over = frozenset(message.over)
                if over.intersection(self._record.group_ids):
                    raise ProtocolError(f"the selector has ended groups that are being trained: {sorted(over)}")
                if over:
                    _log.info("%d groups that were received are over", len(over))
                    self._open = self._open.without(over)
                    await self._spool.replace(self._journal.version, self._open)

    async def _train(self) -> None:
        stopping = self._supervisor.stopping
        self._record.begin(clock.now_s())
        self._show()
        if self._answered < self._epoch:
            await self._unless_stopping(self._await_selector())
        while self._ended_by is None and not stopping.is_set():
            await self._unless_stopping(self._gather())
            if not stopping.is_set():
                await self._commit()
        if self._trainer is not None and stopping.is_set():
            self._trainer.abandon()
        elif not stopping.is_set():
            self._supervisor.state = "writing the checkpoint"
            await self._saving.last(self.policy.version)
            self._supervisor.state = "done, serving the last weights"
            with self._at("ended"):
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
        began = clock.now_s()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.torch, partial(function, *arguments))
        finally:
            self._num_computed += 1
            self._spans.computed(function, arguments, began)

    async def _discard_groups(self) -> None:
        """Let nobody wait for room on the link: groups that come after the last step are not trained."""
        while True:
            await self._links.groups.recv()

    # --- one step ---------------------------------------------------------------------------------------------------

    async def _gather(self) -> None:
        """Take groups until the step is full, with their gradients. Cancelled when the run stops."""
        size = self._config.group.groups_per_step
        received, self._open = self._open, SpooledStep()
        for group in received.groups:
            self._accept(group)
        for chunk in received.chunks:
            await self._accumulate(chunk)
        left, waiting = size - received.num_trained, received.waiting
        self._swept = set(received.refused)
        while left:
            if len(waiting) < self._groups_wanted(left):
                waiting = waiting + await self._receive(left - len(waiting))
            is_chunk = len(waiting) >= self._groups_wanted(left)  # asked again: the setting may have changed
            if is_chunk:
                self._spool.put(self.policy.version, Chunk(num_groups=len(waiting)))
            with self._at("spool"):
                await self._spool.sync()
            if is_chunk:
                await self._accumulate(waiting)
                left, waiting = left - len(waiting), []

    def _groups_wanted(self, left: int) -> int:
        whole_batch = self._config.pipeline.mode == "sync"
        return groups_wanted(left=left, min_chunk=self._config.queues.min_chunk, whole_batch=whole_batch)

    async def _accumulate(self, groups: list[TrainGroup]) -> None:
        assert self._trainer is not None
        self._supervisor.state = f"training step {self.policy.version + 1}"
        began = clock.now_s()
        sums = await self._on_torch(self._trainer.accumulate, groups)
        self._first_step.add(
            tokens=sums.same_version_tokens,
            diff_sum=sums.same_version_diff,
            diff_max=sums.same_version_diff_max,
        )
        self._record.computed(clock.now_s() - began)

    async def _receive(self, limit: int) -> list[TrainGroup]:
        """Wait for a group, and take with it what else is here already, up to `limit`: fewer, fuller micro-batches.

        They are put into the spool, not synced.
        """
        size = self._config.group.groups_per_step
        self._supervisor.state = f"waiting for groups ({len(self._record.group_ids)}/{size})"
        began = clock.now_s()
        accepted: list[TrainGroup] = []
        while len(accepted) < limit and (not accepted or self._links.groups.stats.depth):
            with self._at("groups"):
                message = await self._links.groups.recv()
            self._show()
            if not isinstance(message, TrainGroup):
                await self._heed(message)
            elif message.epoch == self._epoch and await self._admit(message):
                accepted.append(message)
        self._record.waited(clock.now_s() - began)
        return accepted

    def _is_repeat(self, group: TrainGroup) -> bool:
        """Whether it was received before: of an epoch each group is sent once, so this is somebody's echo. A group is
        trained at the latest one step after its plan, so that what is too long ago to be remembered is known by that.
        """
        received = (self._record.group_ids, *(step.group_ids for step in self._steps))
        too_old = group.step <= self.policy.version - _KEPT_STEPS
        return too_old or any(group.group_id in group_ids for group_ids in received)

    async def _admit(self, group: TrainGroup) -> bool:
        """The door: refuse what is too stale. Raises `ProtocolError` for a group out of order or from the future.

        The i-th group that arrives was planned for step (i - s) // groups_per_step, where s is how many sweeps the
        selector knew of then: between none and all so far. So the plan lies between the open step and the step
        without any sweep.
        """
        if self._is_repeat(group):
            self._repeats.refuse(b"selector-0", f"group {group.group_id} came before")
            return False
        version, record = self.policy.version, self._record
        if group.group_id in self._refused:  # the answer may have been lost with the selector that it was for
            stale = staleness(version, group.oldest_version)
            await self._links.steps.send(GroupSwept(group_id=group.group_id, staleness=stale))
            return False
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
        eta = self._eta if group.max_staleness is None else group.max_staleness
        if stale > eta:
            record.num_swept += group.group_id not in self._swept
            self._refused.add(group.group_id)
            self._spool.put(version, Refused(group_id=group.group_id))
            _log.warning("group %d swept at the door: staleness %d > %d", group.group_id, stale, eta)
            self._drop_chunks(group.candidate_ids)
            await self._links.steps.send(GroupSwept(group_id=group.group_id, staleness=stale))
            return False
        self._spool.put(version, group)  # and accepted, without a wait in between: see `_tell_state`
        self._accept(group)
        return True

    def _accept(self, group: TrainGroup) -> None:
        if self._frozen is not None:
            self._frozen.arrived(group.group_id)
        self._record.accept(group, self.policy.version)

    def _drop_chunks(self, candidate_ids: Iterable[int]) -> None:
        if self._ahead is not None:
            self._ahead.drop(candidate_ids)

    async def _stream_ended(self) -> None:
        """The selector is draining: the stop that made it do so must be on its way here too. Never returns."""
        deadline_s = self._config.launch.drain_timeout_s
        try:
            async with asyncio.timeout(deadline_s):
                with self._at("stop"):
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
            await self._saving.last(self.policy.version)  # the weights are the last good ones
            raise
        self._ended_by = self._limits.ended_by(
            version=stats.version,
            wall_s=self._record.wall_s(clock.now_s()),
            trained_tokens=self._record.trained_tokens,
        )
        last = self._ended_by is not None
        self._saving.ended = last
        if last:
            _log.info("training ends with version %d: %s", stats.version, self._ended_by)
        self._supervisor.state = f"publishing version {stats.version}"
        began = clock.now_s()
        await self._on_torch(self._trainer.publish, self._store.path_of(stats.version))
        publish_ms = 1e3 * (clock.now_s() - began)
        group_ids = self._record.group_ids
        async with self._telling:
            values = self._finish_step(stats, publish_ms)
            assert self._record.last is not None
            await self._journal.append(self._record.last)
            self._steps.append(TrainedStep(stats.version, group_ids))
            with self._at("telling"):
                await self.policy.publish(stats.version, last=last)
            with self._at("reporting"):
                await self._links.steps.send(StepDone(version=stats.version, group_ids=group_ids, last=last))
        self._show()
        self._spans.stepped(values)
        await self._supervisor.send(StepMetrics(step=stats.version - 1, values=values))
        if not last:
            self._supervisor.state = "writing a checkpoint"
            await self._saving.after_step(stats.version)

    def _finish_step(self, stats: StepStats, publish_ms: float) -> dict[str, float]:
        trainer = {
            **stats.sums.metrics(),
            **stats.observed,
            "learner/grad_norm": stats.grad_norm,
            "learner/lr": stats.lr,
        }
        return self._record.finish_step(
            now_s=clock.now_s(),
            version=stats.version,
            skipped=stats.skipped,
            publish_ms=publish_ms,
            trainer=trainer,
            ended_by=self._ended_by,
        )

    def _show(self) -> None:
        self._supervisor.gauges |= {
            "learner/idle_ratio": self._record.idle_ratio,
            "learner/skipped_steps": float(self._record.num_skipped),
            "policy_version": float(self.policy.version),
            "queue/ready_groups/depth": float(self._links.groups.stats.depth),
        }
        self._spans.gauges(self._supervisor.gauges)


if __name__ == "__main__":
    from darts_async.runtime.process import main

    main("learner", run)
