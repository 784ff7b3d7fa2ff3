"""The allocator: decides which prompts start, with how many candidates, where and when.

It moves messages; what is sent next is decided by `darts_async.algorithms.dispatch`. Invariant: no request of a group
leaves before the selector has accepted the group's plan, so every candidate that exists is in the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import numpy as np

from darts_async.algorithms.allocation import FixedMean
from darts_async.algorithms.batch_allocation import AllocationRules, BatchAllocation, PromptKey, is_adaptive
from darts_async.algorithms.dispatch import Dispatcher, GroupJob, ReplacementJob
from darts_async.algorithms.evaluation import EvalSchedule, EvalScore
from darts_async.algorithms.prompt_order import PromptOrder
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
    CandidatePlaced,
    Credits,
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
from darts_async.runtime.allocator_file import prune_allocator_states, save_allocator_state
from darts_async.runtime.links import AllocatorLinks
from darts_async.runtime.scope import run_until
from darts_async.runtime.waiting import Outlook
from darts_async.tasks.prompt_set import PromptSet, TokenizedPrompt, load_prompts

_log = logging.getLogger(__name__)


async def run(links: AllocatorLinks, config: Config) -> None:
    """Dispatch prompts until the run is complete or stopped."""
    prompts = await asyncio.to_thread(load_prompts, config)
    _log.info("%d training prompts, %d held out", len(prompts.train), len(prompts.held_out))
    allocator = _Allocator(links, config, prompts)
    links.supervisor.look, links.supervisor.knobs = allocator.look, allocator.set_knobs
    await links.policy.send(AllocatorHello())
    await links.supervisor.ready()
    if prompts.num_skipped:
        text = f"{prompts.num_skipped} prompts skipped: longer than model.max_prompt_tokens"
        await links.supervisor.send(Warn(role="allocator", rank=links.rank, text=text))
    await run_until(
        links.supervisor.stopping,
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
        self._schedule = EvalSchedule.of(config)
        self._evaluated = 0
        """Evaluations of versions up to this one are over."""
        order = PromptOrder(len(prompts.train), config.run.seed)
        self._adaptive: BatchAllocation | None = None
        if is_adaptive(config):
            keys = [PromptKey(prompt.prompt_id, prompt.stratum) for prompt in prompts.train]
            self._adaptive = BatchAllocation(AllocationRules.of(config), keys, order.prompt_of)
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
        self._folder = RunPaths.of(config).allocator
        self._saved: list[int] = []
        self._writing: asyncio.Task[Path] | None = None
        self.num_groups = 0
        self._num_planned = 0
        """Groups of both purposes."""
        self.starvation = Starvation()

    @property
    def rounds(self) -> Rounds:
        """Rounds so far."""
        return self._dispatcher.rounds

    def look(self) -> Outlook:
        """What keeps it from dispatching."""
        pending = self._dispatcher.pending()
        if self._accepted:
            pending = [Pending("selector-0", f"waits for an answer to the plan of group {min(self._accepted)}")]
        return Outlook(self._num_planned, pending)

    async def set_knobs(self, order: SetKnobs) -> str:
        """Go on under other bounds and another budget; groups that are under way keep what they were planned with."""
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
            if isinstance(message, Credits):
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

    async def take_replies(self) -> None:
        while True:
            await self._take(await self._links.plans.recv())
            self._wake.set()

    async def _take(self, reply: PlanReply) -> None:
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
                await self._ended(reply, job)

    async def _ended(self, outcome: GroupOutcome, job: GroupJob | None) -> None:
        if outcome.purpose == "train":
            # A group that was cut off shows only its short responses: they would pass for its lengths.
            if self._adaptive is not None and job is not None and outcome.outcome != "cancelled":
                self._adaptive.observe(job.prompt_index, outcome.group_id, outcome.lengths)
            trained = outcome.outcome == "trained"
            self._dispatcher.group_ended(outcome.group_id, trained=trained)
            if (text := self.starvation.ended(outcome.prompt_id, trained=trained)) is not None:
                _log.warning("%s", text)
                await self._links.supervisor.send(Warn(role="allocator", rank=self._links.rank, text=text))
            return
        lengths = tuple(length.tokens for length in outcome.lengths if not length.censored)
        score = self._dispatcher.evaluated(outcome.group_id, outcome.rewards, lengths)
        if score is not None:
            await self._scored(score)

    async def _scored(self, score: EvalScore) -> None:
        """Tell everyone who waits for it: the replicas that hold the version, the learner, and the launcher."""
        if score.label == "during":
            await self._evaluation_over(score.version)
        if score.label != "before" and self._schedule.every_steps:
            await self._links.policy.send(
                PolicyScored(version=score.version, reward=score.reward, response_length=score.response_length)
            )
        await self._links.supervisor.send(
            EvalResult(
                label=score.label,
                policy_version=score.version,
                reward=score.reward,
                response_length=score.response_length,
                num_rollouts=score.num_rollouts,
            )
        )

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
            while (job := self._dispatcher.next_job()) is not None:
                if isinstance(job, GroupJob):
                    await self._start_group(job)
                else:
                    await self._start_replacement(job)
            self._show()
            await self._wake.wait()
        self._links.supervisor.state = "complete"
        await self._links.supervisor.send(RunComplete())

    async def _start_group(self, job: GroupJob) -> None:
        config, prompt = self._config, self._prompt(job)
        candidates = tuple(candidate_id(job.group_id, index) for index in range(job.num_candidates))
        training = job.purpose == "train"
        self._jobs[job.group_id] = job
        self._num_planned += 1
        accepted = self._accepted[job.group_id] = asyncio.get_running_loop().create_future()
        await self._links.plans.send(
            GroupPlan(
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
        )
        await accepted
        for candidate in candidates:
            await self._request(job, job, candidate, attempt=0)
        self.num_groups += training

    async def _start_replacement(self, replacement: ReplacementJob) -> None:
        job = self._jobs.get(replacement.group_id)
        if job is None:
            return
        candidate = replacement.candidate_id
        placed = CandidatePlaced(
            candidate_id=candidate, replica=_rank_of(replacement.peer), incarnation=replacement.incarnation
        )
        await self._links.plans.send(placed)
        await self._request(job, replacement, candidate, attempt=1)

    async def _request(self, job: GroupJob, booked: GroupJob | ReplacementJob, candidate: int, attempt: int) -> None:
        """Send one candidate of a group where it was booked. Nothing goes to a start of a replica that is over: the
        selector knows where each candidate was to go, and has written it off or will."""
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


def _rank_of(peer: str) -> int:
    """The rank of a generator by its name on the link."""
    return int(peer.rpartition("-")[2])


if __name__ == "__main__":
    from darts_async.runtime.process import main

    main("allocator", run)
