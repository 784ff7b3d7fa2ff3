"""What the selector decides: messages in by method calls, everything that follows from them out as `Effects`.

Pure and synchronous; the actor moves messages and asks the clock. It is the ledger's only writer. Invariants:

- every candidate of a training group is in the ledger from its plan (or replacement) on, and ends there exactly once;
- groups reach the learner in the order the planner releases them;
- after `freeze` (the run is being stopped) nothing new is decided: final reports and the learner's answers still
  count, and `close` ends the rest as `cancelled_shutdown`;
- after the learner's last step the same holds for every training group, and what runs of them is stopped at once, so
  that the last evaluation has the engines to itself;
- a response of an evaluation counts only if all of its tokens are of the version that is evaluated;
- a message about something unknown is counted, never fatal; a repeated one changes nothing, and so does whatever is
  told of a group below the fence (`group_numbers`): all those are over, or in the learner's hands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from darts_async.algorithms.books import Books
from darts_async.algorithms.dispatch_answers import DispatchAnswers
from darts_async.algorithms.effects import Cancel, Drop, Effects, Park, ScoreWanted, Stream
from darts_async.algorithms.group import NOTHING, Decision, GroupState, Status
from darts_async.algorithms.group_numbers import GroupNumbers
from darts_async.algorithms.live_group import LiveGroup
from darts_async.algorithms.lost_replicas import GENERATOR_LOST, LostReplicas
from darts_async.algorithms.released import Released
from darts_async.algorithms.rounds import DEFERRED, Rounds
from darts_async.algorithms.run_draws import RunDraws
from darts_async.algorithms.selection import RULES
from darts_async.algorithms.selector_recovery import SelectorRecovery
from darts_async.algorithms.selector_waits import selector_waits
from darts_async.algorithms.staleness import StepPlanner
from darts_async.algorithms.wait_graph import Pending
from darts_async.algorithms.zero_variance import ZeroVariance
from darts_async.errors import ProtocolError
from darts_async.messages import (
    MAX_CANDIDATES,
    CandidatePlaced,
    ChunksDropped,
    EvalResult,
    GroupComplete,
    GroupPlan,
    GroupSwept,
    LearnerState,
    PlanAccepted,
    PlanReply,
    Progress,
    ReplaceCandidate,
    Role,
    RolloutEnded,
    StateTaken,
    StepDone,
    StepFilled,
    StepMetrics,
    Trajectory,
    candidate_id,
    group_of,
    index_of,
)

__all__ = ["Selector"]

Fate: TypeAlias = Literal["trained", "stale"]

_SKIPPED: Final = 16
"""Group numbers that an allocator must not use which follows another: plans of that one may still be on their way. (It
sends the next one when the last was accepted, so there is one at most.)"""


class Selector:
    """The selector's state: live groups, the books, the order of training."""

    def __init__(
        self,
        *,
        planner: StepPlanner,
        run_seed: int,
        max_response_tokens: int,
        baseline: Literal["selected", "finished"] = "selected",
        zero_variance: ZeroVariance = "keep",
        stream_tokens: bool = False,
        clock: Callable[[], float] = lambda: 0.0,
        draws: RunDraws | None = None,
    ) -> None:
        """`stream_tokens`: have candidates that are certain to be kept streamed to the learner while they decode.

        `clock`: seconds, monotonic; only measures how long groups wait, decides nothing.

        `draws`: of a run at its beginning, for the allocator's sake; by default nothing is ever deferred."""
        self.books = Books(max_response_tokens)
        self.released = Released()
        """Groups in the learner's hands, or on their way there."""
        self.num_unasked = 0
        """Candidates that a generator cancelled by itself, before the order to stop was here."""
        self.protocol_errors = 0
        """Messages about groups or candidates that do not exist."""
        self.last_protocol_error = ""
        self._planner = planner
        self._run_seed = run_seed
        self._wait_for_all_rewards = baseline == "finished"
        self._zero_variance: ZeroVariance = zero_variance
        self._stream_tokens = stream_tokens
        self._clock = clock
        self._lost = LostReplicas()
        self._answers = DispatchAnswers(
            RunDraws(Rounds(planner.groups_per_step), planner.groups_per_step) if draws is None else draws
        )
        self._numbers = GroupNumbers()
        self._trained_since: list[int] = []
        """Groups that an earlier start entered as trained, without their step."""
        self._groups: dict[int, LiveGroup] = {}
        self._num_live = 0
        self._num_scored = 0
        self._version = 0
        self._frozen = False
        self._training_over = False
        self._effects = Effects()

    @property
    def num_live(self) -> int:
        """Groups planned and not yet at their end."""
        return self._num_live

    @property
    def num_planned(self) -> int:
        """Groups ever planned."""
        return self._numbers.num_taken

    @property
    def fence(self) -> int:
        """Groups with a lower number have nothing left to decode: generators drop what they have of them."""
        return self._numbers.fence

    @property
    def waits_for_learner(self) -> bool:
        """Whether it was started anew, and the learner has not said yet what it has."""
        return self._answers.holds

    @property
    def progress(self) -> int:
        """Rises with every end of a candidate, every score and every step."""
        return sum(self.books.ledger.rollouts.values()) + self._num_scored + self._version

    def pending(self) -> list[Pending]:
        """What is waited for."""
        found = selector_waits(self._groups.values())
        if self._answers.holds:
            found.insert(0, Pending("learner-0", "was started anew and waits to hear what was trained"))
        return found

    def take_effects(self) -> Effects | None:
        """What has to be sent since the last call, or None."""
        effects = self._effects
        effects.records = self.books.take_records()
        self._answers.feed(effects.records)
        answer = self._answers.due(self._numbers.first_free)
        if answer is not None:
            effects.replies.append(answer)
        if not effects:
            return None
        self._effects = Effects()
        return effects

    # --- after a loss ---------------------------------------------------------------------------------------------

    def take_up(self, recovery: SelectorRecovery) -> None:
        """Go on with the books of a selector that is gone: what was not given to the learner is lost."""
        self.books = recovery.books
        self._answers = DispatchAnswers(recovery.draws, holds=True)
        self._groups = dict(recovery.groups)
        self._version = recovery.version
        self._trained_since = list(recovery.trained_since)
        self._num_live = sum(not group.ended for group in self._groups.values())
        self.released = Released(waiting=True)
        self.released.restore(recovery.released)
        self._planner.take_up(recovery.draws.num_released)
        self._numbers.restore(recovery.draws.first_group(), recovery.num_groups)
        if self._stream_tokens:
            for group in self._groups.values():  # who was streamed is not in the ledger
                group.streamed.update(candidate.index for candidate in group.state.candidates)
        self._write_off_all("selector_lost")

    def on_allocator_hello(self, peer: str, number: int) -> None:
        """An allocator asks where dispatch goes on: it knows nothing of the groups that there are."""
        is_first = not (self._answers.num_asked or self._numbers.num_taken)
        if self._frozen or not self._answers.ask(peer, number):
            return
        self._write_off_all("allocator_lost", skip=0 if is_first else _SKIPPED)
        for group in self._groups.values():
            group.peer = peer

    def on_role_lost(self, role: Role, rank: int, incarnation: int) -> None:
        """A start of a role is over. What follows from it for the learner and the allocator comes with what their next
        starts say: this news may be later than that. Until then, groups go on."""
        self.books.role_lost(role, rank, incarnation)
        if role == "generator":
            self.on_generator_lost(rank, incarnation)

    # --- from the allocator ---------------------------------------------------------------------------------------

    def on_evaluated(self, result: EvalResult) -> None:
        """The allocator has the score of an evaluation."""
        self.books.evaluated(result)

    def on_plan(self, peer: str, plan: GroupPlan) -> None:
        """Take a group in charge. Raises `ProtocolError` for a rule or sizes that cannot work."""
        if self._frozen or plan.group_id < self.fence:
            return
        if self._numbers.is_known(plan.group_id):
            self._stray(f"group {plan.group_id} was planned twice")
            return
        rule = RULES.get(plan.rule)
        if rule is None:
            raise ProtocolError(f"group {plan.group_id} asks for the selection rule {plan.rule!r}: unknown")
        try:
            state = GroupState(
                group_id=plan.group_id,
                draw=plan.draw,
                indices=map(index_of, plan.candidate_ids),
                rule=rule,
                group_size=plan.group_size,
                keep_longest=plan.keep_longest,
                run_seed=self._run_seed,
                wait_for_all_rewards=self._wait_for_all_rewards,
                # An evaluation reports what it got; it is never repaired.
                replace_failed=plan.purpose == "train",
                zero_variance=self._zero_variance if plan.purpose == "train" else "keep",
            )
        except ValueError as error:
            raise ProtocolError(f"group {plan.group_id} cannot be selected from: {error}") from error
        self._reserve(self._numbers.take(plan.group_id))
        self._groups[plan.group_id] = LiveGroup(plan, peer, state)
        self._num_live += 1
        if plan.purpose == "train":
            self.books.planned(plan)
            self._planner.dispatched(plan.group_id, plan.dispatch_version, plan.max_staleness)
        self._reply(self._groups[plan.group_id], PlanAccepted(group_id=plan.group_id))
        if plan.purpose == "train" and self._training_over:
            self._stop(self._groups[plan.group_id])  # its plan was on its way here when training ended
        elif plan.unfinished == "defer" and self._planner.is_overdue(plan.dispatch_version, plan.max_staleness):
            # Its step was filled while the plan was on its way here.
            self._apply(self._groups[plan.group_id], self._groups[plan.group_id].state.abandon(DEFERRED))
        self._write_off_lost(self._groups.get(plan.group_id))

    def on_placed(self, message: CandidatePlaced) -> None:
        """A replacement is about to be sent somewhere."""
        found = self._find(message.candidate_id, "the place")
        if found is not None:
            group, index = found
            group.place(index, message.replica, message.incarnation)
            self._write_off_lost(group)

    # --- from the generators --------------------------------------------------------------------------------------

    def on_progress(self, message: Progress) -> None:
        """Lower bounds of many candidates at once: the hot path."""
        groups = self._groups
        replica = message.replica
        for candidate, tokens in zip(message.candidate_ids.tolist(), message.num_tokens.tolist(), strict=True):
            group = groups.get(candidate // MAX_CANDIDATES)
            if group is None:
                self._late(candidate, "progress")
                continue
            if self._training_over and group.trains:
                continue
            try:
                decision = group.state.on_progress(candidate % MAX_CANDIDATES, tokens)
            except KeyError:
                self._stray(f"progress of candidate {candidate}, which its group does not have")
                continue
            first_sight = group.replica is None
            group.seen_at(replica)
            if decision is not NOTHING:
                self._apply(group, decision)
            elif first_sight:
                self._stream(group)

    def on_trajectory(self, message: Trajectory) -> None:
        """A response that finished."""
        found = self._find(message.candidate_id, "a trajectory")
        if found is None:
            return
        group, index = found
        group.seen_at(message.replica)
        length = message.response_tokens.size
        capped = message.finish_reason == "length"
        if not self._report(group, message.candidate_id, length, "capped" if capped else "finished"):
            return
        if self._is_closed(group):
            return
        if not group.trains and any(span.version != group.plan.dispatch_version for span in message.version_spans):
            self._stray(f"evaluation of version {group.plan.dispatch_version} got {message.version_spans}")
            self._fail(group, index, "policy_version")
            return
        if group.state.candidate(index).status is Status.RUNNING:
            group.hold(index, message, self._clock())
            self._effects.scores.append(
                ScoreWanted(message.candidate_id, group.plan.prompt_id, message.response_tokens)
            )
        self._apply(group, group.state.on_finished(index, length, capped))

    def on_ended(self, message: RolloutEnded) -> None:
        """A candidate that ended without a response."""
        found = self._find(message.candidate_id, "an end")
        if found is None:
            return
        group, index = found
        group.seen_at(message.replica)
        status = group.state.candidate(index).status
        on_order = message.reason == "cancelled" and status is Status.CANCELLED
        if not self._report(group, message.candidate_id, message.num_tokens, "cancelled" if on_order else "other"):
            return
        if message.cancel_latency_s is not None:
            self.books.cancel_took(message.cancel_latency_s)
        if on_order:
            group.state.on_progress(index, message.num_tokens)
        if message.reason == "failed":
            if status is Status.RUNNING and not self._is_closed(group):
                self._fail(group, index, "engine")
        elif not on_order and not self._is_closed(group):
            # A generator that is being stopped aborts everything, and its report may be here before our own order
            # to stop: nothing is decided, `close` ends the candidate. Otherwise the gauge shows why a group hangs.
            self.num_unasked += 1

    def on_generator_lost(self, replica: int, incarnation: int) -> None:
        """A start of a generator is over: what it had, and what was still to be sent to it, ends or has ended."""
        if self._lost.lost(replica, incarnation):
            for group in list(self._groups.values()):
                self._write_off_lost(group)

    # --- from the reward pool -------------------------------------------------------------------------------------

    def on_reward(self, candidate: int, value: float, components: Mapping[str, float] | None = None) -> None:
        """A score is in, and what it is made of. Too late for a group that is gone: nobody waits for it."""
        self._num_scored += 1
        group = self._groups.get(group_of(candidate))
        if group is None or self._is_closed(group):
            return
        self._apply(group, group.state.on_reward(index_of(candidate), value, components))

    def on_reward_failed(self, candidate: int, kind: str) -> None:
        """A response could not be scored: its candidate failed."""
        group = self._groups.get(group_of(candidate))
        if group is None or self._is_closed(group):
            return
        self._fail(group, index_of(candidate), f"reward_{kind}")

    # --- from the learner -----------------------------------------------------------------------------------------

    def on_step_done(self, message: StepDone) -> None:
        """Groups were trained: `kept` becomes `trained`."""
        if message.version != self._version + 1:
            return  # told before, or the one before was lost: a `LearnerState` with both of them follows
        self._version = message.version
        trained, self._trained_since = self._trained_since, []
        for group_id in message.group_ids:
            group = self._assigned(group_id, "trained")
            if group is not None:
                self._end_kept(group, "trained", version=message.version)
                trained.append(group_id)
        self._planner.reached(message.version)  # the books may have been closed without some of its groups
        values = self.books.step_done(message.version, tuple(trained))
        self._effects.steps.append(StepMetrics(step=message.version - 1, values=values))
        if message.last:
            self._end_training()

    def on_learner_state(self, message: LearnerState) -> None:
        """One of the two was started anew: count the steps that were not heard of, send again what the learner lacks.

        Raises `ProtocolError` when the learner has gone back, or has made steps that nobody can name any more.
        """
        if message.epoch <= self.released.epoch:
            return  # the learner has said something newer
        for step in message.steps:
            if step.version == self._version + 1:
                self.on_step_done(StepDone(version=step.version, group_ids=step.group_ids))
        if message.version != self._version:
            raise ProtocolError(
                f"the learner has version {message.version}, the selector's books end at version {self._version}"
            )
        over = tuple(group_id for group_id in message.received if group_id not in self.released)
        again, lost = self.released.take_state(message.epoch, message.received)
        if message.last and not self._training_over:
            self._end_training()
        self._effects.groups.append(StateTaken(epoch=message.epoch, over=over))
        self._answers.go_on()
        if self._frozen or self._training_over:
            return
        self._effects.groups += again
        for group_id in lost:
            self._lose(group_id)

    def on_swept(self, message: GroupSwept) -> None:
        """The learner refused a group at its door."""
        group = self._assigned(message.group_id, "swept")
        if group is not None:
            self._end_kept(group, "stale", reason=f"staleness {message.staleness}")
            self._release(self._planner.swept(message.group_id))

    # --- the end --------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """The run is being stopped: decide nothing any more."""
        self._frozen = True

    def close(self) -> dict[str, float]:
        """Close the books; return the role's part of the summary. Raises `ValueError` when they do not balance."""
        self.freeze()
        return self.books.close(self._groups)

    def gauges(self) -> dict[str, float]:
        """Current values by metric name; cheap."""
        return {
            **self.books.values(),
            "selector/live_groups": float(self._num_live),
            "selector/unasked_cancels": float(self.num_unasked),
        }

    # --- inside ---------------------------------------------------------------------------------------------------

    def _write_off_all(self, reason: str, *, skip: int = 0) -> None:
        """End everything that was not given to the learner, as lost: nobody knows of it any more, or nobody is left
        who would send what is missing. Complete groups that wait for a slot are among it."""
        before = self.fence
        self._reserve(self._numbers.close_off(skip))
        if self.fence > before:
            self._effects.cancels.append(Drop(self.fence))
        for group in list(self._groups.values()):
            if not group.trains:
                self._num_live -= not group.ended
                del self._groups[group.plan.group_id]
            elif not self._is_closed(group):
                self._write_off(group, reason)

    def _write_off(self, group: LiveGroup, reason: str) -> None:
        kept = group.state.kept if group.released and not group.ended else ()
        lost = [candidate.index for candidate in group.state.candidates if candidate.index not in kept]
        self._unstream(group, lost)
        for index in lost:
            self.books.write_off(group, index, reason)
        if group.ended or group.released:
            self._forget_if_settled(group)
            return
        self._planner.forget(group.plan.group_id)
        self.books.group_ended(group, "cancelled", reason=reason)
        self._end_group(group)

    def _reserve(self, below: int | None) -> None:
        if below is not None:
            self.books.reserved(below)

    def _reply(self, group: LiveGroup, message: PlanReply) -> None:
        """Tell the allocator. One that has not said hello since this selector was started is told all at once then."""
        if group.peer:
            self._effects.replies.append((group.peer, message))

    def _apply(self, group: LiveGroup, decision: Decision) -> None:
        """Carry out what a group decided."""
        group_id = group.plan.group_id
        for failed, new in decision.replace:
            failed_id, new_id = candidate_id(group_id, failed), candidate_id(group_id, new)
            self.books.replaced(failed_id, new_id)
            self._reply(group, ReplaceCandidate(group_id=group_id, failed_id=failed_id, candidate_id=new_id))
        if group.trains:
            for index, verdict in decision.verdicts:
                if verdict != "kept":
                    self.books.decided(group, index, verdict)
        if decision.cancel:
            self.books.num_cancelled += len(decision.cancel)
            ids = tuple(candidate_id(group_id, index) for index in decision.cancel if not self._is_lost(group, index))
            if ids:
                self._effects.cancels.append(Cancel(group.replica, ids))
        if group.trains and not group.announced and group.state.all_decided:
            group.announced = True
            self._reply(group, GroupComplete(group_id=group_id))
        if self._stream_tokens:
            self._unstream(group, [index for index, verdict in decision.verdicts if verdict != "kept"])
            self._stream(group)
        if decision.complete:
            self._complete(group, decision)

    def _write_off_lost(self, group: LiveGroup | None) -> None:
        """Fail what runs on starts of generators that are over; what was cancelled there will never report."""
        if group is None or self._is_closed(group):  # `close` ends the candidates of a closed one
            return
        lost = [c.index for c in group.state.candidates if self._is_lost(group, c.index)]
        if not lost:
            return
        group.scatter()
        if group.trains:
            for index in lost:
                self.books.unheard(group, index)
        for index in lost:
            if group.state.candidate(index).status is Status.RUNNING:
                self._fail(group, index, GENERATOR_LOST)
        self._forget_if_settled(group)

    def _is_lost(self, group: LiveGroup, index: int) -> bool:
        place = group.place_of(index)
        return place is not None and self._lost.has(*place)

    def _stream(self, group: LiveGroup) -> None:
        """Have the tokens of candidates sent on that are certain to be kept, once it is known who has the group."""
        if not self._stream_tokens or not group.trains or (group.replica is None and not group.scattered):
            return
        new = [index for index in group.state.certain if index not in group.streamed]
        if new:
            group.streamed.update(new)
            ids = tuple(candidate_id(group.plan.group_id, index) for index in new)
            self._effects.cancels.append(Stream(group.replica, ids))

    def _unstream(self, group: LiveGroup, indices: Sequence[int]) -> None:
        """Have the learner forget what it was sent of candidates that are not kept after all."""
        dropped = sorted(group.streamed.intersection(indices))
        if dropped:
            group.streamed.difference_update(dropped)
            ids = tuple(candidate_id(group.plan.group_id, index) for index in dropped)
            self._effects.groups.append(ChunksDropped(candidate_ids=ids))

    def _complete(self, group: LiveGroup, decision: Decision) -> None:
        group_id = group.plan.group_id
        if not group.trains:
            self._end_group(group)
            self._reply(group, group.outcome("evaluated", decision.rejected_reason))
            return
        self.books.num_zero_variance += group.state.zero_variance
        if decision.kept is not None:
            group.completed(self._clock())
            group.let_go()
            self._release(self._planner.complete(group_id))
            return
        fate: Literal["cancelled", "rejected"] = "cancelled" if decision.rejected_reason == DEFERRED else "rejected"
        self.books.group_ended(group, fate, reason=decision.rejected_reason)
        self._reply(group, group.outcome(fate, decision.rejected_reason))
        self._end_group(group)
        self._release(self._planner.dropped(group_id))

    def _release(self, released: Sequence[tuple[int, int]]) -> None:
        if self._frozen or self._training_over:
            return
        for group_id, step in released:
            group = self._groups[group_id]
            self.books.released(group, step)
            self._effects.groups += self.released.give(group.train_group(step))
        if released and self._planner.filling > released[0][1]:
            self._step_filled(self._groups[released[-1][0]])

    def _end_training(self) -> None:
        """The learner made its last version: stop what still decodes for a later one. `close` ends the candidates."""
        self._training_over = True
        self._effects.groups.clear()
        for group in self._groups.values():
            if group.trains and not group.ended:
                self._stop(group)

    def _stop(self, group: LiveGroup) -> None:
        if group.state.running:
            ids = tuple(candidate_id(group.plan.group_id, index) for index in group.state.running)
            self._effects.cancels.append(Cancel(group.replica, ids))

    def _is_closed(self, group: LiveGroup) -> bool:
        """Whether nothing is decided any more about a group."""
        return self._frozen or (self._training_over and group.trains)

    def _step_filled(self, last: LiveGroup) -> None:
        """The last slot of a step is taken: what is unfinished is deferred, or pauses until the next version.

        Groups that are complete keep their place; so do those that only wait for a reward, unless they are deferred.
        """
        for group in list(self._groups.values()):
            if not group.trains or group.ended or group.state.complete:
                continue
            if group.plan.unfinished == "defer":
                self._apply(group, group.state.abandon(DEFERRED))
            elif group.plan.unfinished == "resume" and group.state.running and not self._planner.is_full:
                ids = tuple(candidate_id(group.plan.group_id, index) for index in group.state.running)
                self._effects.cancels.append(Park(group.replica, ids, self._planner.filling))
        if last.plan.unfinished == "defer":
            self._reply(last, StepFilled(step=self._planner.filling - 1))

    def _assigned(self, group_id: int, what: str) -> LiveGroup | None:
        group = self._groups.get(group_id)
        if group is not None and group.released and not group.ended:
            return group
        if not self._numbers.is_known(group_id) or (group is not None and not group.ended):
            self._stray(f"group {group_id} was {what}, but was not given to the learner")
        return None

    def _end_kept(self, group: LiveGroup, fate: Fate, *, version: int | None = None, reason: str = "") -> None:
        for index in group.state.kept:
            self.books.decided(group, index, fate)
        self.books.group_ended(group, fate, version=version, reason=reason)
        self._reply(group, group.outcome(fate, reason))
        self._end_group(group)

    def _lose(self, group_id: int) -> None:
        """A group whose responses nobody has any more: it is as if the learner had refused it."""
        group = self._assigned(group_id, "lost")
        if group is not None:
            self._unstream(group, group.state.kept)
            self._end_kept(group, "stale", reason="selector_lost")
            self._release(self._planner.swept(group_id))

    def _end_group(self, group: LiveGroup) -> None:
        group.ended = True
        self.released.over(group.plan.group_id)
        self._num_live -= 1
        self._forget_if_settled(group)

    def _forget_if_settled(self, group: LiveGroup) -> None:
        """Let a group go once its outcome is out and every final report is in."""
        group_id = group.plan.group_id
        if group.ended and not any(
            self.books.ledger.is_open(candidate_id(group_id, c.index)) for c in group.state.candidates
        ):
            self._groups.pop(group_id, None)

    def _fail(self, group: LiveGroup, index: int, reason: str) -> None:
        group.reasons[index] = reason
        decision = group.state.on_failed(index)
        if any(verdict == "failed" for _, verdict in decision.verdicts):
            self.books.failures[reason] += 1
        self._apply(group, decision)

    def _report(
        self,
        group: LiveGroup,
        candidate: int,
        tokens: int,
        ending: Literal["finished", "capped", "cancelled", "other"],
    ) -> bool:
        """Enter a final token count; False for a repeat."""
        if not group.trains:
            return group.state.candidate(index_of(candidate)).status is Status.RUNNING
        news = self.books.reported(group, candidate, tokens, ending)
        self._forget_if_settled(group)
        return news

    def _find(self, candidate: int, what: str) -> tuple[LiveGroup, int] | None:
        group = self._groups.get(group_of(candidate))
        if group is None:
            self._late(candidate, what)
            return None
        try:
            group.state.candidate(index_of(candidate))
        except KeyError:
            self._stray(f"{what} of candidate {candidate}, which its group does not have")
            return None
        return group, index_of(candidate)

    def _late(self, candidate: int, what: str) -> None:
        if not self._numbers.is_known(group_of(candidate)):
            self._stray(f"{what} of candidate {candidate}, whose group was never planned")

    def _stray(self, text: str) -> None:
        self.protocol_errors += 1
        self.last_protocol_error = text
