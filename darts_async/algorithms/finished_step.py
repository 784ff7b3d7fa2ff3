"""What is remembered of a finished step, also by a learner that is started anew: enough for the summary and the limits,
and to tell a selector what was trained. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from darts_async.messages import GroupIds, Message, NonNegative, ShortText

__all__ = ["FinishedStep"]


class FinishedStep(Message, frozen=True, kw_only=True):
    """One step. Sums are over its groups unless the name says otherwise."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    """That it made."""
    group_ids: GroupIds
    num_responses: NonNegative
    tokens: NonNegative
    reward: float
    staleness_tokens: NonNegative
    """Over tokens."""
    staleness_max: NonNegative
    wait_s: float
    elapsed_s: float
    """From the beginning of training to the step's end. The time between the loss of a learner and the next one's first
    step is not counted, what was done twice is not either."""
    publish_ms: float
    skipped: bool
    num_swept: NonNegative
    """Groups swept since the run began."""
    ended_by: Literal["", "steps", "wall_s", "trained_tokens"]
    """What ended training with this step."""
    values: Annotated[dict[ShortText, float], msgspec.Meta(max_length=4096)]
    """The learner's metrics of the step."""
