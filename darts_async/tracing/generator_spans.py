"""What a generator's engine is at, as far as its front end sees it: requests that have no token yet, responses that
decode, swaps of the weights, aborts.

`prefill` counts from the request to the first output, a wait for a place in the engine included.
"""

from __future__ import annotations

from typing import Final

from darts_async.tracing.level import Level
from darts_async.tracing.role_trace import current

__all__ = ["GeneratorSpans"]

_BUSY: Final = "decoding"
_IDLE: Final = "waiting for requests"
"""States of a generator, which looks at itself once a second only."""


class GeneratorSpans:
    """Of one replica; made in its context."""

    def __init__(self) -> None:
        self._trace = current()
        self._num = 0
        self._prefill = Level(self._trace, "prefill", "prefilling requests")
        self._decode = Level(self._trace, "decode", "running requests")
        self._swaps, self._aborts, self._cancels = map(self._trace.lane, ("swap", "abort", "cancel"))
        self.gauges = self._trace.gauges
        """Look at the role's gauges."""

    def requested(self) -> None:
        """The engine has one more request."""
        self._num += 1
        if self._num == 1:
            self._trace.turns(_IDLE, _BUSY)
        self._prefill.change(+1)

    def first_output(self, group: int, *, is_first: bool) -> None:
        """A response begins to decode. is_first: the group's arrow goes here."""
        self._prefill.change(-1)
        self._decode.change(+1)
        if is_first:
            self._decode.flow(group)

    def left(self, *, decoded: bool) -> None:
        """A request is over."""
        (self._decode if decoded else self._prefill).change(-1)
        self._num -= 1
        if not self._num:
            self._trace.turns(_BUSY, _IDLE)

    def aborted(self, num: int, began_s: float) -> None:
        """The engine was told to end so many."""
        self._aborts.span("cancel", "abort", began_s, candidates=num)

    def cancelled(self, group: int, candidate: int, tokens: int, latency_s: float | None) -> None:
        """A candidate has ended for it. latency_s: from the decision to the engine's word; None: it was not in it."""
        latency = {} if latency_s is None else {"latency_ms": round(1e3 * latency_s, 3)}
        self._cancels.instant("cancel", "cancelled", group=group, candidate=candidate, tokens=tokens, **latency)

    def swapped(self, version: int, began_s: float) -> None:
        """The engine serves this version."""
        self._swaps.span("swap", f"swap to version {version}", began_s, version=version)
