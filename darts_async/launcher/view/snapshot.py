"""All that a picture of a run shows: one moment, from a live run's answer or from what a run has left. Pure.

Whoever draws (`up`, `top`) draws this and knows of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from darts_async.launcher.view.history import History, TrendLine
from darts_async.messages import KnobChange
from darts_async.runtime.outside_link import EvalLine, QueueLine, RoleLine, StatusAnswer

__all__ = ["Snapshot", "State", "of_answer"]

State: TypeAlias = Literal["starting", "running", "ending", "done", "failed", "interrupted", "killed", "not begun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a run."""

    run: str
    state: State
    about: str = ""
    step: int = 0
    """Steps that are done."""
    steps: int = 0
    wall_s: float = 0.0
    """Over all starts."""
    left_s: float | None = None
    roles: tuple[RoleLine, ...] = ()
    """Nobody, when the run is over."""
    queues: tuple[QueueLine, ...] = ()
    trends: Mapping[str, TrendLine] = field(default_factory=dict)
    """By name in `TRENDS`."""
    step_s: float | None = None
    """How long the last step took."""
    learner_tokens_per_s: float | None = None
    """That were trained in it."""
    evals: tuple[EvalLine, ...] = ()
    """In order."""
    tokens: Mapping[str, float] = field(default_factory=dict)
    """By ledger state."""
    tokens_saved: float | None = None
    """What cancelled candidates would still have cost; an estimate."""
    changed: Mapping[str, KnobChange] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    """What is wrong at this moment."""
    warnings: tuple[str, ...] = ()
    """The last ones, the latest last."""
    hint: str = ""
    """What whoever watches can do."""


_STILL_S: Final = 10.0
"""Heartbeats bring progress once a second, a long step brings none for a while: below this it means nothing."""


def of_answer(
    answer: StatusAnswer,
    history: History,
    *,
    warnings: tuple[str, ...] | None = None,
    hint: str = "",
) -> Snapshot:
    """Of a run that goes on. `warnings`: in the place of the answer's."""
    still = f"nothing has progressed for {answer.still_s:.0f} s: {answer.verdict}"
    return Snapshot(
        run=answer.run,
        state=answer.state,
        about=answer.about,
        step=answer.step,
        steps=answer.steps,
        wall_s=answer.earlier_s + answer.wall_s,
        left_s=history.left_s(answer.steps, answer.max_wall_s, answer.max_trained_tokens)
        if answer.state == "running"
        else None,
        roles=answer.roles,
        queues=answer.queues,
        trends=history.trends(),
        step_s=history.step_s,
        learner_tokens_per_s=history.learner_tokens_per_s,
        tokens_saved=history.tokens_saved,
        evals=answer.evals or tuple(history.evals),
        tokens=answer.tokens or history.tokens,
        changed=answer.changed,
        alarms=(still,) if answer.still_s >= _STILL_S else (),
        warnings=answer.warnings if warnings is None else warnings,
        hint=hint,
    )
