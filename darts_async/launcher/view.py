"""What a person sees while a run goes on: a calm live picture on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from darts_async.launcher.roles import RoleProcess
from darts_async.messages import EvalResult

_SPARKS = "▁▂▃▄▅▆▇█"
_HISTORY = 60


class View(Protocol):
    """What the launcher tells whoever watches."""

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        """The processes were started."""

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        """Who takes part now: a generator from elsewhere has come or gone."""

    def ready(self, role: RoleProcess) -> None:
        """One role can work."""

    def begun(self) -> None:
        """All roles can work."""

    def refresh(self) -> None:
        """Some role's state or gauges changed."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A learner step is complete, with everything that is known of it."""

    def evaluated(self, result: EvalResult) -> None:
        """The held-out set was scored."""

    def note(self, text: str) -> None:
        """Something a person should read."""


def step_line(step: int, steps: int, values: Mapping[str, float]) -> str:
    """One line about a step; what is not known is left out."""
    parts = [f"step {step + 1:>{len(str(steps))}}/{steps}"]
    for name, template in (
        ("reward/mean", "reward {:.2f}"),
        ("response_length/generated", "length {:.0f}"),
        ("response_length/kept", "kept {:.0f}"),
        ("cancel/rollouts_in_step", "cancelled {:.0f}"),
        ("staleness/mean", "staleness {:.2f}"),
        ("mismatch_kl", "mismatch {:.1e}"),
        ("eval/reward", "held-out {:.2f}"),
        ("learner/step_s", "{:.1f} s"),
    ):
        if name in values:
            parts.append(template.format(values[name]))
    return "  ".join(parts)


class PlainView:
    """Lines, for logs and pipes."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        self._print(f"starting {', '.join(role.name for role in roles)} (an engine takes half a minute on a CPU)")

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        pass  # a note says who

    def ready(self, role: RoleProcess) -> None:
        self._print(f"{role.name} is ready")

    def begun(self) -> None:
        self._print("all roles are ready")

    def refresh(self) -> None:
        """Nothing: a line per heartbeat would drown the rest."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._print(step_line(step, self._steps, values))

    def evaluated(self, result: EvalResult) -> None:
        self._print(
            f"held-out set {result.label}: reward {result.reward:.3f}, mean length {result.response_length:.1f} "
            f"({result.num_rollouts} responses, policy version {result.policy_version})"
        )

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


class LiveView:
    """One picture, redrawn in place: progress, the roles, the queues, how reward and length go, the last notes."""

    def __init__(self, console: Console, name: str, steps: int, bounds: Mapping[str, int], *, done: int = 0) -> None:
        """`done`: steps of earlier starts of the run."""
        self._console = console
        self._name = name
        self._steps = steps
        self._bounds = bounds
        self._roles: list[RoleProcess] = []
        self._done = self._done_before = done
        self._started_s = time.monotonic()
        self._first_step_s: float | None = None
        self._history: dict[str, deque[float]] = {}
        self._evals: dict[str, EvalResult] = {}
        self._notes: deque[str] = deque(maxlen=4)
        self._live = Live(self._draw(), console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.refresh()
        self._live.stop()

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        self._roles = list(roles)
        self.refresh()

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        self._roles = list(roles)
        self.refresh()

    def ready(self, role: RoleProcess) -> None:
        role.state = "ready"
        self.refresh()

    def begun(self) -> None:
        self._first_step_s = time.monotonic()
        self.refresh()

    def refresh(self) -> None:
        self._live.update(self._draw())

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._done = max(self._done, step + 1)
        for name in _SHOWN:
            if name in values:
                self._history.setdefault(name, deque(maxlen=_HISTORY)).append(values[name])
        self.refresh()

    def evaluated(self, result: EvalResult) -> None:
        self._evals[result.label] = result
        self.refresh()

    def note(self, text: str) -> None:
        self._notes.append(text)
        self.refresh()

    def _draw(self) -> Panel:
        parts: list[RenderableType] = [self._progress(), Text(), self._role_table(), Text(), self._queue_table()]
        if self._history:
            parts += [Text(), self._trend_table()]
        for result in self._evals.values():
            when = f"at version {result.policy_version}" if result.label == "during" else result.label
            line = f"held-out {when}: reward {result.reward:.3f}, mean length {result.response_length:.1f}"
            parts.append(Text(line, style="cyan"))
        parts += [Text(note, style="yellow") for note in self._notes]
        return Panel(Group(*parts), title=f"darts-async · {self._name}", title_align="left", border_style="dim")

    def _progress(self) -> Table:
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        now = time.monotonic()
        clock = _clock(now - self._started_s)
        here = self._done - self._done_before
        if here and self._first_step_s is not None and self._done < self._steps:
            left = (now - self._first_step_s) / here * (self._steps - self._done)
            clock += f", about {_clock(left)} left"
        bar = ProgressBar(total=self._steps, completed=self._done)
        row.add_row(f"step {self._done}/{self._steps}", bar, clock)
        return row

    def _role_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for _ in range(5):
            table.add_column(no_wrap=True)
        for role in self._roles:
            idle = role.gauges.get(f"{role.role}/idle_ratio")
            rate = role.gauges.get(f"{role.role}/tokens_per_s")
            table.add_row(
                Text(role.name, style="bold"),
                role.state,
                "" if idle is None else f"idle {idle:.0%}",
                "" if rate is None else f"{rate:,.0f} tokens/s",
                "" if not role.incarnation else f"restarted {role.incarnation} x",
            )
        return table

    def _queue_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(width=24)
        table.add_column(no_wrap=True)
        gauges = {name: value for role in self._roles for name, value in role.gauges.items()}
        for queue, bound in self._bounds.items():
            depth = gauges.get(f"queue/{queue}/depth")
            if depth is not None:
                bar = ProgressBar(total=max(1, bound), completed=min(depth, bound), width=24)
                table.add_row(queue.replace("_", " "), bar, f"{depth:.0f}/{bound}")
        return table

    def _trend_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        for name, label in _SHOWN.items():
            values = self._history.get(name)
            if values:
                table.add_row(label, f"{values[-1]:.2f}", _spark(values))
        return table


_SHOWN = {
    "reward/mean": "reward",
    "response_length/generated": "length, generated",
    "response_length/kept": "length, kept",
    "cancel/rollouts_in_step": "cancelled",
    "staleness/mean": "staleness",
}


def _spark(values: Iterable[float]) -> str:
    points = list(values)[-40:]
    low, high = min(points), max(points)
    if high == low:
        return _SPARKS[3] * len(points)
    return "".join(_SPARKS[round((value - low) / (high - low) * (len(_SPARKS) - 1))] for value in points)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
