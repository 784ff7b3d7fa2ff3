"""Weights & Biases, under `<run>/wandb`: offline unless asked otherwise, without prompts, prints or a login.

W&B works through a process of its own, `wandb-core`. Invariant: when `close` returns, that process is over; where
`close` never returns, `kill_services` ends it. A run that goes on keeps its id, which is kept in the run folder: online
it is the same run; offline it is a further `offline-run-...` folder of that id, and `wandb sync` of all joins them.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from darts_async.messages import EvalResult
from darts_async.owned_files import links_outside
from darts_async.sinks.base import Sink, SinkRun
from darts_async.sinks.flat import flat

__all__ = ["FOLDER", "WandbSink", "kill_services", "make_wandb", "services"]

FOLDER: Final = "wandb"
_ID: Final = "darts-async-run-id"
_SERVICE: Final = "wandb-core"
_FORGETTING_S: Final = 1.0


class WandbSink(Sink):
    """Of one start of a run."""

    def __init__(self, run: SinkRun) -> None:
        # Read when wandb is imported: no reports about wandb itself, to nobody.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # noqa: PLC0415 - an extra, and slow to import

        settings = run.config["metrics"]
        online = settings["wandb_mode"] == "online"
        (run.root / FOLDER).mkdir(exist_ok=True)
        self._wandb: Any = wandb
        self._is_alone = not services()  # else whoever runs this run uses W&B too, through a process that stays
        self._is_done = False
        self._run: Any = wandb.init(
            project=settings["wandb_project"],
            name=run.name,
            id=_run_id(run.root / FOLDER / _ID),
            dir=str(run.root),
            config=dict(run.config),
            mode="online" if online else "offline",
            resume="allow" if online else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        # To wandb-core's log in the user's cache; a run goes on only where no link leads out of its folder.
        for link in links_outside(run.root / FOLDER):
            link.unlink()

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """One row of the history."""
        self._run.log({name: value for name, value in values.items() if math.isfinite(value)}, step=step)

    def evaluated(self, result: EvalResult) -> None:
        """Into the run's summary: a score's version is no step of the history, which may be past it by now. Those
        during training are in the history with the next step's line."""
        self._run.summary[f"held_out/{result.label}/reward"] = result.reward
        self._run.summary[f"held_out/{result.label}/response_length"] = result.response_length
        self._run.summary[f"held_out/{result.label}/version"] = result.policy_version

    def ended(self, summary: Mapping[str, Any]) -> None:
        """The numbers and words of `summary.json`, by dotted name."""
        self._is_done = summary.get("status") == "done"
        leaves = flat(summary, "summary.")
        self._run.summary.update({k: v for k, v in leaves.items() if isinstance(v, bool | int | float | str)})

    def close(self) -> None:
        """Write out, and end W&B's process where it is the sink's own."""
        try:
            self._run.finish(exit_code=0 if self._is_done else 1)  # W&B shows it as failed
        finally:
            if self._is_alone:
                self._wandb.teardown()


def make_wandb(run: SinkRun) -> Sink:
    """Make the sink. Needs wandb."""
    return WandbSink(run)


def services() -> frozenset[int]:
    """Return the processes that W&B has started from this one and not ended."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            name, _, rest = (entry / "stat").read_text("utf-8", "replace").partition(" (")[2].rpartition(") ")
            state, parent = rest.split()[:2]
            if name == _SERVICE and int(parent) == os.getpid() and state != "Z":
                found.add(pid)
    return frozenset(found)


def kill_services(spare: frozenset[int] = frozenset()) -> None:
    """Kill them but for some: a sink that hangs is left behind, its process not. Blocks for up to a second."""
    for pid in services() - spare:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not spare:
        # Else it would try when the interpreter ends, and say at length that its process is gone.
        forgets = threading.Thread(target=_forget_service, daemon=True)
        forgets.start()
        forgets.join(_FORGETTING_S)


def _forget_service() -> None:
    if (wandb := sys.modules.get("wandb")) is not None:
        with contextlib.suppress(Exception):
            wandb.teardown()


def _run_id(path: Path) -> str:
    """The run's id at W&B, drawn once."""
    with contextlib.suppress(OSError):
        if found := path.read_text("utf-8").strip():
            return found
    drawn = secrets.token_hex(4)
    path.write_text(drawn, "utf-8")
    return drawn
