"""Which candidates of a group are trained on: the registry of rules, and the one function that applies them.

A rule is data: how many come from the short end, when that set is certain, in which order the long end is filled.
`pick` is the same for every rule, and serves both the first decision and the repair after a loss (a reward that
failed, a survivor that ran into its cap), so that the two can never disagree. `hopeless` names the candidates that
`pick` can never choose any more; it, too, is the same for every rule.

By length, never by arrival: `Contender.arrival` exists for `first_finished` alone.
Must never know about sockets, rewards' values or the ledger.

Source: DESIGN 2.1. `survivor` is ours: a draw from the upper tail in place of its maximum (arXiv 2605.30859 keeps the
longest, and so has to wait for it). The paper's code ranks by completion order and lets capped responses fill the
long end; `dual_end` here goes by length and takes a capped one only when too few valid ones are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, Protocol

from darts_async.algorithms.first_set import FirstSet
from darts_async.algorithms.short_set import UNBOUNDED, Key, ShortSet

__all__ = ["RULES", "Certificate", "Contender", "Picks", "Rule", "hopeless", "pick", "survivor_draw"]


def survivor_draw(run_seed: int, candidate_id: int) -> int:
    """Return the 64-bit draw of a candidate, the same in every process, run and version of Python.

    BLAKE2b with an 8-byte digest over the two numbers as little-endian unsigned 64-bit integers, read little-endian.
    """
    return int.from_bytes(blake2b(struct.pack("<QQ", run_seed, candidate_id), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate that is neither failed nor cancelled."""

    index: int
    key: Key | None
    """None while it runs."""
    arrival: int
    """Its place in the order of finishing (0 while it runs)."""
    draw: int
    """`survivor_draw` of its candidate id."""

    @property
    def capped(self) -> bool:
        """Whether it ended at the cap."""
        return self.key is not None and self.key[0]


class Certificate(Protocol):
    """When a rule's short end is certain. `ShortSet` is the one by length, `FirstSet` the one by arrival."""

    @property
    def settled(self) -> bool:
        """Whether the short end is certain."""

    @property
    def cleared(self) -> list[int]:
        """Running candidates that are certainly outside the short end."""

    def exceeds(self, index: int) -> int:
        """The length that decided against a cleared candidate: what it is taken to exceed when it is cancelled."""

    def min_outside(self, members: AbstractSet[int]) -> int:
        """At least how many of these candidates end outside the short end, however the running ones end."""

    def add(self, index: int) -> None:
        """A candidate that has not started."""

    def progress(self, index: int, tokens: int) -> bool:
        """A candidate has at least `tokens` tokens. Returns whether something may have become certain."""

    def finish(self, key: Key) -> None:
        """A candidate finished."""

    def remove(self, index: int, key: Key | None = None) -> None:
        """A candidate failed or was cancelled: a running one, or a finished one under its `key`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a group of `group_size` candidates to keep (n), `keep_longest` of them long (L), is put together."""

    name: str
    sizes: Callable[[int, int], tuple[int, int]]
    """(n, L) to the sizes of the short and the long end."""
    certificate: Callable[[int], Certificate]
    """Size of the short end to its certificate. At the event that settles it, the rule decides; what it clears may be
    cancelled before that."""
    short_order: Callable[[Contender], Any]
    """Sort key of finished candidates for the short end."""
    long_order: Callable[[Contender], Any]
    """Sort key of valid candidates for the long end; they may still run when the certificate settles."""


@dataclass(frozen=True, slots=True)
class Picks:
    """The candidates that a rule wants, by index; those of the long end may still run."""

    short: tuple[int, ...] = ()
    long: tuple[int, ...] = ()

    def __contains__(self, index: object) -> bool:
        return index in self.short or index in self.long

    @property
    def indices(self) -> tuple[int, ...]:
        """All of them, in order of index."""
        return tuple(sorted(self.short + self.long))


def pick(
    rule: Rule, group_size: int, keep_longest: int, contenders: Iterable[Contender], before: Picks = Picks()
) -> Picks:
    """Choose once the certificate is settled (`before` empty), or repair an earlier choice after a loss.

    Earlier picks that are still contenders stay, except a capped one of the long end: a capped response is only
    kept when too few valid ones are there. The short end is filled up with finished candidates in the rule's order.
    The long end takes valid contenders in the rule's order (at first those that still run, too; by the time of a
    repair the others are cancelled), then capped ones, by the same order.
    """
    short_size, long_size = rule.sizes(group_size, keep_longest)
    by_index = {c.index: c for c in contenders}
    short = [i for i in before.short if i in by_index]
    long = [i for i in before.long if i in by_index and not by_index[i].capped]
    taken = {*short, *long}

    finished = sorted((c for c in by_index.values() if c.key is not None), key=rule.short_order)
    for contender in finished:
        if len(short) >= short_size:
            break
        if contender.index not in taken:
            short.append(contender.index)
            taken.add(contender.index)

    rest = sorted((c for c in by_index.values() if c.index not in taken), key=lambda c: (c.capped, rule.long_order(c)))
    long += [c.index for c in rest[: max(0, long_size - len(long))]]
    return Picks(tuple(short), tuple(long))


def hopeless(
    rule: Rule, group_size: int, keep_longest: int, contenders: Iterable[Contender], certificate: Certificate
) -> list[int]:
    """Running candidates that `pick` will not choose, however the others end; in order of index.

    Cleared from the short end, and at least as many as the long end takes, of those with smaller draws, end outside the
    short end too. Who is among them need not be known: where one of two has to stay outside, that is one.
    Not counted as possible: that a running candidate ahead of it fails or runs into the cap. Where that happens after
    the cancel, `pick` takes the next one that is there (DESIGN 2.1: the one exemption).
    """
    cleared = set(certificate.cleared)
    if not cleared:
        return []
    long_size = rule.sizes(group_size, keep_longest)[1]
    if long_size == 0:
        return sorted(cleared)
    order = [c.index for c in sorted((c for c in contenders if not c.capped), key=rule.long_order)]
    found: list[int] = []
    # Whoever is behind a hopeless one is behind all that made it hopeless: from the back, up to the first that is not.
    for place in range(len(order) - 1, long_size - 1, -1):
        if order[place] not in cleared:
            continue
        if certificate.min_outside(set(order[:place])) < long_size:
            break
        found.append(order[place])
    return sorted(found)


def _by_key(contender: Contender) -> Key:
    if contender.key is None:
        raise ValueError(f"candidate {contender.index} has not finished")
    return contender.key


def _by_draw(contender: Contender) -> tuple[int, int]:
    return contender.draw, contender.index


def _by_arrival(contender: Contender) -> tuple[int, int]:
    return contender.arrival, contender.index


def _longest_first(contender: Contender) -> tuple[int, int]:
    _, length, index = _by_key(contender)
    return -length, -index


def _two_ends(group_size: int, keep_longest: int) -> tuple[int, int]:
    if not 0 <= keep_longest < group_size:
        raise ValueError(f"keep_longest must lie in 0..{group_size - 1}, got {keep_longest}")
    return group_size - keep_longest, keep_longest


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            Rule(
                name="all",
                sizes=lambda _n, _longest: (UNBOUNDED, 0),
                certificate=ShortSet,
                short_order=_by_key,
                long_order=_by_draw,
            ),
            Rule(
                name="first_finished",
                sizes=lambda n, _longest: (n, 0),
                certificate=FirstSet,
                short_order=_by_arrival,
                long_order=_by_draw,
            ),
            Rule(
                name="shortest",
                sizes=lambda n, _longest: (n, 0),
                certificate=ShortSet,
                short_order=_by_key,
                long_order=_by_draw,
            ),
            Rule(
                name="dual_end",
                sizes=_two_ends,
                # The longest is only known once everybody has ended, so this waits even where L is 0.
                certificate=lambda _size: ShortSet(UNBOUNDED),
                short_order=_by_key,
                long_order=_longest_first,
            ),
            Rule(
                name="survivor",
                sizes=_two_ends,
                certificate=ShortSet,
                short_order=_by_key,
                long_order=_by_draw,
            ),
        )
    }
)
"""Every selection rule by name. A new rule is one more entry, never a branch elsewhere."""
