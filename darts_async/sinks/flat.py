"""A document's values by dotted name: `learner.lr`, `eval.after.reward`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flat"]


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves; lists and empty mappings are leaves."""
    leaves: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
