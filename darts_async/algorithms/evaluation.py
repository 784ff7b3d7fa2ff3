"""Evaluations of the held-out set: at which versions, and the books of one while it is under way. Pure.

An evaluation of version v is exact: every token of it is of v. Who keeps that: the replicas never skip a version that
is evaluated and serve it until they are told that its evaluation is over (`swap_order`); the selector drops a response
with other tokens. It ends whatever its candidates do: they are never replaced, and a failed one counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from darts_async.config import Config

EvalLabel: TypeAlias = Literal["before", "during", "after"]


@dataclass(frozen=True, slots=True)
class EvalSchedule:
    """Which versions are evaluated while training goes on: the multiples of `eval.every_steps`."""

    every_steps: int = 0
    """0: none."""
    samples: int = 0
    """Candidates of a held-out prompt."""

    @classmethod
    def of(cls, config: Config) -> EvalSchedule:
        """The schedule of a config; none without held-out prompts."""
        return cls(config.eval.every_steps if config.eval.prompts else 0, config.eval.samples)

    def is_due(self, version: int) -> bool:
        """Whether a version is evaluated."""
        return self.every_steps > 0 and version > 0 and version % self.every_steps == 0

    def due_between(self, after: int, through: int) -> list[int]:
        """Return the versions that are evaluated of those above `after`, up to `through`, in order."""
        return [version for version in range(after + 1, through + 1) if self.is_due(version)]

    @property
    def reserve(self) -> int:
        """Credits of a replica that are kept for evaluations: those of one group.

        Training groups can wait in a replica for a version behind the one that is being evaluated. Without a reserve
        they could take every credit, and the evaluation that they wait for could not go on.
        """
        return self.samples if self.every_steps else 0


@dataclass(frozen=True, slots=True)
class EvalScore:
    """Means over an evaluation, and how many responses they are over; NaN over none."""

    label: EvalLabel
    version: int
    reward: float
    response_length: float
    num_rollouts: int


@dataclass(slots=True)
class Evaluation:
    """One pass over the held-out set at one version."""

    label: EvalLabel
    version: int
    num_prompts: int
    num_started: int = 0
    """Prompts whose group was dispatched: also the index of the next one."""
    _open: set[int] = field(default_factory=set)
    _rewards: list[float] = field(default_factory=list)
    _lengths: list[int] = field(default_factory=list)

    @property
    def num_open(self) -> int:
        """Prompts whose group is dispatched and not scored."""
        return len(self._open)

    @property
    def all_started(self) -> bool:
        """Whether nothing is left to be dispatched."""
        return self.num_started >= self.num_prompts

    def started(self, group_id: int) -> None:
        """The next prompt's group is dispatched."""
        self.num_started += 1
        self._open.add(group_id)

    def ended(self, group_id: int, rewards: tuple[float, ...], lengths: tuple[int, ...]) -> bool:
        """Enter the finished responses of a group; False if it is none of this evaluation's open ones."""
        if group_id not in self._open:
            return False
        self._open.remove(group_id)
        self._rewards += rewards
        self._lengths += lengths
        return True

    @property
    def score(self) -> EvalScore | None:
        """The result; None while a group is missing."""
        if self._open or not self.all_started:
            return None
        count = len(self._rewards)
        return EvalScore(
            label=self.label,
            version=self.version,
            reward=sum(self._rewards) / count if count else float("nan"),
            response_length=sum(self._lengths) / count if count else float("nan"),
            num_rollouts=count,
        )
