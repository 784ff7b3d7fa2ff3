"""Who waits for whom: the roles' own accounts merged into a graph, and read out in sentences down to the root.

Each role names what it waits for and who has to act (`Wait.whom`; empty: it is at work itself). The root is where the
chain that begins at the learner ends: a role that is at work, one that is silent, or a circle in which everybody
waits for another. Pure; nothing is inferred that no role has said, so the account is as true as theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from darts_async.messages import Wait

__all__ = ["Explanation", "Pending", "count", "explain"]


@dataclass(frozen=True, slots=True)
class Pending:
    """One thing that a role waits for or works on, before its age is known."""

    whom: str
    what: str
    mark: object = None
    """Anything that compares unequal once something about it has changed: then its age begins anew."""
    key: str = ""
    """What it is the same thing by as long as `whom` is the same; empty: its text."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The graph in words."""

    sentences: tuple[str, ...]
    """One for each thing that a role waits for or works on, from the learner down the chain; then the others."""
    root: tuple[str, ...]
    """Who has to act first; several in a circle; empty when nobody waits."""
    is_circle: bool
    verdict: str
    """What the root comes to, in a sentence."""


def explain(waits: Mapping[str, Sequence[Wait]], start: str = "learner-0") -> Explanation:
    """Merge what every role says (by its name; a role without waits is idle) and find the root.

    The chain is followed from `start`, or where that is idle from whoever has waited longest. A role that is at work
    ends it, whatever else it waits for.
    """
    roles = {role: tuple(found) for role, found in waits.items() if found}
    if not roles:
        return Explanation((), (), False, "nobody waits")
    if start not in roles:
        start = max(roles, key=lambda role: (max(wait.age_s for wait in roles[role]), role))
    order = _chain(roles, start)
    rest = sorted(roles.keys() - set(order))
    sentences = [f"{role} {_said(wait)}" for role in (*order, *rest) for wait in roles[role]]
    root, is_circle = _root(roles, order)
    return Explanation(tuple(sentences), root, is_circle, _verdict(roles, root, is_circle))


def _is_at_work(waits: Sequence[Wait]) -> bool:
    return any(not wait.whom for wait in waits)


def _next(roles: Mapping[str, Sequence[Wait]], role: str) -> list[str]:
    """Whom a role waits for, the longest wait first; nobody if it is at work."""
    waits = roles.get(role, ())
    if _is_at_work(waits):
        return []
    return list(dict.fromkeys(wait.whom for wait in sorted(waits, key=lambda wait: -wait.age_s)))


def _chain(roles: Mapping[str, Sequence[Wait]], start: str) -> list[str]:
    """Every role that says something, as it is met on the way from `start`."""
    met = {start: None}
    queue = [start]
    while queue:
        for whom in _next(roles, queue.pop(0)):
            if whom not in met:
                met[whom] = None
                queue.append(whom)
    return [role for role in met if role in roles]


def _root(roles: Mapping[str, Sequence[Wait]], order: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Where the chain ends (at a role at work, or at one that says nothing), else the circle that it runs into."""
    met = dict.fromkeys(whom for role in order for whom in (role, *_next(roles, role)))
    ends = tuple(role for role in met if not _next(roles, role))
    if ends:
        return ends, False
    # Everybody waits for somebody. The circle that no way leads out of: those from which the fewest can be reached.
    reach = {role: _reachable(roles, role) for role in met}
    smallest = min((role for role in met if role in reach[role]), key=lambda role: len(reach[role]))
    return tuple(role for role in met if role in reach[smallest]), True


def _reachable(roles: Mapping[str, Sequence[Wait]], role: str) -> set[str]:
    found: set[str] = set()
    queue = [role]
    while queue:
        for whom in _next(roles, queue.pop()):
            if whom not in found:
                found.add(whom)
                queue.append(whom)
    return found


def _verdict(roles: Mapping[str, Sequence[Wait]], root: tuple[str, ...], is_circle: bool) -> str:
    if is_circle:
        return f"{', '.join(root)} wait for each other in a circle: none of them can go on by itself"
    parts = []
    for role in root:
        work = [wait for wait in roles.get(role, ()) if not wait.whom]
        said = " and ".join(_said(wait) for wait in work) or "says nothing of what it does"
        parts.append(f"{role}, which {said}")
    return "it comes down to " + "; to ".join(parts)


def _said(wait: Wait) -> str:
    return f"{wait.what} (for {_age(wait.age_s)})" if wait.age_s >= 1 else wait.what


def count(number: int, noun: str) -> str:
    """Return `1 group`, `2 groups`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _age(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
