"""The processes of a run: started in groups of their own, logged to files, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from darts_async.algorithms.restarts import Loss
from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.launcher import process_group
from darts_async.launcher.gpus import gpu_environment, visible_gpus
from darts_async.launcher.run_lock import RunLock
from darts_async.messages import Fault, Role
from darts_async.owned_files import open_log
from darts_async.runtime.spawn import spawn


class Started(Protocol):
    """A process that was started, here or elsewhere."""

    @property
    def pid(self) -> int:
        """Its number, on its own machine."""

    @property
    def returncode(self) -> int | None:
        """Its status, negative for a signal; None while it runs."""

    async def wait(self) -> int:
        """Wait for its end; return its status."""


@dataclass
class RoleProcess:
    """One role, as the launcher sees it: its present start, and how many there were."""

    is_here: ClassVar[bool] = True
    """Its process is one of this machine, the launcher's own child."""
    role: Role
    rank: int
    log: Path
    process: Started
    incarnation: int = 0
    """Which start this is; also how often the role was restarted."""
    started_s: float = field(default_factory=time.monotonic)
    state: str = "starting"
    ready: bool = False
    finished: bool = False
    gone: bool = False
    """This start is over, and no other one is under way yet."""
    gauges: dict[str, float] = field(default_factory=dict)
    fault: Fault | None = None
    """What it reported before it ended."""
    said_last: asyncio.Event = field(default_factory=asyncio.Event)
    """Its last word is here: that it has finished, or a fault."""
    killed_for: str = ""
    """Why the launcher killed it."""

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

    @property
    def loss(self) -> Loss:
        """What to think of its end."""
        status, fault = self.process.returncode, self.fault
        return Loss.of(
            self.exit_text,
            by_signal=status is not None and status < 0,
            fault="" if fault is None else fault.error,
            curable=fault is not None and fault.curable,
            killed_for=self.killed_for,
        )

    def begins_anew(self, process: Started) -> None:
        """The next start of it is under way."""
        self.process = process
        self.incarnation += 1
        self.started_s = time.monotonic()
        self.state, self.gauges = "starting again", {}
        self.ready = self.finished = self.gone = False
        self.fault, self.killed_for = None, ""
        self.said_last.clear()

    def took(self, fault: Fault) -> None:
        """It has reported that it cannot go on."""
        self.fault = fault
        self.said_last.set()

    def finishes(self) -> None:
        """It has reported that it is done."""
        self.finished = True
        self.said_last.set()

    def kill(self, why: str = "") -> None:
        """SIGKILL to the whole process group: the role and whatever it has started (an engine's children too)."""
        self.killed_for = self.killed_for or why
        process_group.kill(self.process.pid)


class Starter:
    """Starts roles of one run; each leads its own process group and writes to its own log."""

    def __init__(
        self, config: Config, paths: RunPaths, topology_file: Path, lock: RunLock, *, resumes: int = 0
    ) -> None:
        """`lock`: of the run folder; the roles hold it too. `resumes`: how often the run was taken up again."""
        self._config = config
        self._paths = paths
        self._topology_file = topology_file
        self._lock = lock
        self._resumes = resumes

    def wanted(self) -> list[tuple[Role, int]]:
        """Return the roles of a run, in the order they are started."""
        generators: list[tuple[Role, int]] = [("generator", rank) for rank in range(self._config.generator.replicas)]
        return [*generators, ("learner", 0), ("selector", 0), ("allocator", 0)]

    async def start_all(self) -> list[RoleProcess]:
        """Start every role. If one cannot be started, the ones before it are killed and the error goes on."""
        started: list[RoleProcess] = []
        try:
            for role, rank in self.wanted():
                started.append(RoleProcess(role, rank, self._log(role, rank), await self.start(role, rank)))
        except BaseException:
            for role_process in started:
                role_process.kill()
            raise
        return started

    async def start(self, role: Role, rank: int, incarnation: int = 0) -> asyncio.subprocess.Process:
        """Start one role; its log goes on where an earlier start left it."""
        with os.fdopen(open_log(self._log(role, rank)), "ab") as sink:
            if incarnation or self._resumes:
                why = f"restart {incarnation}" if incarnation else f"the run goes on (resume {self._resumes})"
                sink.write(f"--- {role}-{rank} starts anew: {why}\n".encode())
                sink.flush()
            process = await spawn(
                sys.executable,
                "-m",
                f"actors.{role}",
                "--topology",
                str(self._topology_file),
                "--rank",
                str(rank),
                "--incarnation",
                str(incarnation),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                env=environment(self._config, role, rank),
                pass_fds=(self._lock.descriptor,),
            )
        self._lock.started(process.pid)
        return process

    def _log(self, role: Role, rank: int) -> Path:
        return self._paths.logs / f"{role}-{rank}.log"


def environment(config: Config, role: Role, rank: int = 0) -> dict[str, str]:
    """The parent's environment with the role's share of the processor and its GPUs; thread pools and drivers read it
    before any code runs."""
    threads = {"generator": config.generator.cpu_threads, "learner": config.learner.threads}.get(role, 1)
    return {
        **os.environ,
        **gpu_environment(config, role, rank, visible_gpus()),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # No model hub is ever asked: models are folders.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
