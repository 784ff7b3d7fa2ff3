"""The processes of a run: started in groups of their own, logged to files, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.messages import Role


@dataclass
class RoleProcess:
    """One role's process, as the launcher sees it."""

    role: Role
    rank: int
    log: Path
    process: asyncio.subprocess.Process
    state: str = "starting"
    ready: bool = False
    finished: bool = False
    fault: str = ""
    """Why it cannot go on, in its own words."""
    gauges: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in messages to people, and of its dealer on the control link."""
        return f"{self.role}-{self.rank}"

    @property
    def exit_text(self) -> str:
        """How it ended, in words."""
        status = self.process.returncode
        if status is None:
            return "is running"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-status).name}"
        return f"exited with status {status}"

    def kill(self) -> None:
        """SIGKILL to the whole process group: the role and whatever it has started (an engine's children too)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


async def spawn_roles(config: Config, paths: RunPaths, topology_file: Path) -> list[RoleProcess]:
    """Start a process per role; each leads its own process group and writes to its own log.

    If one cannot be started, the ones before it are killed and the error goes on.
    """
    started: list[RoleProcess] = []
    wanted: list[tuple[Role, int]] = [("generator", rank) for rank in range(config.generator.replicas)]
    wanted += [("learner", 0), ("selector", 0), ("allocator", 0)]
    try:
        for role, rank in wanted:
            log = paths.logs / f"{role}-{rank}.log"
            with log.open("ab") as sink:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    f"actors.{role}",
                    "--topology",
                    str(topology_file),
                    "--rank",
                    str(rank),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    start_new_session=True,
                    env=environment(config, role),
                )
            started.append(RoleProcess(role, rank, log, process))
    except BaseException:
        for role_process in started:
            role_process.kill()
        raise
    return started


def environment(config: Config, role: Role) -> dict[str, str]:
    """The parent's environment with the role's share of the processor; thread pools read it before any code runs."""
    threads = {"generator": config.generator.cpu_threads, "learner": config.learner.threads}.get(role, 1)
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # No model hub is ever asked: models are folders.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
