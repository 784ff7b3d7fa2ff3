"""`darts-async up --resume RUN`: from the folder of a run that was cut off to a plan that goes on with it.

Nothing in the folder changes before every check has passed, but for what was torn (the ends of `metrics.jsonl` and of
the journal) or never written (the summary of a run that was complete). Invariants: one
start of a run is alive at a time (`run_lock`), and nothing of the one before when the next begins; a run is never gone
on with under settings that its steps so far contradict.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from darts_async.algorithms.limits import EndedBy, RunLimits
from darts_async.config import Config, load_config, to_toml
from darts_async.config.between_starts import config_of_next_start
from darts_async.config.paths import RunPaths
from darts_async.durable import replace_file
from darts_async.errors import ConfigError, RunFailed
from darts_async.launcher import shared_weights
from darts_async.launcher.preflight import Plan, check_machine
from darts_async.launcher.run_lock import RunIsAlive, RunLock
from darts_async.messages import Finished
from darts_async.owned_files import links_outside
from darts_async.runtime.ledger_lock import LedgerLock
from darts_async.runtime.record import RunRecord
from darts_async.runtime.run_files import RunFiles
from darts_async.runtime.run_history import RunHistory, read_history
from darts_async.tracing.trace_file import FULL as TRACE_IS_FULL

__all__ = ["RunIsComplete", "find_run", "plan_resume", "prepare_run_folder"]

_GONE_S: Final = 30.0
"""For the processes of a killed start to be gone: they are killed with their launcher, a driver may take long."""


class RunIsComplete(Exception):
    """There is nothing to go on with; the message says what the run came to."""


def find_run(text: str) -> Path:
    """Return the folder of a run, given itself or its name in `runs/`. Raises `ConfigError`."""
    folders = (Path(text), Path(Config().run.dir) / text)
    for folder in folders:
        if RunPaths(folder).resolved_config.is_file():
            return folder.absolute()
    rule = "is no run folder: it has no config.resolved.toml" if folders[0].is_dir() else "no such run folder"
    raise ConfigError("--resume", text, rule, "Name the folder of a run, such as runs/quickstart-1.")


def plan_resume(
    text: str, overrides: Sequence[tuple[str, str]], note: Callable[[str], None], *, wait_s: float = _GONE_S
) -> Plan:
    """Check that a run can go on; return its plan, with the lock of its folder. Raises `ConfigError`, `RunIsComplete`.

    `note` is told when the last start's processes have to be waited for.
    """
    root = find_run(text)
    paths = RunPaths(root)
    lock = _lock(text, root, wait_s, note)
    try:
        _check_links(text, root)
        config = _last_config(text, paths)
        history = _history(text, paths)
        changed = config_of_next_start(config, overrides, steps_done=history.version)
        _check_complete(paths, changed, history)
        _check_story(text, paths, history)
        return replace(check_machine(changed), lock=lock, history=history)
    except BaseException:
        lock.release()
        raise


def prepare_run_folder(plan: Plan) -> None:
    """Make the folder what a start expects: config as it is from now on, nothing of the last start left behind.

    Raises `ConfigError` when the file system refuses.
    """
    paths = plan.paths
    try:
        for folder in (paths.logs, paths.ledger, paths.checkpoints):
            folder.mkdir(exist_ok=True)
        replace_file(paths.resolved_config, to_toml(plan.config).encode())
        for stale in (paths.live_config, paths.control_file, paths.summary, paths.trace / TRACE_IS_FULL):
            stale.unlink(missing_ok=True)
        if plan.lock is not None:
            plan.lock.clear_sockets()
        shared_weights.create(paths.weights)
    except OSError as error:
        raise ConfigError(
            "run.dir",
            plan.config.run.dir,
            f"the run folder cannot be written ({error.strerror or error})",
            "Free some space, or mend its rights.",
        ) from None


def _lock(text: str, root: Path, wait_s: float, note: Callable[[str], None]) -> RunLock:
    try:
        lock = asyncio.run(RunLock.take_over(root, wait_s, note))
    except RunIsAlive as alive:
        fix = "`darts-async status` shows how it is." if alive.launcher_lives else "End them, then say this again."
        raise ConfigError("--resume", text, f"the run is alive: {alive}", fix) from None
    except OSError as error:
        rule = f"the folder cannot be locked ({error.strerror or error})"
        raise ConfigError("--resume", text, rule, "Check its rights.") from None
    if LedgerLock.is_taken(RunPaths(root).ledger):
        lock.release()
        raise ConfigError("--resume", text, "the run is alive: its ledger is being written", "Wait until it has ended.")
    return lock


def _check_links(text: str, root: Path) -> None:
    """Nothing that the run writes would land elsewhere."""
    if leading_out := links_outside(root):
        rule = f"{leading_out[0]} is a symbolic link that leads out of the run folder"
        raise ConfigError("--resume", text, rule, "Put what it points to in its place.")


def _last_config(text: str, paths: RunPaths) -> Config:
    """As the run was when it ended: what was set while it went on included; of a folder that was moved, where it is."""
    try:
        config = load_config(str(paths.live_config if paths.live_config.is_file() else paths.resolved_config))
    except ConfigError as error:
        rule = f"its config does not suit this version of darts-async: {error.key}: {error.rule}"
        raise ConfigError("--resume", text, rule, error.fix) from None
    if RunPaths.of(config).root == paths.root:
        return config
    run = config.run.model_dump(exclude_none=True) | {"dir": str(paths.root.parent), "name": paths.root.name}
    return config.model_copy(update={"run": type(config.run).model_validate(run)})


def _history(text: str, paths: RunPaths) -> RunHistory:
    try:
        return read_history(paths)
    except RunFailed as error:
        raise ConfigError("--resume", text, str(error), "It cannot go on from this.") from None
    except OSError as error:
        raise ConfigError("--resume", text, f"cannot be read: {error}", "Check the folder's rights.") from None


def _check_complete(paths: RunPaths, config: Config, history: RunHistory) -> None:
    """Raises `RunIsComplete` for a run that has reached its end under this config."""
    if not history.finished:
        return
    last = history.finished[-1]
    tokens = sum(step.tokens for step in history.finished)
    ended_by = RunLimits.of(config).ended_by(version=last.version, wall_s=last.elapsed_s, trained_tokens=tokens)
    if ended_by is None:
        return
    if not _says_done(paths):
        if history.closed is None or not history.is_evaluated:
            return
        _write_summary(paths, history, ended_by)
    raise RunIsComplete(
        f"the run is complete: {last.version} steps, ended by run.{_LIMITS[ended_by]}; nothing is left to do in "
        f"{paths.root} (to train on, give it a larger limit, such as --run.steps)"
    )


_LIMITS: Final = {"steps": "steps", "wall_s": "max_wall_s", "trained_tokens": "max_trained_tokens"}


def _says_done(paths: RunPaths) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return bool(json.loads(paths.summary.read_text("utf-8"))["status"] == "done")
    return False


def _write_summary(paths: RunPaths, history: RunHistory, ended_by: EndedBy) -> None:
    """All was done, and the launcher was killed before it could say so: what the roles told it is partly lost."""
    closed = history.closed
    assert closed is not None
    record = RunRecord(warnings=["the launcher was killed at the very end: figures that only it had are missing"])
    totals = {"rollouts": closed.rollouts, "tokens": closed.tokens}
    books = {f"{part}/{name}": float(count) for part, counts in totals.items() for name, count in counts.items()}
    record.add_finished(Finished(role="selector", rank=0, summary=books))
    learner = {"policy_version": float(history.version), f"ended_by/{ended_by}": 1.0}
    record.add_finished(Finished(role="learner", rank=0, summary=learner))
    files = RunFiles(paths, record, history)
    try:
        files.summarise("done")
    finally:
        files.close()


def _check_story(text: str, paths: RunPaths, history: RunHistory) -> None:
    """The learner's journal and the ledger are of the same run. Raises `ConfigError`."""
    if history.ledger_version > history.version:
        raise ConfigError(
            "--resume",
            text,
            f"the ledger has {history.ledger_version} steps, the learner's journal {paths.spool} only "
            f"{history.version}: something was removed from the folder",
            "Put it back, or start another run from the last checkpoint (model.path).",
        )
