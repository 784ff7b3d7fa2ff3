"""A metric's name, unit and labels as Prometheus has them: `cancel/latency_p99_ms` becomes
`darts_async_cancel_latency_p99_seconds`, a thousandth of the value.

Conventions: one prefix, base units (seconds, bytes) in the name, `_total` behind counters and nothing else, words that
vary as labels. Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from darts_async.sinks.catalogue import Kind, meaning_of

__all__ = ["PREFIX", "Family", "family_of"]

PREFIX: Final = "darts_async_"
_UNITS: Final = (("_per_s", "_per_second", 1.0), ("_ms", "_seconds", 1e-3), ("_s", "_seconds", 1.0))
_MORE_UNITS: Final = (("_mib", "_bytes", float(2**20)),)
_NO_NAME: Final = re.compile(r"[^a-z0-9_]+")
_PLACE: Final = re.compile(r"<\w+>")


class Family(NamedTuple):
    """Where a metric belongs, and what it is there."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...]
    """Beside those of the run and the role."""
    factor: float
    """To the base unit."""


@lru_cache(maxsize=4096)
def family_of(metric: str) -> Family:
    """Return the family of a metric of the run, by its name in `metrics.jsonl` or in a heartbeat."""
    meaning, labels = meaning_of(metric)
    if meaning is None:
        return _family(metric, "gauge", f"{metric} of metrics.jsonl.", ())
    figures = [word for label, word in labels if label == "figure"]  # what is measured is no label
    labels = tuple((label, word) for label, word in labels if label != "figure")
    parts = [meaning.name] if meaning.name else [_PLACE.sub("", meaning.pattern)]
    text = f"{meaning.help[:-1]}: {figures[0]}." if figures else meaning.help
    return _family("/".join([*parts, *figures]), meaning.kind, text, labels)


def _family(name: str, kind: Kind, text: str, labels: tuple[tuple[str, str], ...]) -> Family:
    plain = _NO_NAME.sub("_", name.lower()).strip("_")
    plain = re.sub("_{2,}", "_", plain)
    factor = 1.0
    for end, unit, times in (*_UNITS, *_MORE_UNITS):
        if plain.endswith(end):
            plain, factor = plain.removesuffix(end) + unit, times
            break
    return Family(PREFIX + plain + ("_total" if kind == "counter" else ""), kind, text, labels, factor)
