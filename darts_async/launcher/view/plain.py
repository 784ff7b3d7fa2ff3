"""A run as lines, for logs and pipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from rich.console import Console

from darts_async.launcher.roles import RoleProcess
from darts_async.messages import EvalResult
from darts_async.runtime.outside_link import StatusAnswer

__all__ = ["PlainView", "step_line"]


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
    """Implements `View`."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps

    def attached(self, look: Callable[[], StatusAnswer]) -> None:
        """Nothing: lines are about what happens, not about how it is."""

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        """A line."""
        self._print(f"starting {', '.join(role.name for role in roles)} (an engine takes half a minute on a CPU)")

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        """Nothing: a note says who."""

    def ready(self, role: RoleProcess) -> None:
        """A line."""
        self._print(f"{role.name} is ready")

    def begun(self) -> None:
        """A line."""
        self._print("all roles are ready")

    def refresh(self) -> None:
        """Nothing: a line per heartbeat would drown the rest."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A line."""
        self._print(step_line(step, self._steps, values))

    def evaluated(self, result: EvalResult) -> None:
        """A line."""
        self._print(
            f"held-out set {result.label}: reward {result.reward:.3f}, mean length {result.response_length:.1f} "
            f"({result.num_rollouts} responses, policy version {result.policy_version})"
        )

    def note(self, text: str) -> None:
        """A line."""
        self._print(text)

    def _print(self, text: str) -> None:
        # A character that the output lacks becomes a question mark.
        text = text.encode(self._console.encoding, "replace").decode(self._console.encoding)
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)
