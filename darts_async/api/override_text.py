"""Values of keys as a command line would spell them: what may change when a run goes on is given as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w

__all__ = ["override_texts"]


def override_texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (section.key, text) for each value; tables become their keys, None becomes `none`."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += override_texts({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            pairs.append((key, _text(value)))
    return pairs


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else tomli_w.dumps({"value": value}).partition("=")[2].strip()
