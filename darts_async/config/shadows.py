"""Pairs of loss and correction that a run evaluates beside the one it uses: their names, and what a list must be.

Invariant: a name belongs to one pair of a run, so that metrics of two pairs never mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from darts_async.config.choices import correction_names
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import Config

__all__ = ["MAX_SHADOWS", "check_shadows", "pair_name"]

MAX_SHADOWS: Final = 32
"""Each is a copy of the gradient in float32 on the steps that compare, and nine metrics."""


def pair_name(loss: str, correction: str | Sequence[str]) -> str:
    """Return the pair as it stands in metric names: `ppo_clip+geometric_mask+tis`.

    Corrections in alphabetical order, since their order does not matter; of a custom loss the function's name.
    """
    return "+".join((loss.rpartition(":")[2], *sorted(correction_names(correction))))


def check_shadows(config: Config) -> None:
    """Raise `ConfigError` for too many pairs, or two with one name."""
    found = config.learner.shadow
    if len(found) > MAX_SHADOWS:
        raise ConfigError(
            "learner.shadow",
            len(found),
            f"holds at most {MAX_SHADOWS} pairs: each is a copy of the gradient on the steps that compare",
            "Leave some out, or spread them over two runs.",
        )
    names = [pair_name(shadow.loss, shadow.correction) for shadow in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(
                f"learner.shadow.{index}",
                name,
                f"is there twice (entry {names.index(name)} has the same name in the metrics)",
                "Remove one, or give your own losses functions of different names.",
            )
