"""One definition of staleness, and the two state machines that keep its bound: admission and step planning.

Staleness of a group = the learner's version *before* the update that uses it, minus the oldest policy version of any
of its tokens; queue time is included because both versions are. Its bound is eta.

- `Admission` (allocator) only starts what can still be trained in time. It saves compute.
- `StepPlanner` (selector) orders groups so that none is overtaken until it is too old. It saves slow prompts.
- The door of the learner sweeps what is too old all the same. It is the guarantee, and should only ever catch faults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from darts_async.config.schema import MODE_ETA

if TYPE_CHECKING:
    from darts_async.config import Config


def eta_of(config: Config) -> int:
    """Return the bound on staleness: `pipeline.max_staleness`, or what the mode implies."""
    chosen = config.pipeline.max_staleness
    return MODE_ETA[config.pipeline.mode] if chosen is None else chosen


def lookahead_of(config: Config) -> int:
    """Return by how many steps admission runs ahead of the learner.

    eta, but 0 for `pipeline.unfinished = "resume"`: there the groups beyond a step's need are what the next steps
    train on, so `oversample_groups` is the only thing that runs ahead. With at most eta * groups_per_step of them
    every group still has a slot in time: group number k, from 0, starts at the earliest at a version w with
    k < (w + 1) * groups_per_step + oversample_groups, which is what the steps through w + eta hold.
    """
    return 0 if config.pipeline.unfinished == "resume" else eta_of(config)


def staleness(version: int, oldest_version: int) -> int:
    """Versions between the policy about to be updated and the oldest token that the update uses."""
    return version - oldest_version


class Admission:
    """May one more group start? (DESIGN 2.3; the capacity rule is AReaL's, in groups instead of samples.)

    `trained + live <= (eta + 1 + version) * groups_per_step + oversample`, where `live` counts groups dispatched and
    not yet at their end, so that dropped, failed and swept groups make room for their replacements. Differs from
    AReaL's: finished groups that wait for the learner stay live, so queue time cannot grow past the bound. Two
    further bounds: `in_flight` (live groups that are still decoding) and the groups that the whole run needs.

    `oversample` groups start for nothing, or for a later step, when all the others are in time: with `keep` the slowest
    of a version may grow too old and be swept; `defer` ends them, `resume` counts them in (`lookahead_of`).
    """

    def __init__(
        self, *, groups_per_step: int, eta: int, steps: int, in_flight_groups: int, oversample_groups: int = 0
    ) -> None:
        self._groups_per_step = groups_per_step
        self.eta = eta
        """Steps by which groups may run ahead. May change at any time: what was admitted under another value keeps
        the deadline that it has, and is counted in full from now on."""
        self.in_flight_groups = in_flight_groups
        """Most groups in flight; may change at any time."""
        self.oversample_groups = oversample_groups
        """Groups that may start beyond the horizon; may change from round to round."""
        self._needed = steps * groups_per_step
        self._decoding: set[int] = set()
        self._waiting: set[int] = set()
        self.trained = 0
        self.version = 0

    @property
    def live(self) -> int:
        """Groups dispatched and not yet at their end."""
        return len(self._decoding) + len(self._waiting)

    def is_live(self, group_id: int) -> bool:
        """Whether a group was dispatched and has not ended."""
        return group_id in self._decoding or group_id in self._waiting

    @property
    def in_flight(self) -> int:
        """Live groups whose candidates are not all decided."""
        return len(self._decoding)

    @property
    def done(self) -> bool:
        """All groups that the run needs are trained."""
        return self.trained >= self._needed

    @property
    def is_settled(self) -> bool:
        """Whether every group that the published versions were trained on has been reported."""
        return self.trained >= self.version * self._groups_per_step

    @property
    def horizon(self) -> int:
        """Groups that may be trained or live now, as far as staleness goes."""
        return (self.eta + 1 + self.version) * self._groups_per_step + self.oversample_groups

    def may_dispatch(self) -> bool:
        """Whether one more group fits all three bounds now."""
        return not self.blocked_by()

    def blocked_by(self) -> Literal["", "run", "horizon", "in_flight"]:
        """The bound that one more group would break; of several the one that takes longest to give way."""
        after = self.trained + self.live + 1
        if after > self._needed + self.oversample_groups:
            return "run"
        if after > self.horizon:
            return "horizon"
        return "in_flight" if len(self._decoding) >= self.in_flight_groups else ""

    def dispatched(self, group_id: int) -> None:
        """A group starts."""
        self._decoding.add(group_id)

    def completed(self, group_id: int) -> None:
        """All candidates of a group are decided; it waits for the learner."""
        if group_id in self._decoding:
            self._decoding.remove(group_id)
            self._waiting.add(group_id)

    def ended(self, group_id: int, *, trained: bool) -> None:
        """A group reached its end. Unknown ids are ignored (an end is reported once, but may race a stop)."""
        if self.is_live(group_id):
            self._decoding.discard(group_id)
            self._waiting.discard(group_id)
            self.trained += trained

    def published(self, version: int) -> None:
        """The learner published a version; versions never go back."""
        self.version = max(self.version, version)

    def restore(self, trained: int, waiting: Iterable[int]) -> None:
        """Other facts: these groups wait for the learner, and whatever else was live is over."""
        self.trained = trained
        self._decoding.clear()
        self._waiting = set(waiting)


class StepPlanner:
    """Assigns complete groups to learner steps: earliest deadline first, with room kept for the slow ones.

    A group that was dispatched at version w must be trained by step w + eta. A complete group g with deadline d may
    take a slot of the step s that is being filled if, for every step s' in [s, d), the live groups with a deadline
    up to s' still fit into the slots left through s' (Hall's condition for unit jobs with deadlines). Groups that are
    dispatched later cannot break it: their deadlines are not before d. With that, every live group finds a slot in
    time however slow it is, so the sweep at the learner's door never fires unless something failed.

    eta may change while groups are live: each has the one it was admitted under, in its plan. After a fall of eta, a
    later group h may be due before g. That breaks nothing either: h was admitted only because all groups trained or
    live by then, g included, fit into the steps through h's deadline.

    Slots are handed out in order, so the i-th group released belongs to step i // groups_per_step.
    """

    def __init__(self, groups_per_step: int, max_staleness: int, steps: int | None = None) -> None:
        self._per_step = groups_per_step
        self._eta = max_staleness
        self._last_slot = None if steps is None else steps * groups_per_step
        self._deadline: dict[int, int] = {}
        self._due: Counter[int] = Counter()
        self._complete: set[int] = set()
        self._assigned = 0

    @property
    def groups_per_step(self) -> int:
        """Slots of a step."""
        return self._per_step

    @property
    def filling(self) -> int:
        """The step whose slots are being handed out."""
        return self._assigned // self._per_step

    @property
    def is_full(self) -> bool:
        """Whether every slot of the run is taken."""
        return self._last_slot is not None and self._assigned >= self._last_slot

    def is_overdue(self, version: int, eta: int | None = None) -> bool:
        """Whether a group that starts at this version can no longer be trained in time: its last step is filled."""
        return self.filling > version + (self._eta if eta is None else eta)

    def dispatched(self, group_id: int, version: int, eta: int | None = None) -> None:
        """A group starts at a policy version (a lower bound on the versions of its tokens).

        eta: the bound that it was admitted under, if it is not the one from the start.
        """
        deadline = version + (self._eta if eta is None else eta)
        self._deadline[group_id] = deadline
        self._due[deadline] += 1

    def complete(self, group_id: int) -> list[tuple[int, int]]:
        """A group can be trained. Return the groups that may go to the learner now, as (group, step), in order."""
        if group_id in self._deadline:
            self._complete.add(group_id)
        return self._release()

    def dropped(self, group_id: int) -> list[tuple[int, int]]:
        """A group will never be trained. Return the groups that this lets through."""
        self._forget(group_id)
        return self._release()

    def swept(self, group_id: int) -> list[tuple[int, int]]:
        """The learner refused a group that was assigned: its slot is free again."""
        if group_id in self._deadline:
            raise ValueError(f"group {group_id} was never released to the learner")
        self._assigned -= 1
        return self._release()

    def take_up(self, num_assigned: int) -> None:
        """Slots that an earlier start of the selector had handed out."""
        self._assigned = num_assigned

    def reached(self, version: int) -> None:
        """A step was made: its slots are taken, whatever became of the groups that were given for them."""
        self._assigned = max(self._assigned, version * self._per_step)

    def forget(self, group_id: int) -> None:
        """A group that has no slot is gone with all the others that have none: nothing is let through by it."""
        self._forget(group_id)

    def _forget(self, group_id: int) -> None:
        deadline = self._deadline.pop(group_id, None)
        self._complete.discard(group_id)
        if deadline is not None:
            self._due[deadline] -= 1
            if not self._due[deadline]:
                del self._due[deadline]

    def _release(self) -> list[tuple[int, int]]:
        released: list[tuple[int, int]] = []
        for group_id in sorted(self._complete, key=lambda g: (self._deadline[g], g)):
            if self._last_slot is not None and self._assigned >= self._last_slot:
                break
            if not self._fits(self._deadline[group_id]):
                break  # a later deadline has at least these conditions to meet
            released.append((group_id, self.filling))
            self._assigned += 1
            self._forget(group_id)
        return released

    def _fits(self, deadline: int) -> bool:
        """Whether a group with this deadline may take the next slot."""
        step = self.filling
        taken = self._assigned + 1
        owed = sum(count for due, count in self._due.items() if due < step)
        for until in range(step, deadline):
            owed += self._due.get(until, 0)
            if owed > (until + 1) * self._per_step - taken:
                return False
        return True
