"""Mathematical answers, compared by value: `\\frac{1}{2}` is 0.5. The work is math-verify's.

The library's own time limits use signals, which work in the main thread of a main program only; they are off, and the
deadline of the reward pool, which kills the process, is what ends a comparison that does not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from darts_async.tasks.base import Prompt
from darts_async.tasks.tables import need

__all__ = ["Maths"]

_MAX_CHARS: Final = 16_384
"""Of the end of a response: a boxed or last expression is what counts, and parsing takes time by length."""


class Maths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 if the response's final expression (boxed, or the last one) equals the reference; else 0."""

    precision: int = 6
    """Decimal places that numbers must agree in."""

    def __post_init__(self) -> None:
        need("math_verify", "reward.functions", "maths")

    def prepare(self) -> None:
        """Load the library, which takes half a second."""
        _library()

    def __call__(self, prompt: Prompt, response: str) -> float:
        """Score a response."""
        verify, parse = _library()
        try:
            wanted = _parsed(prompt.answer)
            found = parse(response[-_MAX_CHARS:], parsing_timeout=None, raise_on_error=False)
            right = verify(wanted, found, float_rounding=self.precision, timeout_seconds=None, raise_on_error=False)
        except (Exception, RecursionError):  # noqa: BLE001 - what a policy writes must not fail a candidate
            return 0.0
        return float(bool(right))


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any]:
    import logging  # noqa: PLC0415

    from math_verify import parse, verify  # type: ignore[import-untyped]  # noqa: PLC0415 - late: half a second

    # It warns of every limit that is off, once a process, and tells of each expression that does not parse.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return verify, parse


@lru_cache(maxsize=4096)
def _parsed(answer: str) -> Any:
    """The reference: taken as LaTeX where it does not say so itself."""
    _, parse = _library()
    plain = parse(answer, parsing_timeout=None, raise_on_error=False)
    if "$" in answer or "\\boxed" in answer or "\\(" in answer:
        return plain
    return parse(f"${answer}$", parsing_timeout=None, raise_on_error=False) or plain
