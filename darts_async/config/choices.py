"""Names that settings take, known here without importing what they name: the registries live where torch may be.

A test holds each tuple to its registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = [
    "ADVANTAGES",
    "CORRECTIONS",
    "LOSSES",
    "SINKS",
    "TWO_SIDED_MASKS",
    "WEIGHT_CORRECTIONS",
    "correction_names",
]

LOSSES: Final = ("ppo_clip", "gspo", "cispo")
"""`darts_async.engines.losses.LOSSES`."""

ADVANTAGES: Final = ("grpo", "dr_grpo", "rloo")
"""`darts_async.algorithms.advantages.ADVANTAGES`."""

CORRECTIONS: Final = ("none", "tis", "decoupled_ppo", "icepop", "sequence_mask", "geometric_mask", "outlier_veto")
"""`darts_async.engines.corrections.CORRECTIONS`."""

SINKS: Final = ("tensorboard", "wandb")
"""`darts_async.sinks.registry.SINKS`."""

REWARDS: Final = (
    "contains",
    "exact_match",
    "format",
    "length",
    "maths",
    "number",
    "repetition",
    "think_format",
)
"""`darts_async.tasks.rewards.BUILT_IN`."""

WEIGHT_CORRECTIONS: Final = frozenset({"tis", "decoupled_ppo", "icepop"})
"""Those that weigh tokens by pi_prox / mu, so that the old policy of the loss's ratio is the proximal one."""

TWO_SIDED_MASKS: Final = frozenset({"icepop", "sequence_mask", "geometric_mask"})
"""Those that leave tokens out whose ratio is too small as well as too large."""


def correction_names(correction: str | Sequence[str]) -> tuple[str, ...]:
    """Return `learner.correction`, one name or a list of them, as names."""
    return (correction,) if isinstance(correction, str) else tuple(correction)
