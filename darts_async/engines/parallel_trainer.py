"""The trainer over several processes: rank 0's, which holds the others and does what they do.

Same interface as `trainer.PolicyTrainer`, same thread. Every call goes to the workers first, is carried out here
as well, and ends when all have done it. Invariants: all processes carry the same calls out in the same order; a worker
that ends on its own is a `RunFailed` that names its rank and its log, never a hang; no worker outlives this process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import torch
import torch.distributed as dist

from darts_async.config.paths import RunPaths
from darts_async.engines.ranks import join_ranks, leave_ranks
from darts_async.engines.step_stats import StepStats
from darts_async.engines.trainer import PolicyTrainer
from darts_async.engines.worker_messages import Action, Command, Done, Here, ToWorker, WorkerSetup
from darts_async.engines.worker_process import WorkerProcess
from darts_async.errors import ConfigError, DartsError, RunFailed
from darts_async.messages import TrainGroup
from darts_async.transport.codec import Codec, Frame

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.frozen import FrozenPolicies
    from darts_async.engines.token_sums import TokenSums

__all__ = ["ParallelTrainer"]

_LOSS_WAIT_S: Final = 5.0
"""After an error here: how long it may take to see that it comes from a worker that has ended."""
_Result = TypeVar("_Result")


class ParallelTrainer:
    """`learner.processes` processes, this one included."""

    def __init__(self, config: Config) -> None:
        """Start the workers and load the policy in all processes.

        Call it on a thread that lives as long as the trainer: the workers are killed when that ends. Raises
        `ConfigError` for more processes than GPUs, `RunFailed` for a worker that ends, and what `PolicyTrainer` raises.
        """
        size = config.learner.processes
        if torch.cuda.is_available() and torch.cuda.device_count() < size:
            raise ConfigError(
                "learner.processes",
                size,
                f"one process a GPU, and {torch.cuda.device_count()} can be seen",
                "Lower it, or make more GPUs visible.",
            )
        if sys.platform.startswith("linux"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
        self._codec: Codec[ToWorker] = Codec(ToWorker)
        self._abandon = self._codec.encode(Command(action="abandon"))
        self._lost = threading.Event()
        self._workers: list[WorkerProcess] = []
        self._folder = tempfile.TemporaryDirectory(prefix="darts-async-ranks-", ignore_cleanup_errors=True)
        store = Path(self._folder.name) / "store"
        logs = RunPaths.of(config).logs
        try:
            for rank in range(1, size):
                worker = WorkerProcess(rank, logs / f"learner-0.rank-{rank}.log", _environment(rank), self._on_death)
                self._workers.append(worker)
                setup = WorkerSetup(rank=rank, processes=size, store=str(store), config=config.model_dump_json())
                worker.send(self._codec.encode(setup))
            self._all_say(Here)
            self._core = self._guarded(lambda: self._join(config, store))
            self._all_say(Done)
        except BaseException:
            self._end()
            raise

    def _join(self, config: Config, store: Path) -> PolicyTrainer:
        ranks = join_ranks(0, config.learner.processes, store, sharded=config.learner.sharding == "fsdp2")
        return PolicyTrainer(config, ranks=ranks)

    # --- what a trainer does ------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The policy version whose weights these are."""
        return self._core.version

    @property
    def frozen(self) -> FrozenPolicies:
        """Rank 0's frozen policies: responses that are streamed are scored ahead here alone."""
        return self._core.frozen

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The gradient sums of this process's share so far (with shards: its shards of all); not those of the step."""
        return self._core.gradients

    def accumulate(self, groups: Sequence[TrainGroup]) -> TokenSums:
        """See `PolicyTrainer`. Returns the sums of this process's share of the groups."""
        return self._together("accumulate", lambda: self._core.accumulate(groups), groups=groups)

    def apply_step(self) -> StepStats:
        """See `PolicyTrainer`."""
        return self._together("apply_step", self._core.apply_step)

    def publish(self, path: Path) -> None:
        """See `PolicyTrainer`."""
        self._together("publish", lambda: self._core.publish(path), path=path)

    def save_checkpoint(self, folder: Path) -> None:
        """See `PolicyTrainer`."""
        self._together("save_checkpoint", lambda: self._core.save_checkpoint(folder), path=folder)

    def save_recovery(self, folder: Path) -> None:
        """See `PolicyTrainer`."""
        self._together("save_recovery", lambda: self._core.save_recovery(folder), path=folder)

    def load_checkpoint(self, folder: Path) -> None:
        """See `PolicyTrainer`."""
        self._together("load_checkpoint", lambda: self._core.load_checkpoint(folder), path=folder)

    def abandon(self) -> None:
        """Give the unfinished step up in all processes (from any thread)."""
        self._core.abandon()
        for worker in self._workers:
            with suppress(RunFailed):  # one that has ended gives everything up
                worker.send(self._abandon)

    def close(self) -> None:
        """End the workers. Nothing can be called afterwards; a second call does nothing."""
        goodbye = self._codec.encode(Command(action="close"))
        for worker in self._workers:
            with suppress(RunFailed):
                worker.send(goodbye)
        self._end()

    # --- all together -------------------------------------------------------------------------------------------------

    def _together(
        self,
        action: Action,
        local: Callable[[], _Result],
        *,
        path: Path | None = None,
        groups: Sequence[TrainGroup] = (),
    ) -> _Result:
        messages: list[list[Frame]] = [self._codec.encode(group) for group in groups]
        command = Command(action=action, path=str(path or ""), num_groups=len(groups))
        messages.append(self._codec.encode(command))
        for worker in self._workers:
            worker.send(*messages)
        try:
            result = self._guarded(local)
        except (RunFailed, OSError):
            if not self._lost.is_set():
                self._all_say(Done)  # the policy is as good in all of them; whoever catches this may go on
            raise
        self._all_say(Done)
        return result

    def _guarded(self, local: Callable[[], _Result]) -> _Result:
        """Do this process's part. An error that a worker's end has caused becomes one that says so."""
        try:
            return local()
        except (DartsError, OSError):
            raise  # as it would be in any of them
        except Exception as error:
            # Whoever it was, the connections to it have broken: the kernel reports its end at about the same time.
            if self._lost.wait(_LOSS_WAIT_S):
                raise self._first_lost() from error
            raise

    def _all_say(self, kind: type[Here | Done]) -> None:
        for worker in self._workers:
            worker.receive(kind)

    def _first_lost(self) -> RunFailed:
        return next(worker for worker in self._workers if worker.dead.is_set()).lost()

    def _on_death(self) -> None:
        self._lost.set()
        if torch.cuda.is_available() and dist.is_initialized():
            # nccl would wait for ever; gloo sees that the connection is gone.
            group = dist.group.WORLD
            if group is not None:
                group.abort()

    def _end(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.end()
        leave_ranks()
        self._folder.cleanup()


def _environment(rank: int) -> dict[str, str]:
    """This process's environment; on a machine with GPUs each process sees its own alone, as the first."""
    if not torch.cuda.is_available():
        return dict(os.environ)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": devices[rank]}
