"""The selector: scores responses, keeps the short and a long end of every group, cancels the rest, writes the ledger.

It moves messages; what follows from each is decided by `darts_async.algorithms.selector`. Cancels leave at the event
that makes them certain. A full link to the learner holds back new plans only, never cancels, verdicts or the books.
Whatever others act on is in the ledger's file before it leaves here. So a selector that was killed is replaced by one
that reads the ledger and goes on (`Selector.take_up`): what was lost is begun again, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from darts_async import clock
from darts_async.algorithms.effects import Cancel, Drop, Park, ScoreWanted, Stream
from darts_async.algorithms.ledger_records import KnobsSet, RunOpened
from darts_async.algorithms.rounds import Rounds
from darts_async.algorithms.run_draws import RunDraws
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.selector_recovery import SelectorRecovery
from darts_async.algorithms.staleness import StepPlanner, eta_of
from darts_async.algorithms.wait_graph import Pending, count
from darts_async.config import Config
from darts_async.config.frozen import streams_tokens
from darts_async.config.live import with_values
from darts_async.config.paths import RunPaths
from darts_async.errors import LinkBroken, RunFailed
from darts_async.messages import (
    AllocatorHello,
    CancelRollouts,
    CandidatePlaced,
    ChunksDropped,
    DispatchState,
    DropBelow,
    EvalResult,
    GroupPlan,
    GroupSwept,
    LearnerState,
    ParkRollouts,
    PlanReply,
    Progress,
    RolloutEnded,
    SetKnobs,
    StateTaken,
    StepDone,
    StepMetrics,
    StreamEnd,
    StreamRollouts,
    ToGenerator,
    TrainGroup,
    Trajectory,
    Warn,
)
from darts_async.runtime.ledger_file import LedgerFile
from darts_async.runtime.links import SelectorLinks
from darts_async.runtime.open_streams import OpenStreams
from darts_async.runtime.outbox import Outbox
from darts_async.runtime.reward_pool import Pool, RewardFailed, RewardPool, reward_setup
from darts_async.runtime.waiting import Outlook
from darts_async.tracing import current

_log = logging.getLogger(__name__)

_DRAIN_SHARE: Final = 0.75
"""Share of `launch.drain_timeout_s` spent waiting for the others; the rest is for closing the books."""
_FAULT_DRAIN_S: Final = 1.5
"""After a fault whoever died will never end its stream: take in what is on its way, then close the books."""


async def run(links: SelectorLinks, config: Config, pool: Pool | None = None, run_id: str = "") -> None:
    """Select, score and keep the books until the run is stopped and everyone's stream has ended.

    Starts a pool of reward processes unless handed one. run_id: of the ledger; by chance if not given."""
    if pool is not None:
        await serve(links, config, pool, run_id)
        return
    pool = RewardPool(reward_setup(config), workers=config.reward.workers, timeout_s=config.reward.timeout_s)
    await serve(links, config, pool, run_id)


async def serve(links: SelectorLinks, config: Config, pool: Pool, run_id: str = "") -> None:
    """`run` with a pool of the caller's choice."""
    recovery = None
    folder = RunPaths.of(config).ledger
    if links.supervisor.incarnation or links.supervisor.resumed:
        recovery = SelectorRecovery(
            max_response_tokens=config.model.max_response_tokens, run_seed=config.run.seed, draws=_first_draws(config)
        )
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        file = await asyncio.to_thread(LedgerFile.reopen, folder, recovery.feed)
    else:
        file = LedgerFile.create(folder, run_id=run_id)
    try:
        actor = _SelectorActor(links, config, pool, file, recovery)
        links.supervisor.look, links.supervisor.knobs = actor.look, actor.set_knobs
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            await links.supervisor.ready()
            missing = await actor.work(tasks)
        await actor.close_books()
    except BaseException:
        # The books stay open, but what is known by now is worth having.
        with contextlib.suppress(RunFailed):
            await file.close()
        raise
    finally:
        file.abandon()
    if missing:
        raise RunFailed(
            f"no end of stream from {', '.join(missing)} within launch.drain_timeout_s = "
            f"{config.launch.drain_timeout_s:g} s; the token counts of its candidates are the last progress"
        )


class _SelectorActor:
    def __init__(
        self,
        links: SelectorLinks,
        config: Config,
        pool: Pool,
        file: LedgerFile,
        recovery: SelectorRecovery | None,
    ) -> None:
        self._links = links
        self._config = config
        self._pool = pool
        self._file = file
        eta = eta_of(config)
        self._selector = Selector(
            planner=StepPlanner(config.group.groups_per_step, eta, config.run.steps),
            run_seed=config.run.seed,
            max_response_tokens=config.model.max_response_tokens,
            baseline=config.selection.baseline,
            zero_variance=config.selection.zero_variance,
            stream_tokens=streams_tokens(config),
            clock=clock.now_s,
            draws=_first_draws(config),
        )
        limit = config.queues.trajectory_hwm
        self._cancels: Outbox[tuple[Cancel | Park | Stream | Drop, float]] = Outbox(limit)
        self._replies: Outbox[tuple[str, PlanReply]] = Outbox(limit)
        self._scores: Outbox[ScoreWanted] = Outbox(limit)
        self._groups: Outbox[TrainGroup | StateTaken | ChunksDropped] = Outbox(_most_admitted(config))
        self._steps: list[StepMetrics] = []
        self._told: set[str] = set()
        """Kinds of failed scores that the user was told of."""
        self._trace = current()
        self._streams = OpenStreams(["learner-0", *(f"generator-{rank}" for rank in range(config.generator.replicas))])
        self._generators: set[str] = set()
        """Those that have introduced themselves; some may have joined the run later."""
        self._warn_at = 1
        self._learner_said = asyncio.Event()
        """What it has, since this start of the selector."""
        if recovery is not None and recovery.opened:
            self._selector.take_up(recovery)
            _log.info("goes on at version %d with %d groups planned", recovery.version, recovery.num_groups)
        else:
            file.append(RunOpened(run=config.run.name, seed=config.run.seed, rule=config.selection.rule))

    def look(self) -> Outlook:
        """What it waits for: candidates, scores, room, plans."""
        pending = self._selector.pending()
        if self._groups.is_full:
            full = f"takes no more plans: {count(self._groups.depth, 'group')} wait for room on the link to the learner"
            pending.insert(0, Pending("learner-0", full, self._selector.progress))
        elif self._groups.depth:
            what = f"waits with {count(self._groups.depth, 'group')} for room on the link to the learner"
            pending.insert(0, Pending("learner-0", what, self._links.groups.stats.sent, key="room"))
        for name, outbox in (("cancels", self._cancels), ("replies", self._replies), ("scores", self._scores)):
            if outbox.is_full:
                pending.insert(0, Pending("", f"reads nothing until fewer than {outbox.depth} {name} wait to go out"))
        return Outlook(self._selector.progress, pending)

    async def set_knobs(self, order: SetKnobs) -> str:
        """Write into the ledger what was changed; it is in the file when this returns."""
        self._config = with_values(self._config, {key: change.new for key, change in order.changes.items()})
        self._groups.resize(_most_admitted(self._config))
        if not order.again:
            self._file.append(KnobsSet(changes=order.changes, at_s=order.at_s))
            await self._file.flush()
        return ""

    # --- the life of the role -------------------------------------------------------------------------------------

    async def work(self, tasks: asyncio.TaskGroup) -> list[str]:
        """Serve until stopped, then drain. Return who did not end their stream in time."""
        supervisor = self._links.supervisor
        supervisor.state = "selecting"
        self._carry_out()
        taking = [
            tasks.create_task(self._take_trajectories()),
            tasks.create_task(self._take_steps()),
            tasks.create_task(self._take_losses()),
        ]
        serving: list[Coroutine[Any, Any, None]] = [
            self._take_plans(),
            self._take_hellos(),
            self._send_cancels(),
            self._send_replies(),
            self._send_groups(),
            self._await_learner(),
            *(self._score() for _ in range(2 * self._config.reward.workers)),
        ]
        served = [tasks.create_task(coroutine) for coroutine in serving]
        await supervisor.stopping.wait()
        supervisor.state = "draining"
        self._selector.freeze()
        for task in served:
            task.cancel()
        for outbox in (self._scores, self._cancels, self._replies, self._groups):
            outbox.release()
        tasks.create_task(self._pool.close())
        deadline_s = _DRAIN_SHARE * self._config.launch.drain_timeout_s
        if supervisor.stop_reason == "fault":
            deadline_s = min(deadline_s, _FAULT_DRAIN_S)
        if self._selector.num_planned:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await self._streams.over()
        missing = self._streams.missing
        for task in taking:
            task.cancel()
        if not self._selector.num_planned or supervisor.stop_reason == "fault":
            if missing:
                _log.info("stopped without an end of stream from %s", ", ".join(missing))
            return []
        return missing

    async def close_books(self) -> None:
        """End every open candidate, write the rest of the ledger, and report the totals."""
        summary = self._selector.close()
        self._carry_out()
        await self._file.close()
        self._show()
        await self._links.supervisor.finish(summary)

    # --- messages in ----------------------------------------------------------------------------------------------

    async def _take_plans(self) -> None:
        while True:
            await self._room()
            await self._groups.room()
            peer, message = await self._links.plans.recv()
            match message:
                case GroupPlan():
                    self._selector.on_plan(peer, message)
                case CandidatePlaced():
                    self._selector.on_placed(message)
                case EvalResult():
                    self._selector.on_evaluated(message)
                case AllocatorHello():
                    _log.info("%s asks where dispatch goes on", peer)
                    self._selector.on_allocator_hello(peer, message.number)
            await self._after_message()

    async def _take_trajectories(self) -> None:
        while True:
            await self._room()
            message = await self._links.trajectories.recv()
            match message:
                case Progress():
                    self._selector.on_progress(message)
                    self._carry_out()
                    continue
                case Trajectory():
                    self._selector.on_trajectory(message)
                case RolloutEnded():
                    self._selector.on_ended(message)
                case StreamEnd():
                    self._streams.ended(f"generator-{message.rank}")
            await self._after_message()

    async def _take_steps(self) -> None:
        while True:
            message = await self._links.steps.recv()
            match message:
                case StepDone():
                    self._selector.on_step_done(message)
                    await self._after_message()
                    await self._file.sync()
                case GroupSwept():
                    _log.warning("group %d came too late: staleness %d", message.group_id, message.staleness)
                    self._selector.on_swept(message)
                    await self._after_message()
                case LearnerState():
                    _log.info("the learner goes on at version %d", message.version)
                    self._streams.back("learner-0")
                    self._selector.on_learner_state(message)
                    self._learner_said.set()
                    await self._after_message()
                    await self._file.sync()
                case StreamEnd():
                    self._streams.ended("learner-0")

    async def _take_losses(self) -> None:
        """Nothing more will come from a start of a role that is over, and what it had is lost."""
        while True:
            lost = await self._links.supervisor.losses.get()
            name = f"{lost.role}-{lost.rank}"
            self._streams.lost(name, lost.incarnation)
            if name not in self._streams.missing:
                self._generators.discard(name)
            self._selector.on_role_lost(lost.role, lost.rank, lost.incarnation)
            await self._after_message()

    async def _take_hellos(self) -> None:
        while True:
            peer, hello = await self._links.cancels.recv()
            _log.info("%s takes cancels", peer)
            self._generators.add(peer)
            self._streams.back(peer, hello.incarnation)
            if self._selector.fence:
                self._cancels.put([(Drop(self._selector.fence), clock.now_s())])

    async def _await_learner(self) -> None:
        """Say so when a learner that has to be heard before anything goes on takes its time."""
        if not self._selector.waits_for_learner:
            return
        limit_s = self._config.launch.silence_s
        try:
            async with asyncio.timeout(limit_s):
                await self._learner_said.wait()
        except TimeoutError:
            text = f"nothing is dispatched: the learner has not said for {limit_s:g} s what it has trained"
            _log.warning("%s", text)
            await self._links.supervisor.send(Warn(role="selector", rank=self._links.rank, text=text))

    async def _score(self) -> None:
        while True:
            wanted = await self._scores.take()
            try:
                scored = await self._pool.score(wanted.prompt_id, wanted.tokens)
            except RewardFailed as failed:
                _log.warning("candidate %d was not scored: %s", wanted.candidate_id, failed)
                self._selector.on_reward_failed(wanted.candidate_id, failed.kind)
                await self._tell_once(failed)
            else:
                self._selector.on_reward(wanted.candidate_id, scored.reward, scored.components)
            await self._after_message()

    async def _tell_once(self, failed: RewardFailed) -> None:
        """Show the user the first failure of each kind; the metrics count them, the log has them all."""
        if failed.kind in self._told or failed.kind == "closed":
            return
        self._told.add(failed.kind)
        text = f"a response could not be scored: {failed}; its candidate failed. Further ones are in the selector's log"
        await self._links.supervisor.send(Warn(role="selector", rank=self._links.rank, text=text[:4096]))

    # --- messages out ---------------------------------------------------------------------------------------------

    async def _room(self) -> None:
        """Back-pressure: read nothing that could cause more while this much waits to go out."""
        for outbox in (self._scores, self._cancels, self._replies):
            await outbox.room()

    def _carry_out(self) -> None:
        """Pass on what was decided, at once and in order."""
        effects = self._selector.take_effects()
        if effects is None:
            return
        decided_at_s = clock.now_s()
        for record in effects.records:
            self._file.append(record)
        self._cancels.put((cancel, decided_at_s) for cancel in effects.cancels)
        self._replies.put((peer, self._with_place(reply)) for peer, reply in effects.replies)
        self._scores.put(effects.scores)
        self._groups.put(effects.groups)
        self._steps += effects.steps

    def _with_place(self, reply: PlanReply) -> PlanReply:
        """What was learned of the prompts up to an answer to a hello is in the ledger, up to here."""
        if isinstance(reply, DispatchState):
            return msgspec.structs.replace(reply, ledger_records=self._file.sequence)
        return reply

    async def _after_message(self) -> None:
        self._carry_out()
        self._show()
        if self._file.flush_due:
            await self._file.flush()
        steps, self._steps = self._steps, []
        for step in steps:
            await self._links.supervisor.send(step)
        if self._selector.protocol_errors >= self._warn_at:
            self._warn_at = 2 * self._selector.protocol_errors
            text = (
                f"{self._selector.protocol_errors} unexpected messages, the last: {self._selector.last_protocol_error}"
            )
            _log.warning("%s", text)
            await self._links.supervisor.send(Warn(role="selector", rank=self._links.rank, text=text))

    async def _send_cancels(self) -> None:
        while True:
            cancel, decided_at_s = await self._cancels.take()
            message: ToGenerator
            if isinstance(cancel, Drop):
                # Numbers that generators refuse from now on must be refused by the next start of the selector, too.
                await self._file.flush()
                message = DropBelow(group_id=cancel.below)
            elif isinstance(cancel, Park):
                message = ParkRollouts(candidate_ids=cancel.candidate_ids, resume_version=cancel.resume_version)
            elif isinstance(cancel, Stream):
                message = StreamRollouts(candidate_ids=cancel.candidate_ids)
            else:
                message = CancelRollouts(candidate_ids=cancel.candidate_ids, decided_at_s=decided_at_s)
            for peer in self._holders(cancel):
                try:
                    await self._links.cancels.send(peer, message)
                except LinkBroken as broken:
                    _log.warning("%s misses %s: %s", peer, type(message).__name__, broken)

    def _holders(self, cancel: Cancel | Park | Stream | Drop) -> Sequence[str]:
        if not isinstance(cancel, Drop) and cancel.replica is not None:
            return (f"generator-{cancel.replica}",)
        return sorted(self._generators)

    async def _send_replies(self) -> None:
        while True:
            peer, reply = await self._replies.take()
            # What the allocator acts on is in the file first: no candidate is dispatched that a killed role forgets.
            await self._file.flush()
            try:
                await self._links.plans.send(peer, reply)
            except LinkBroken as broken:
                # The launcher sees a dead allocator and ends the run; until then the books go on.
                _log.warning("%s misses %s: %s", peer, type(reply).__name__, broken)

    async def _send_groups(self) -> None:
        while True:
            message = await self._groups.take()
            if isinstance(message, TrainGroup) and message.epoch < self._selector.released.epoch:
                continue  # the learner was lost meanwhile: it comes again
            began = clock.now_s()
            # That it was released is in the file first: another selector must not have its draw trained once more.
            await self._file.flush()
            await self._links.groups.send(message)
            if isinstance(message, TrainGroup):
                self._trace.lane("groups").passes("select", message.group_id, began, kept=len(message.candidate_ids))

    def _show(self) -> None:
        gauges = self._links.supervisor.gauges
        gauges.update(self._selector.gauges())
        gauges["queue/trajectories/depth"] = float(self._links.trajectories.stats.depth)
        gauges["queue/rewards/depth"] = float(self._scores.depth + self._pool.waiting)
        gauges["queue/ready_groups/depth"] = float(self._groups.depth + self._links.groups.stats.depth)
        self._trace.gauges(gauges)


def _first_draws(config: Config) -> RunDraws:
    """Of a run at its beginning."""
    groups_per_step = config.group.groups_per_step
    rounds = Rounds(groups_per_step, config.queues.oversample_groups, config.pipeline.unfinished)
    return RunDraws(rounds, groups_per_step)


def _most_admitted(config: Config) -> int:
    """Admission lets no more groups than this live at once."""
    return (eta_of(config) + 1) * config.group.groups_per_step + config.queues.oversample_groups


if __name__ == "__main__":
    from darts_async.runtime.process import main

    main("selector", run)
