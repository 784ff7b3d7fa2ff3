"""The ledger on disk, read back with the plain `msgpack` package."""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
import pytest

from darts_async.algorithms.ledger_records import CandidateEnded, GroupPlanned, RunOpened, StepTrained
from darts_async.errors import RunFailed
from darts_async.runtime.ledger_file import FLUSH_BYTES, LedgerFile


def read(path: Path) -> list[dict[str, object]]:
    with path.open("rb") as stream:
        return list(msgpack.Unpacker(stream))


async def test_records_come_back_in_order_as_maps_that_say_what_they_are(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "run" / "ledger")
    assert file.path == tmp_path / "run" / "ledger" / "000000.msgpack"
    file.append(RunOpened(format=1, run="r", seed=3, rule="survivor"))
    file.append(
        GroupPlanned(
            group_id=2,
            prompt_id="p",
            rule="survivor",
            group_size=8,
            keep_longest=1,
            candidate_ids=(2048, 2049),
            dispatch_version=4,
        )
    )
    assert read(file.path) == []
    await file.flush()
    assert [record["kind"] for record in read(file.path)] == ["open", "plan"]
    file.append(CandidateEnded(candidate_id=2048, state="trained", tokens=17, reward=0.5))
    file.append(StepTrained(version=5, group_ids=(2,)))
    await file.close()
    await file.close()
    candidate, step = read(file.path)[2:]
    assert candidate == {
        "kind": "candidate",
        "candidate_id": 2048,
        "state": "trained",
        "tokens": 17,
        "estimated": False,
        "capped": False,
        "reward": 0.5,
        "reason": "",
    }
    assert step == {"kind": "step", "version": 5, "group_ids": [2]}


async def test_a_ledger_that_exists_is_never_written_to(tmp_path: Path) -> None:
    LedgerFile(tmp_path).abandon()
    with pytest.raises(RunFailed, match="exists already"):
        LedgerFile(tmp_path)


async def test_a_flush_is_due_after_a_megabyte(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path)
    record = StepTrained(version=1, group_ids=tuple(range(1 << 16)))
    appended = 0
    while not file.flush_due:
        file.append(record)
        appended += 1
    await file.flush()
    assert not file.flush_due
    assert file.path.stat().st_size >= FLUSH_BYTES
    await file.close()
    assert len(read(file.path)) == appended


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
async def test_a_full_disk_ends_the_run_with_a_clear_message(tmp_path: Path) -> None:
    """/dev/full takes an open and refuses every write with ENOSPC, as a full disk does."""
    file = LedgerFile(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file._descriptor or 0)
    os.close(full)
    file.append(StepTrained(version=1, group_ids=()))
    with pytest.raises(RunFailed, match=r"000000\.msgpack cannot be written: the disk is full"):
        await file.flush()
    file.abandon()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file, not a folder")
    with pytest.raises(RunFailed, match=r"ledger/000000\.msgpack cannot be written"):
        LedgerFile(tmp_path / "ledger")


async def test_writing_after_the_close_is_an_error(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path)
    await file.close()
    file.append(StepTrained(version=1, group_ids=()))
    with pytest.raises(RunFailed, match="closed"):
        await file.flush()
