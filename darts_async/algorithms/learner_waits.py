"""What the learner waits for or is at, told from what it is doing and how full its step is. Pure.

It does one thing at a time; whoever has to act before that is over is named with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from darts_async.algorithms.wait_graph import Pending, count

__all__ = ["LearnerAt", "Stage", "learner_waits"]

Stage: TypeAlias = Literal[
    "loading", "groups", "selector", "computing", "spool", "telling", "reporting", "score", "stop", "ended"
]


@dataclass(frozen=True, slots=True)
class LearnerAt:
    """Where the learner stands."""

    stage: Stage
    what: str = ""
    """What the trainer computes, or is written: what follows `is`."""
    version: int = 0
    received: int = 0
    """Groups of the open step that are here."""
    size: int = 0
    """Groups of a step."""
    awaits_all: bool = False
    """The step is computed at once when it is full (mode `sync`)."""
    peer: str = ""
    """Who is being told of the version."""
    mark: object = None


def learner_waits(at: LearnerAt) -> list[Pending]:
    """Return the one thing that it waits for or is at."""
    step = at.version + 1
    match at.stage:
        case "groups":
            missing = at.size - at.received
            what = f"waits for {missing} of the {at.size} groups of step {step}"
            if at.awaits_all:
                what += ", which trains once all are here"
            return [Pending("selector-0", what, at.mark)]
        case "selector":
            return [Pending("selector-0", "waits for the selector to take in where it stands", at.mark)]
        case "spool":
            what = f"is writing {count(at.received, 'group')} of step {step} to the spool"
            return [Pending("", what, at.mark)]
        case "telling":
            what = f"waits for room on the link to {at.peer or 'its peers'}, to tell of version {at.version}"
            return [Pending(at.peer, what, at.mark)]
        case "reporting":
            return [
                Pending("selector-0", f"waits for room on the link to the selector, to report step {step}", at.mark)
            ]
        case "score":
            return [Pending("allocator-0", f"waits for the held-out score of version {at.version}", at.mark)]
        case "stop":
            return [Pending("", "waits for the launcher's order to stop: the selector has ended its stream", at.mark)]
        case "ended":
            what = f"has ended training with version {at.version} and waits for the end of the run"
            return [Pending("allocator-0", what, at.mark)]
    return [Pending("", f"is {at.what or 'at work'}", at.mark)]
