"""What the launcher asks of a job: a JSON file that both ends read with these types."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["DoctorPlan", "EvalPlan"]

Count = Annotated[int, msgspec.Meta(ge=1)]


class DoctorPlan(msgspec.Struct, frozen=True):
    """Examine engine and learner of a config."""

    config: str
    """Path of the resolved config; its `run` names a folder for published weights, which the launcher owns."""
    prompts: Count
    """How many prompts are sampled, once each."""


class EvalPlan(msgspec.Struct, frozen=True):
    """Measure a config's policy on its held-out prompts (`eval.prompts`, `eval.samples`)."""

    config: str
    """Path of the resolved config."""
    greedy: bool
    """Temperature 0, which a config of a training run cannot have."""
