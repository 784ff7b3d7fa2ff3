"""What a person sees while a run goes on: a calm live picture on a terminal, plain lines everywhere else.

`snapshot` is one moment of a run, `picture` draws it (both pure); `painter` and `screen` put it on a terminal. `up`
(`live`) and `top` show the same picture.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console

from darts_async.launcher.view.live import LiveView
from darts_async.launcher.view.plain import PlainView, step_line
from darts_async.launcher.view.protocol import View
from darts_async.launcher.view.screen import has_screen

if TYPE_CHECKING:
    from darts_async.launcher.preflight import Plan

__all__ = ["LiveView", "PlainView", "View", "step_line", "watching"]


def watching(plan: Plan, console: Console) -> contextlib.AbstractContextManager[View]:
    """A view of a run that is about to begin or to go on: a picture where the console can show one, else lines."""
    run, history = plan.config.run, plan.history
    if not has_screen(console):
        return contextlib.nullcontext(PlainView(console, run.steps))
    if history is None:
        return LiveView(console, run.name, run.steps, plan.paths)
    lines, earlier_s = history.lines.values(), sum(start.wall_s for start in history.starts)
    return LiveView(console, run.name, run.steps, plan.paths, lines=lines, earlier_s=earlier_s)
