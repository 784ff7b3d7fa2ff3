"""The groups that the learner accepted since its last checkpoint, on disk: `<run>/spool/step_<v>.spool`.

A file holds the groups of the step that makes version v + 1, in the order they were accepted, and how they were put
together: the gradients of a chunk are computed in one go, and in another grouping their sums would differ in the last
bits. Invariants: a group is safe here before it is trained on; files are removed only once a checkpoint covers them, so
the folder holds what was trained on since the last one (`checkpoint.recovery_steps`) and the open step.
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from darts_async.errors import RunFailed
from darts_async.messages import Message, NonNegative, TrainGroup
from darts_async.runtime.spool_file import SpoolFile

__all__ = ["Chunk", "Refused", "Spool", "SpooledStep"]

_NAME: Final = re.compile(r"^step_(\d+)\.spool$")


class Chunk(Message, frozen=True, kw_only=True):
    """The gradients of these many groups, the first ones without any, are computed together now."""

    num_groups: NonNegative


class Refused(Message, frozen=True, kw_only=True):
    """A group that was swept at the learner's door in this step."""

    group_id: NonNegative


SpoolRecord: TypeAlias = TrainGroup | Chunk | Refused


@dataclass(slots=True)
class SpooledStep:
    """What one file holds."""

    chunks: list[list[TrainGroup]] = field(default_factory=list)
    """Groups that were trained on, as they were put together."""
    waiting: list[TrainGroup] = field(default_factory=list)
    """Groups that were accepted behind these."""
    refused: list[int] = field(default_factory=list)

    @property
    def groups(self) -> list[TrainGroup]:
        """All of them, in order."""
        return [*(group for chunk in self.chunks for group in chunk), *self.waiting]

    @property
    def num_trained(self) -> int:
        """Groups that were trained on."""
        return sum(map(len, self.chunks))

    def add(self, record: SpoolRecord) -> None:
        """Enter the next record. Raises `RunFailed` for a chunk of more groups than there are."""
        match record:
            case TrainGroup():
                self.waiting.append(record)
            case Refused():
                self.refused.append(record.group_id)
            case Chunk():
                if not 1 <= record.num_groups <= len(self.waiting):
                    raise RunFailed(f"the spool has a chunk of {record.num_groups} of {len(self.waiting)} groups")
                self.chunks.append(self.waiting[: record.num_groups])
                self.waiting = self.waiting[record.num_groups :]

    def without(self, group_ids: frozenset[int]) -> SpooledStep:
        """Return the step without these groups; chunks keep what is left of them."""
        chunks = [[group for group in chunk if group.group_id not in group_ids] for chunk in self.chunks]
        waiting = [group for group in self.waiting if group.group_id not in group_ids]
        return SpooledStep([chunk for chunk in chunks if chunk], waiting, self.refused)

    @property
    def records(self) -> list[SpoolRecord]:
        """What a file of this content consists of."""
        records: list[SpoolRecord] = [Refused(group_id=group_id) for group_id in self.refused]
        for chunk in self.chunks:
            records += [*chunk, Chunk(num_groups=len(chunk))]
        return records + self.waiting


class Spool:
    """One learner's. Raises `RunFailed` when the disk does not take it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "spool")
        self._step = -1
        self._file: SpoolFile[SpoolRecord] | None = None
        """Of `_step`."""

    def clear(self) -> None:
        """Remove everything: a run begins, or nothing of it is needed any more. Blocks."""
        self._close_file()
        shutil.rmtree(self.folder, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps that have a file, oldest first."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def read(self, step: int) -> SpooledStep:
        """Return what a file holds (none: nothing), its torn end cut off; what is put for the step goes on there.
        Blocks."""
        spooled = SpooledStep()
        self._file_of(step).read(spooled.add)
        return spooled

    def put(self, step: int, *records: SpoolRecord) -> None:
        """Add to a step; what was put for another one has been synced."""
        self._file_of(step).put(*records)

    async def sync(self) -> None:
        """Return once everything that was put is on the disk."""
        if self._file is not None:
            await self._file.sync()

    async def replace(self, step: int, spooled: SpooledStep) -> None:
        """Let a step hold this alone."""
        await self._file_of(step).replace(*spooled.records)

    def prune(self, version: int) -> None:
        """A checkpoint of this version is complete: what made it is not needed any more. Blocks."""
        for step in self.steps():
            if step < version:
                self._path_of(step).unlink(missing_ok=True)

    def drop_from(self, step: int) -> None:
        """This step and later ones will not be made of what is here: the run is drained. Blocks."""
        self._close_file()
        for later in self.steps():
            if later >= step:
                self._path_of(later).unlink(missing_ok=True)

    def close(self) -> None:
        """Wait for what is being written and end the thread. Idempotent."""
        self._thread.shutdown()
        self._close_file()

    def _path_of(self, step: int) -> Path:
        return self.folder / f"step_{step}.spool"

    def _file_of(self, step: int) -> SpoolFile[SpoolRecord]:
        if self._file is None or step != self._step:
            self._close_file()
            self._step, self._file = step, SpoolFile(self._path_of(step), SpoolRecord, self._thread)
        return self._file

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
