"""The learner's journal, `<run>/spool/steps.journal`: one record per step, synced before anybody hears of the step.

Invariant: whatever version a peer was ever told of, the journal has its step; so a learner that is started anew knows
how far it had come. Never pruned: a few kilobytes a step.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from darts_async.algorithms.finished_step import FinishedStep
from darts_async.errors import RunFailed
from darts_async.runtime.spool_file import SpoolFile

__all__ = ["StepJournal"]

NAME: Final = "steps.journal"


class StepJournal:
    """One learner's. Raises `RunFailed` when the disk does not take it."""

    def __init__(self, folder: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "journal")
        self._file: SpoolFile[FinishedStep] = SpoolFile(folder / NAME, FinishedStep, self._thread)
        self._version = 0

    @property
    def version(self) -> int:
        """That the last step made."""
        return self._version

    def read(self, visit: Callable[[FinishedStep], None]) -> None:
        """Give every step to `visit`, in order. Blocks; before the first `append`."""

        def in_order(step: FinishedStep) -> None:
            if step.version != self._version + 1:
                raise RunFailed(
                    f"the journal {self._file.path} has version {step.version} behind version {self._version}"
                )
            self._version = step.version
            visit(step)

        self._file.read(in_order)

    async def append(self, step: FinishedStep) -> None:
        """Add a step; return once it is on the disk."""
        self._file.put(step)
        await self._file.sync()
        self._version = step.version

    def close(self) -> None:
        """Wait for what is being written and close the file. Idempotent."""
        self._thread.shutdown()
        self._file.close()
