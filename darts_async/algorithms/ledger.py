"""The books of a run: what became of every dispatched candidate, and of every token it cost.

Invariant: every candidate entered here ends exactly once in one of `LEDGER_STATES`, and

    rollouts generated = sum over states + in flight,      tokens generated = sum over states + reported and pending.

A candidate ends when two facts are known, in either order: its verdict (fixed at the decision, never changed) and its
token count (the generator's final report, or the last progress, flagged `estimated`, when there will be none). `kept`
is no end: such a candidate is pending until the learner trained it or refused it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from darts_async.messages import LEDGER_STATES, LedgerState

__all__ = ["Ended", "Entry", "Ledger"]


@dataclass(slots=True)
class Entry:
    """An open candidate."""

    verdict: LedgerState | None = None
    tokens: int | None = None
    estimated: bool = False
    """The tokens are the last progress: no report will come."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one candidate."""

    candidate_id: int
    state: LedgerState
    tokens: int
    estimated: bool
    """The token count is the last progress: no final report came."""


class Ledger:
    """Books of one run. Repeats are ignored; a contradiction raises `ValueError`."""

    def __init__(self) -> None:
        self.rollouts: dict[LedgerState, int] = dict.fromkeys(LEDGER_STATES, 0)
        self.tokens: dict[LedgerState, int] = dict.fromkeys(LEDGER_STATES, 0)
        self.generated = 0
        """Candidates ever entered."""
        self.tokens_generated = 0
        """Tokens of all final reports (and of estimates in their place)."""
        self._open: dict[int, Entry] = {}
        self._estimated = 0

    @property
    def in_flight(self) -> int:
        """Candidates that have not ended."""
        return len(self._open)

    @property
    def num_estimated(self) -> int:
        """Candidates whose token count is an estimate."""
        return self._estimated

    def is_open(self, candidate: int) -> bool:
        """Whether the candidate is in the books and has not ended."""
        return candidate in self._open

    def is_undecided(self, candidate: int) -> bool:
        """Whether the candidate is open and has no verdict."""
        entry = self._open.get(candidate)
        return entry is not None and entry.verdict is None

    def dispatched(self, candidates: Iterable[int]) -> None:
        """Enter new candidates. Raises `ValueError` when one is open already."""
        for candidate in candidates:
            if candidate in self._open:
                raise ValueError(f"candidate {candidate} was dispatched twice")
            self._open[candidate] = Entry()
            self.generated += 1

    def reported(self, candidate: int, tokens: int, *, estimated: bool = False) -> tuple[bool, Ended | None]:
        """The generator's final token count, or (`estimated`) the last progress of a candidate that was lost with its
        generator. Returns whether it was news, and the candidate's end if this is it."""
        entry = self._open.get(candidate)
        if entry is None or entry.tokens is not None:
            return False, None
        entry.tokens, entry.estimated = tokens, estimated
        self.tokens_generated += tokens
        return True, self._end(candidate, entry)

    def decided(self, candidate: int, state: LedgerState) -> Ended | None:
        """Fix the verdict. Returns the candidate's end if its tokens are known. A repeat does nothing."""
        entry = self._open.get(candidate)
        if entry is None or entry.verdict == state:
            return None
        if entry.verdict is not None:
            raise ValueError(f"candidate {candidate} was {entry.verdict} and cannot become {state}")
        entry.verdict = state
        return self._end(candidate, entry)

    def close(self, last_progress: Callable[[int], int]) -> list[Ended]:
        """End everything that is open: `cancelled_shutdown` where nothing was decided, the last progress where no
        final report came."""
        ends = []
        for candidate, entry in list(self._open.items()):
            if entry.tokens is None:
                entry.tokens, entry.estimated = last_progress(candidate), True
                self.tokens_generated += entry.tokens
            entry.verdict = entry.verdict or "cancelled_shutdown"
            end = self._end(candidate, entry)
            if end is not None:
                ends.append(end)
        return ends

    def check(self) -> None:
        """Raise `ValueError` unless candidates and tokens balance."""
        ended = sum(self.rollouts.values())
        if ended + self.in_flight != self.generated:
            raise ValueError(f"{self.generated} candidates, but {ended} ended and {self.in_flight} in flight")
        pending = sum(entry.tokens or 0 for entry in self._open.values())
        counted = sum(self.tokens.values())
        if counted + pending != self.tokens_generated:
            raise ValueError(f"{self.tokens_generated} tokens, but {counted} ended and {pending} pending")

    def _end(self, candidate: int, entry: Entry) -> Ended | None:
        if entry.verdict is None or entry.tokens is None:
            return None
        del self._open[candidate]
        self.rollouts[entry.verdict] += 1
        self.tokens[entry.verdict] += entry.tokens
        self._estimated += entry.estimated
        return Ended(candidate, entry.verdict, entry.tokens, entry.estimated)
