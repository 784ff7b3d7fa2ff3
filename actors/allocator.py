"""The allocator: decides which prompts start, with how many candidates, where and when.

It moves messages; what is sent next is decided by `darts_async.algorithms.dispatch`. Where dispatch stands is the
selector's to say, when the allocator starts and whenever the selector was lost: the allocator asks, and until it is
answered (`DispatchState`) it plans nothing and takes no notice of what was told before.

Invariants: no request of a group leaves before the selector has accepted the group's plan, so every candidate that
exists is in the ledger; no plan made before a hello is sent behind it; an evaluation's score is on its way to the
ledger before any plan that had to wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, overload

import numpy as np

from darts_async import clock
from darts_async.algorithms.allocation import FixedMean
from darts_async.algorithms.batch_allocation import AllocationRules, BatchAllocation, PromptKey, is_adaptive
from darts_async.algorithms.dispatch import Dispatcher, GroupJob, ReplacementJob
from darts_async.algorithms.evaluation import EvalSchedule, EvalScore
from darts_async.algorithms.ledger_records import is_lost
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.algorithms.recollection import Recollection
from darts_async.algorithms.rounds import DEFERRED, Rounds
from darts_async.algorithms.seeding import rollout_seed
from darts_async.algorithms.staleness import Admission, eta_of, lookahead_of
from darts_async.algorithms.starvation import Starvation
from darts_async.algorithms.wait_graph import Pending
from darts_async.config import Config
from darts_async.config.live import with_values
from darts_async.config.paths import RunPaths
from darts_async.errors import LinkBroken
from darts_async.messages import (
    AllocatorHello,
    AllocatorStarted,
    CandidatePlaced,
    Credits,
    DispatchState,
    EvalResult,
    EvaluationDone,
    FromAllocator,
    GroupComplete,
    GroupOutcome,
    GroupPlan,
    PlanAccepted,
    PlanReply,
    PolicyScored,
    ReplaceCandidate,
    RolloutRequest,
    RunComplete,
    SetKnobs,
    StepFilled,
    Warn,
    candidate_id,
    index_of,
)
from darts_async.runtime.allocator_file import prune_allocator_states, save_allocator_state, saved_versions
from darts_async.runtime.links import AllocatorLinks
from darts_async.runtime.remember import remember
from darts_async.runtime.scope import run_until
from darts_async.runtime.waiting import Outlook
from darts_async.tasks.prompt_set import PromptSet, TokenizedPrompt, load_prompts
from darts_async.tracing import current

_log = logging.getLogger(__name__)

_HELLO_BITS: Final = 20
"""Of a hello's number; above them stands which start of the allocator says it."""


async def run(links: AllocatorLinks, config: Config, prompts: PromptSet | None = None) -> None:
    """Dispatch prompts until the run is complete or stopped. Loads the task's unless handed some."""
    if prompts is None:
        prompts = await asyncio.to_thread(load_prompts, config)
    _log.info("%d training prompts, %d held out", len(prompts.train), len(prompts.held_out))
    allocator = _Allocator(links, config, prompts)
    links.supervisor.look, links.supervisor.knobs = allocator.look, allocator.set_knobs
    await links.policy.send(AllocatorHello())
    await links.supervisor.ready()
    notes = [*prompts.notes]
    if prompts.num_skipped:
        notes.append(f"{prompts.num_skipped} prompts skipped: longer than model.max_prompt_tokens")
    for text in notes:
        _log.warning("%s", text)
        await links.supervisor.send(Warn(role="allocator", rank=links.rank, text=text[:4096]))
    await run_until(
        links.supervisor.stopping,
        allocator.ask(),
        allocator.take_credits(),
        allocator.take_versions(),
        allocator.take_replies(),
        allocator.take_losses(),
        allocator.dispatch(),
    )
    await allocator.save(last=True)
    await links.supervisor.finish(
        {
            "groups_dispatched": float(allocator.num_groups),
            "prompts": float(len(prompts.train)),
            "long_rounds": float(allocator.rounds.num_long),
            "prompts_deferred": float(allocator.rounds.num_deferred),
            "prompts_skipped": float(prompts.num_skipped),
            "starvation/prompts": float(allocator.starvation.num_prompts),
            "starvation/max": float(allocator.starvation.longest),
        }
    )


class _Allocator:
    def __init__(self, links: AllocatorLinks, config: Config, prompts: PromptSet) -> None:
        self._links = links
        self._config = config
        self._prompts = prompts
        self._first_config = config
        self._incarnation = links.supervisor.incarnation
        self._remembers = not (self._incarnation or links.supervisor.resumed)
        """What was before is known here: this start has seen all of the run."""
        self._hello = self._incarnation << _HELLO_BITS
        """Number of the last hello to the selector."""
        self._placed = False
        """The answer to it is here."""
        self._planning = asyncio.Lock()
        """Held while something is sent that the selector must not get in another order than it was decided in."""
        self._knows_version = asyncio.Event()
        self._schedule = EvalSchedule.of(config)
        self._evaluated = 0
        """Evaluations of versions up to this one are over."""
        self._results: list[EvalResult] = []
        order = self._new_order()
        self._adaptive = self._new_allocation(order) if is_adaptive(config) else None
        budget = config.allocation.budget
        self._fixed = FixedMean(budget if isinstance(budget, float | int) else 1)
        """In use where the allocation is not adaptive."""
        self._dispatcher = Dispatcher(
            admission=Admission(
                groups_per_step=config.group.groups_per_step,
                eta=lookahead_of(config),
                steps=config.run.steps,
                in_flight_groups=config.queues.in_flight_groups,
                oversample_groups=config.queues.oversample_groups,
            ),
            order=order,
            allocation=self._adaptive or self._fixed,
            steps=config.run.steps,
            num_eval_prompts=len(prompts.held_out),
            eval_samples=config.eval.samples,
            rounds=Rounds(config.group.groups_per_step, config.queues.oversample_groups, config.pipeline.unfinished),
            schedule=self._schedule,
        )
        self._wake = asyncio.Event()
        self._accepted: dict[int, asyncio.Future[None]] = {}
        self._jobs: dict[int, GroupJob] = {}
        self._paths = RunPaths.of(config)
        self._folder = self._paths.allocator
        self._is_set = False
        """Settings are others than they were at the start."""
        self._saved: list[int] = []
        self._writing: asyncio.Task[Path] | None = None
        self.num_groups = 0
        self._num_planned = 0
        """Groups of both purposes."""
        self._trace = current()
        self._evaluations: dict[int, float] = {}
        """By version, when they began."""
        self.starvation = Starvation()

    @property
    def rounds(self) -> Rounds:
        """Rounds so far."""
        return self._dispatcher.rounds

    def look(self) -> Outlook:
        """What keeps it from dispatching."""
        pending = self._dispatcher.pending()
        if not self._placed:
            pending = [Pending("selector-0", "waits to be told where dispatch goes on")]
        elif self._accepted:
            pending = [Pending("selector-0", f"waits for an answer to the plan of group {min(self._accepted)}")]
        return Outlook(self._num_planned, pending)

    async def set_knobs(self, order: SetKnobs) -> str:
        """Go on under other bounds and another budget; groups that are under way keep what they were planned with."""
        self._is_set = True
        config = with_values(self._config, {key: change.new for key, change in order.changes.items()})
        budget = config.allocation.budget
        if self._adaptive is not None:
            self._adaptive.follow(AllocationRules.of(config))
        elif not isinstance(budget, float | int):
            return (
                f"allocation.budget = {budget!r}: this run keeps no statistics of lengths and latencies; start it with "
                "that budget, or with an allocation.signal"
            )
        else:
            self._fixed.mean = budget
        self._config = config
        admission = self._dispatcher.admission
        admission.eta = lookahead_of(config)
        admission.in_flight_groups = config.queues.in_flight_groups
        self._dispatcher.rounds.oversample_groups = config.queues.oversample_groups
        self._wake.set()
        return ""

    async def take_credits(self) -> None:
        while True:
            peer, message = await self._links.rollouts.recv()
            if isinstance(message, Credits) and message.allocator != self._incarnation:
                # Granted to an earlier start of the allocator, which may have sent anything for them.
                await self._tell(peer, AllocatorStarted(incarnation=self._incarnation))
            elif isinstance(message, Credits):
                is_new = self._dispatcher.credits.grant(peer, message.granted_total, message.incarnation)
                if is_new and self._evaluated:
                    await self._tell(peer, EvaluationDone(version=self._evaluated))
            elif self._adaptive is not None:
                self._adaptive.measured(message.concurrency.tolist(), message.per_token_s.tolist())
            self._wake.set()

    async def take_versions(self) -> None:
        while True:
            update = await self._links.policy.recv()
            self._dispatcher.published(update.version, last=update.last)
            self._knows_version.set()
            self._wake.set()
            if not self._prompts.held_out and self._schedule.is_due(update.version):
                await self._evaluation_over(update.version)  # there is nothing to evaluate with
            every = self._config.checkpoint.every_steps
            if every and update.version and update.version % every == 0:
                await self.save()

    async def take_losses(self) -> None:
        """Forget the credits of replicas that are gone; what they had comes back as replacements."""
        while True:
            lost = await self._links.supervisor.losses.get()
            if lost.role == "generator":
                self._dispatcher.credits.forget(f"generator-{lost.rank}", lost.incarnation)
                self._wake.set()
            elif lost.role == "learner":
                await self._links.policy.send(AllocatorHello())  # to the next one, which knows nobody
            elif lost.role == "selector":
                await self.ask()

    # --- where dispatch stands ------------------------------------------------------------------------------------

    async def ask(self) -> None:
        """Ask the selector where dispatch goes on. What was under way until now is void, and so are earlier answers."""
        self._placed = False
        self._hello += 1
        number = self._hello
        for accepted in self._accepted.values():
            accepted.cancel()
        self._accepted.clear()
        async with self._planning:
            await self._links.plans.send(AllocatorHello(number=number))

    async def _take_up(self, state: DispatchState) -> None:
        """Go on from there, unless the selector is lost once more meanwhile."""
        past = await self._recollect(state)
        if not self._remembers:
            await self._knows_version.wait()  # also says whether training is over
        if past is not None and not self._remembers:
            await self._adopt(past)
        told = {version for version, *_ in state.evaluated}
        for result in self._results:
            if result.policy_version not in told:
                await self._enter(result, state.number)  # it went down with the selector
        if state.number != self._hello:
            return
        known = None
        if past is not None and self._adaptive is not None:
            known = past.allotted
            allocation = known.allocation
            assert isinstance(allocation, BatchAllocation)
            allocation.adopt_latencies(self._adaptive)
            if self._is_set:
                allocation.follow(AllocationRules.of(self._config))
            self._adaptive = allocation
        dispatcher = self._dispatcher
        dispatcher.take_up(state, known)
        self._jobs = {group.group_id: dispatcher.adopted(group) for group in state.open}
        self._remembers = self._placed = True
        _log.info("dispatch goes on at group %d, draw %d", state.first_group, state.next_draw)

    async def _recollect(self, state: DispatchState) -> Recollection | None:
        """What the ledger knows of the run; None if there is nothing that is not known here, or no past at all."""
        begins = self._remembers and state.number == 1
        if begins or not state.ledger_records or (self._remembers and self._adaptive is None):
            return None
        order = self._new_order()
        if self._adaptive is not None:
            past = Recollection(self._first_config, order, self._new_allocation(order))
        else:
            past = Recollection(self._first_config, order, FixedMean(self._fixed.mean))
        await asyncio.to_thread(remember, past, self._paths.ledger, state.ledger_records)
        return past

    async def _adopt(self, past: Recollection) -> None:
        """Become what an earlier start was, and say again what its end may have swallowed."""
        self.starvation, self.num_groups = past.starvation, past.num_groups
        self._results = list(past.evaluations)
        self._saved = await asyncio.to_thread(saved_versions, self._folder)
        for result in self._results:
            await self._report(result)

    def _new_order(self) -> PromptOrder:
        return PromptOrder(len(self._prompts.train), self._first_config.run.seed)

    def _new_allocation(self, order: PromptOrder) -> BatchAllocation:
        return BatchAllocation(AllocationRules.of(self._first_config), _Keys(self._prompts), order.prompt_of)

    # --- replies --------------------------------------------------------------------------------------------------

    async def take_replies(self) -> None:
        while True:
            await self._take(await self._links.plans.recv())
            self._wake.set()

    async def _take(self, reply: PlanReply) -> None:
        if isinstance(reply, DispatchState):
            if reply.number == self._hello and not self._placed:
                await self._take_up(reply)
            return
        if not self._placed:
            return  # the answer that comes has it
        match reply:
            case PlanAccepted(group_id=group_id):
                accepted = self._accepted.pop(group_id, None)
                if accepted is not None:  # else it was told before
                    accepted.set_result(None)
            case ReplaceCandidate():
                self._dispatcher.replace(reply.group_id, reply.candidate_id)
            case GroupComplete():
                self._dispatcher.admission.completed(reply.group_id)
            case StepFilled():
                self._dispatcher.rounds.filled(reply.step)
            case GroupOutcome():
                job = self._jobs.pop(reply.group_id, None)
                if reply.purpose == "train" and not self._dispatcher.admission.is_live(reply.group_id):
                    return  # told before
                if job is not None and reply.reason == DEFERRED:
                    self._dispatcher.rounds.deferred(job.draw)
                elif reply.outcome == "stale":
                    self._dispatcher.rounds.swept()
                    if job is not None and is_lost(reply.reason):
                        self._dispatcher.redo(job)
                await self._ended(reply, job)

    async def _ended(self, outcome: GroupOutcome, job: GroupJob | None) -> None:
        if outcome.purpose == "train":
            # A group that was cut off shows only its short responses: they would pass for its lengths. One that was
            # lost comes again.
            counts = outcome.outcome != "cancelled" and not is_lost(outcome.reason)
            if self._adaptive is not None and job is not None and counts:
                self._adaptive.observe(job.prompt_index, outcome.group_id, outcome.lengths)
            trained = outcome.outcome == "trained"
            self._dispatcher.group_ended(outcome.group_id, trained=trained)
            if is_lost(outcome.reason):
                return
            if (text := self.starvation.ended(outcome.prompt_id, trained=trained)) is not None:
                _log.warning("%s", text)
                await self._links.supervisor.send(Warn(role="allocator", rank=self._links.rank, text=text))
            return
        lengths = tuple(length.tokens for length in outcome.lengths if not length.censored)
        score = self._dispatcher.evaluated(outcome.group_id, outcome.rewards, lengths)
        if score is not None:
            await self._scored(score)

    async def _scored(self, score: EvalScore) -> None:
        """Tell everyone who waits for it: the ledger, the replicas that hold the version, the learner, the launcher."""
        result = EvalResult(
            label=score.label,
            policy_version=score.version,
            reward=score.reward,
            response_length=score.response_length,
            num_rollouts=score.num_rollouts,
        )
        self._results.append(result)
        if (began := self._evaluations.pop(score.version, None)) is not None:
            self._trace.lane("evaluate").span("evaluate", f"version {score.version}", began, reward=score.reward)
        await self._enter(result, self._hello)
        await self._report(result)

    async def _enter(self, result: EvalResult, hello: int) -> None:
        """Have a score written into the ledger; not after a later hello, whose answer says whether it is there."""
        async with self._planning:
            if hello == self._hello:
                await self._links.plans.send(result)

    async def _report(self, result: EvalResult) -> None:
        """Tell of a score; a repeat does no harm."""
        if result.label == "during":
            await self._evaluation_over(result.policy_version)
        if result.label != "before" and self._schedule.every_steps:
            await self._links.policy.send(
                PolicyScored(
                    version=result.policy_version, reward=result.reward, response_length=result.response_length
                )
            )
        await self._links.supervisor.send(result)

    async def _evaluation_over(self, version: int) -> None:
        self._evaluated = max(self._evaluated, version)
        for peer in self._dispatcher.credits.peers:
            await self._tell(peer, EvaluationDone(version=self._evaluated))

    async def _tell(self, peer: str, message: FromAllocator) -> None:
        """Send a replica something. One that is gone misses it: the selector writes off what it had, and the next
        start is told what counts then."""
        with contextlib.suppress(LinkBroken):
            await self._links.rollouts.send(peer, message)

    async def dispatch(self) -> None:
        while self._dispatcher.phase != "complete":
            self._wake.clear()
            while self._placed and (job := self._dispatcher.next_job()) is not None:
                if isinstance(job, GroupJob):
                    await self._start_group(job, self._hello)
                else:
                    await self._start_replacement(job, self._hello)
            self._show()
            await self._wake.wait()
        self._links.supervisor.state = "complete"
        await self._links.supervisor.send(RunComplete())

    async def _start_group(self, job: GroupJob, hello: int) -> None:
        began = clock.now_s()
        candidates = tuple(candidate_id(job.group_id, index) for index in range(job.num_candidates))
        plan = self._plan(job, candidates)
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with self._planning:
            if hello == self._hello:
                self._jobs[job.group_id] = job
                self._accepted[job.group_id] = accepted
                self._num_planned += 1
                await self._links.plans.send(plan)
        if hello == self._hello:
            await asyncio.wait([accepted])
        for candidate in candidates:
            await self._request(job, job, candidate, attempt=0, hello=hello)
        self.num_groups += job.purpose == "train" and hello == self._hello
        self._trace.lane("dispatch").passes("dispatch", job.group_id, began, candidates=len(candidates), to=job.peer)
        if job.purpose != "train":
            self._evaluations.setdefault(job.policy_version, began)

    def _plan(self, job: GroupJob, candidates: tuple[int, ...]) -> GroupPlan:
        config, prompt = self._config, self._prompt(job)
        training = job.purpose == "train"
        return GroupPlan(
            group_id=job.group_id,
            draw=job.draw,
            replica=_rank_of(job.peer),
            incarnation=job.incarnation,
            prompt_id=prompt.prompt_id,
            purpose=job.purpose,
            rule=(job.rule or config.selection.rule) if training else "all",
            group_size=config.group.size if training else job.num_candidates,
            keep_longest=config.group.keep_longest if training else 0,
            candidate_ids=candidates,
            dispatch_version=job.policy_version,
            max_staleness=eta_of(config) if training else None,
            unfinished=job.unfinished,
            prompt_tokens=prompt.tokens,
        )

    async def _start_replacement(self, replacement: ReplacementJob, hello: int) -> None:
        job = self._jobs.get(replacement.group_id)
        if job is None:
            return
        candidate = replacement.candidate_id
        placed = CandidatePlaced(
            candidate_id=candidate, replica=_rank_of(replacement.peer), incarnation=replacement.incarnation
        )
        async with self._planning:
            if hello == self._hello:
                await self._links.plans.send(placed)
        await self._request(job, replacement, candidate, attempt=1, hello=hello)

    async def _request(
        self, job: GroupJob, booked: GroupJob | ReplacementJob, candidate: int, attempt: int, hello: int
    ) -> None:
        """Send one candidate of a group where it was booked. Nothing goes to a start of a replica that is over: the
        selector knows where each candidate was to go, and has written it off or will. Nor does anything leave that was
        booked before the last hello."""
        if hello != self._hello:
            self._dispatcher.credits.refund(booked.peer, 1, booked.incarnation)
            return
        if not self._dispatcher.may_send(booked):
            return
        prompt = self._prompt(job)
        await self._tell(
            booked.peer,
            RolloutRequest(
                candidate_id=candidate,
                prompt_tokens=np.asarray(prompt.tokens, dtype=np.int32),
                seed=rollout_seed(
                    self._config.run.seed, prompt.prompt_id, candidate_id(job.draw, index_of(candidate)), attempt
                ),
                max_response_tokens=self._config.model.max_response_tokens,
                min_policy_version=job.policy_version,
                incarnation=booked.incarnation,
                allocator=self._incarnation,
            ),
        )

    async def save(self, *, last: bool = False) -> None:
        """Write what is known under the version it is known for, beside the learner's checkpoint of that version."""
        version = self._dispatcher.admission.version
        if last and self._writing is not None:
            await self._writing
        if self._adaptive is None or version == 0 or version in self._saved:
            return
        self._saved.append(version)
        if self._writing is not None:
            await self._writing
        # A stop cancels whoever waits here; the write itself goes on, and the last save waits for it.
        write = asyncio.to_thread(save_allocator_state, self._folder, version, self._adaptive.to_state())
        self._writing = asyncio.create_task(write)
        await asyncio.shield(self._writing)
        if not last:
            keep = self._config.checkpoint.keep
            self._saved = await asyncio.to_thread(prune_allocator_states, self._folder, self._saved, keep)

    def _prompt(self, job: GroupJob) -> TokenizedPrompt:
        source = self._prompts.train if job.purpose == "train" else self._prompts.held_out
        return source[job.prompt_index]

    def _show(self) -> None:
        supervisor, admission = self._links.supervisor, self._dispatcher.admission
        supervisor.gauges["queue/in_flight_groups/depth"] = float(admission.in_flight)
        supervisor.gauges["allocator/live_groups"] = float(admission.live)
        supervisor.gauges["starvation/prompts"] = float(self.starvation.num_prompts)
        supervisor.gauges["starvation/max"] = float(self.starvation.max)
        self._trace.gauges(supervisor.gauges)
        if self._adaptive is not None:
            supervisor.gauges["allocation/budget"] = self._adaptive.budget
            supervisor.gauges["allocation/candidates_mean"] = self._adaptive.candidates_mean
            supervisor.gauges["allocation/clamped"] = float(self._adaptive.clamped)
        phase = self._dispatcher.phase
        supervisor.state = {
            "before": "evaluating (before)",
            "train": "dispatching" if admission.may_dispatch() else "waiting for the learner",
            "after": "evaluating (after)",
            "complete": "complete",
        }[phase]


class _Keys(Sequence[PromptKey]):
    """Keys of the training prompts, made as they are asked for: there may be a million."""

    def __init__(self, prompts: PromptSet) -> None:
        self._prompts = prompts

    def __len__(self) -> int:
        return len(self._prompts.train)

    @overload
    def __getitem__(self, index: int) -> PromptKey: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[PromptKey]: ...

    def __getitem__(self, index: int | slice) -> PromptKey | Sequence[PromptKey]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return PromptKey(*self._prompts.train_key(index))


def _rank_of(peer: str) -> int:
    """The rank of a generator by its name on the link."""
    return int(peer.rpartition("-")[2])


if __name__ == "__main__":
    from darts_async.runtime.process import main

    main("allocator", run)
