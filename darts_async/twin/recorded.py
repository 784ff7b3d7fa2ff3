"""Lengths and rewards of a real run, replayed: the distribution as it was, with its drift over training. Pure.

A recorded run has groups of responses, each dispatched at a version. A simulated prompt is a quantile: at a version it
answers like the recorded group at that quantile of mean length, among the groups dispatched around that version. So
prompts keep their place (long ones stay long), groups keep their inner spread, and lengths and rewards change with
training as they did. The assumption in it: a step of another setting changes the policy as much as a recorded step.

A response that was cancelled is known to be longer than it got; in its place stands a recorded response of the same
versions that is longer than that, if there is any.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from darts_async.algorithms.seeding import stable_hash
from darts_async.twin.policy import Drawn

__all__ = ["RecordedGroup", "RecordedResponse", "RecordedWorkload"]

_WINDOW: Final = 24
"""Groups around a version that a prompt may be one of."""
_SPACE: Final = float(1 << 63)


class RecordedResponse(msgspec.Struct, frozen=True, array_like=True):
    """A response of a recorded run."""

    tokens: int
    reward: float
    """Of a cancelled one, 0."""
    cancelled: bool = False
    """Its length is a lower bound."""


class RecordedGroup(msgspec.Struct, frozen=True, array_like=True):
    """The responses to one prompt, at one time."""

    version: int
    """At dispatch."""
    responses: tuple[RecordedResponse, ...]


@dataclass(frozen=True, slots=True)
class _Window:
    """Groups around a version, by mean length."""

    groups: list[list[RecordedResponse]]
    pool: list[RecordedResponse]
    """All responses that ended by themselves, by length."""
    lengths: list[int]


class RecordedWorkload:
    """Implements `policy.Policy`."""

    def __init__(self, groups: Iterable[RecordedGroup], seed: int) -> None:
        """Raises `ValueError` when there is no response that ended by itself."""
        self._groups = sorted((g for g in groups if g.responses), key=lambda group: group.version)
        self._versions = [group.version for group in self._groups]
        self._seed = seed
        self._windows: dict[int, _Window] = {}
        if not any(not r.cancelled for g in self._groups for r in g.responses):
            raise ValueError("nothing was recorded that ended by itself")

    def draw(self, prompt: int, seed: int, version: int) -> Drawn:
        """Return the response that a version of the policy gives to a prompt with a seed."""
        window = self._window(version)
        place = stable_hash("place", self._seed, prompt) / _SPACE
        group = window.groups[min(int(place * len(window.groups)), len(window.groups) - 1)]
        chosen = group[stable_hash("response", self._seed, prompt, seed) % len(group)]
        if chosen.cancelled:
            longer = bisect.bisect_right(window.lengths, chosen.tokens)
            if longer < len(window.pool):
                span = len(window.pool) - longer
                chosen = window.pool[longer + stable_hash("longer", self._seed, prompt, seed) % span]
        return Drawn(max(1, chosen.tokens), chosen.reward > 0.5)

    def trained(self, version: int, responses: Iterable[tuple[int, Sequence[int]]]) -> None:
        """What training changes was recorded too."""

    def _window(self, version: int) -> _Window:
        version = min(version, self._versions[-1])
        if (window := self._windows.get(version)) is None:
            window = self._windows[version] = self._make_window(version)
        return window

    def _make_window(self, version: int) -> _Window:
        middle = (bisect.bisect_left(self._versions, version) + bisect.bisect_right(self._versions, version)) // 2
        begin = max(0, min(middle - _WINDOW // 2, len(self._groups) - _WINDOW))
        chosen = self._groups[begin : begin + _WINDOW]
        pool = sorted((r for g in chosen for r in g.responses if not r.cancelled), key=lambda r: r.tokens)
        if not pool:
            pool = sorted((r for g in self._groups for r in g.responses if not r.cancelled), key=lambda r: r.tokens)
        groups = sorted((list(group.responses) for group in chosen), key=_mean_length)
        return _Window(groups, pool, [response.tokens for response in pool])


def _mean_length(responses: Sequence[RecordedResponse]) -> float:
    return sum(response.tokens for response in responses) / len(responses)
