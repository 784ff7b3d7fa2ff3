"""Between every role and the launcher: readiness, heartbeats, metrics, losses, live settings, the end."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from darts_async.messages.base import (
    LongText,
    Message,
    NonNegative,
    Role,
    ShortText,
)


class Ready(Message, frozen=True, kw_only=True):
    """A role has loaded what it needs and can work."""

    role: Role
    rank: NonNegative
    pid: NonNegative
    schema_version: NonNegative


class RoleLost(Message, frozen=True, kw_only=True):
    """The supervisor: this start of a role is over; a new one with the next incarnation will follow. Sent to all the
    others before the new process is started. (Its links are bound anew under the same endpoints.)"""

    role: Role
    rank: NonNegative
    incarnation: NonNegative
    """Of the start that is over; 0 is the first."""


class Begin(Message, frozen=True, kw_only=True):
    """All roles are ready."""


class Wait(msgspec.Struct, frozen=True, array_like=True):
    """Something that a role waits for, or is busy with, as it says itself."""

    whom: ShortText
    """Name of the role that has to act, such as `generator-0`; empty: the role itself, which is at work on it."""
    what: ShortText
    """What follows the role's name in a sentence: `waits for 3 more groups of step 12`."""
    age_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Since when nothing about it has changed."""


class Heartbeat(Message, frozen=True, kw_only=True):
    """Periodic sign of life with what progressed, not just that the process exists."""

    role: Role
    rank: NonNegative
    state: ShortText
    """One or two words for the live view, such as `decoding` or `waiting for groups`."""
    gauges: dict[str, float]
    """Metric name to value, names as in the design (`generator/tokens_per_s`, `queue/<name>/depth`)."""
    progress: NonNegative = 0
    """Counts what a person would call progress (tokens, ends, scores, groups, steps), over this start of the role."""
    waits: Annotated[tuple[Wait, ...], msgspec.Meta(max_length=32)] = ()
    """The longest first."""


class StepMetrics(Message, frozen=True, kw_only=True):
    """The learner's record of one step: what becomes a line of `metrics.jsonl`."""

    step: NonNegative
    values: dict[str, float]


class EvalResult(Message, frozen=True, kw_only=True):
    """Scores of the held-out set at one policy version."""

    label: Literal["before", "during", "after"]
    policy_version: NonNegative
    reward: float
    response_length: float
    num_rollouts: NonNegative


class Finished(Message, frozen=True, kw_only=True):
    """A role is done and about to exit with status 0; its part of the summary."""

    role: Role
    rank: NonNegative
    summary: dict[str, float]


class RunComplete(Message, frozen=True, kw_only=True):
    """The allocator: all steps are trained, all evaluations are in; the run can be wound down."""


class Warn(Message, frozen=True, kw_only=True):
    """Something a person should see although the run goes on."""

    role: Role
    rank: NonNegative
    text: LongText


class Fault(Message, frozen=True, kw_only=True):
    """A role cannot go on."""

    role: Role
    rank: NonNegative
    error: LongText
    curable: bool = False
    """Starting the role anew can help: its engine died or a link of its broke, and nothing it was told is wrong."""


KnobValue: TypeAlias = bool | int | float | ShortText | None


class KnobChange(msgspec.Struct, frozen=True, array_like=True):
    """The value of a key of the config, before and after."""

    old: KnobValue
    new: KnobValue


KnobChanges = Annotated[dict[ShortText, KnobChange], msgspec.Meta(max_length=32)]


class SetKnobs(Message, frozen=True, kw_only=True):
    """The supervisor: these settings are others from now on. Checked already; each role heeds what it knows of, as
    often as it is told, and answers `KnobsTaken`."""

    number: NonNegative
    changes: KnobChanges
    at_s: Annotated[float, msgspec.Meta(ge=0)]
    """Seconds since the run's start."""
    again: bool = False
    """Told before, to an earlier start of the role or another one: not to be written down a second time."""


class KnobsTaken(Message, frozen=True, kw_only=True):
    """A role's answer to `SetKnobs`."""

    role: Role
    rank: NonNegative
    number: NonNegative
    refused: LongText = ""
    """Why it could not; empty: it did."""


class ShowStacks(Message, frozen=True, kw_only=True):
    """The supervisor: write to your log where every task stands."""

    reason: LongText


class Stop(Message, frozen=True, kw_only=True):
    """The supervisor asks a role to drain and exit."""

    reason: Literal["done", "interrupted", "fault"]
