"""The ledger on disk: written, torn, damaged, reopened, and read back, with the plain `msgpack` package too."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import msgpack
import pytest

from darts_async.algorithms.ledger_records import (
    LEDGER_FORMAT,
    CandidateEnded,
    GroupPlanned,
    LedgerRecord,
    RunOpened,
    RunReopened,
    StepTrained,
)
from darts_async.errors import LedgerDamaged, RunFailed
from darts_async.runtime.ledger_file import FLUSH_BYTES, LedgerFile
from darts_async.runtime.ledger_frames import MAX_RECORD_BYTES
from darts_async.runtime.ledger_lock import LedgerLock
from darts_async.runtime.ledger_reader import LedgerReader

OPENED = RunOpened(run="r", seed=3, rule="survivor")


def ended(candidate: int) -> CandidateEnded:
    return CandidateEnded(candidate_id=candidate, state="trained", tokens=17 + candidate, reward=0.5)


def unpacked(path: Path) -> list[tuple[int, int, dict[str, object]]]:
    """What somebody sees who knows MessagePack and nothing of us."""
    with path.open("rb") as stream:
        return [(number, crc, msgpack.unpackb(record)) for number, crc, record in msgpack.Unpacker(stream)]


def read(folder: Path, *, live: bool = False) -> list[LedgerRecord]:
    return list(LedgerReader(folder, live=live))


async def write(folder: Path, records: list[LedgerRecord], segment_bytes: int = 1 << 20) -> None:
    file = LedgerFile.create(folder, segment_bytes=segment_bytes)
    for record in records:
        file.append(record)
    await file.close()


def ends(folder: Path) -> list[int]:
    """Offsets at which the records of the first segment end, by the plain package."""
    unpacker = msgpack.Unpacker()
    unpacker.feed((folder / "000000.msgpack").read_bytes())
    return [unpacker.tell() for _ in unpacker]


async def test_records_come_back_in_order_as_maps_that_say_what_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ledger"
    file = LedgerFile.create(folder)
    assert file.path == folder / "000000.msgpack"
    file.append(OPENED)
    plan = GroupPlanned(
        group_id=2,
        draw=2,
        prompt_id="p",
        rule="survivor",
        group_size=8,
        keep_longest=1,
        candidate_ids=(2048, 2049),
        dispatch_version=4,
    )
    file.append(plan)
    assert unpacked(file.path) == []
    await file.flush()
    assert [record["kind"] for _, _, record in unpacked(file.path)] == ["segment", "open", "plan"]
    file.append(CandidateEnded(candidate_id=2048, state="trained", tokens=17, reward=0.5))
    file.append(StepTrained(version=5, group_ids=(2,)))
    await file.close()
    await file.close()
    frames = unpacked(file.path)
    assert [number for number, _, _ in frames] == [0, 1, 2, 3, 4]
    assert frames[0][2] == {
        "kind": "segment",
        "format": LEDGER_FORMAT,
        "run_id": frames[0][2]["run_id"],
        "segment": 0,
        "sequence": 0,
    }
    assert frames[3][2] == {
        "kind": "candidate",
        "candidate_id": 2048,
        "state": "trained",
        "tokens": 17,
        "estimated": False,
        "capped": False,
        "reward": 0.5,
        "reason": "",
    }
    assert frames[4][2] == {"kind": "step", "version": 5, "group_ids": [2]}
    with file.path.open("rb") as stream:
        assert all(crc == zlib.crc32(data, number) for number, crc, data in msgpack.Unpacker(stream))
    assert read(folder)[1] == plan and len(read(folder)) == 4


async def test_a_ledger_that_exists_is_never_written_to(tmp_path: Path) -> None:
    LedgerFile.create(tmp_path).abandon()
    with pytest.raises(RunFailed, match=r"000000\.msgpack cannot be written: it exists already"):
        LedgerFile.create(tmp_path)
    (tmp_path / "000000.msgpack").rename(tmp_path / "000001.msgpack")
    with pytest.raises(RunFailed, match=r"000001\.msgpack cannot be written: it exists already"):
        LedgerFile.create(tmp_path)


async def test_a_flush_is_due_after_a_megabyte(tmp_path: Path) -> None:
    file = LedgerFile.create(tmp_path)
    record = StepTrained(version=1, group_ids=tuple(range(1 << 16)))
    appended = 0
    while not file.flush_due:
        file.append(record)
        appended += 1
    await file.flush()
    assert not file.flush_due
    assert file.path.stat().st_size >= FLUSH_BYTES
    await file.close()
    assert read(tmp_path) == [record] * appended


async def test_segments_are_bounded_and_read_as_one_ledger(tmp_path: Path) -> None:
    records: list[LedgerRecord] = [OPENED, *map(ended, range(500))]
    await write(tmp_path, records, segment_bytes=4096)
    paths = [segment.path for segment in LedgerReader(tmp_path).segments]
    assert len(paths) > 10
    assert all(path.stat().st_size <= 4096 for path in paths)
    assert all(path.stat().st_size > 3900 for path in paths[:-1])
    heads = [unpacked(path)[0] for path in paths]
    assert [head["segment"] for _, _, head in heads] == list(range(len(paths)))
    assert [head["sequence"] for _, _, head in heads] == [number for number, _, _ in heads]
    assert len({head["run_id"] for _, _, head in heads}) == 1
    reader = LedgerReader(tmp_path)
    assert list(reader) == records
    assert reader.sequence == len(records) + len(paths)
    assert reader.bytes_read == reader.total_bytes == sum(path.stat().st_size for path in paths)


async def test_a_record_that_no_reader_takes_is_not_written(tmp_path: Path) -> None:
    file = LedgerFile.create(tmp_path)
    with pytest.raises(ValueError, match="more than"):
        file.append(RunOpened(run="r" * MAX_RECORD_BYTES, seed=0, rule=""))
    await file.close()
    assert read(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
async def test_a_full_disk_ends_the_run_with_a_clear_message(tmp_path: Path) -> None:
    """/dev/full takes an open and refuses every write with ENOSPC, as a full disk does."""
    file = LedgerFile.create(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file._descriptor or 0)
    os.close(full)
    file.append(StepTrained(version=1, group_ids=()))
    with pytest.raises(RunFailed, match=r"000000\.msgpack cannot be written: the disk is full"):
        await file.flush()
    with pytest.raises(RunFailed, match="the disk is full"):
        await file.close()
    file.abandon()


def test_nothing_is_written_after_a_write_that_failed_half_way(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's: what fits is written, then the write fails."""
    script = """
import asyncio, resource, signal, sys
from pathlib import Path
from darts_async.algorithms.ledger_records import StepTrained
from darts_async.errors import RunFailed
from darts_async.runtime.ledger_file import LedgerFile

async def main():
    file = LedgerFile.create(Path(sys.argv[1]))
    file.append(StepTrained(version=1, group_ids=()))
    await file.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for version in range(2, 4):
        file.append(StepTrained(version=version, group_ids=tuple(range(5000))))
        try:
            await file.sync()
        except RunFailed as failed:
            print(failed)
    file.abandon()

asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.count("cannot be written: File too large") == 2, done.stderr
    reader = LedgerReader(tmp_path)
    assert list(reader) == [StepTrained(version=1, group_ids=())]
    assert reader.torn_bytes == 0


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file, not a folder")
    with pytest.raises(RunFailed, match=r"ledger/000000\.msgpack cannot be written"):
        LedgerFile.create(tmp_path / "ledger")


async def test_writing_after_the_close_is_an_error(tmp_path: Path) -> None:
    file = LedgerFile.create(tmp_path)
    await file.close()
    file.append(StepTrained(version=1, group_ids=()))
    with pytest.raises(RunFailed, match="closed"):
        await file.flush()


async def test_a_flush_that_is_cancelled_is_still_done_before_the_next(tmp_path: Path) -> None:
    file = LedgerFile.create(tmp_path, segment_bytes=1 << 16)
    for version in range(50):
        file.append(StepTrained(version=version, group_ids=tuple(range(5000))))
        flushing = asyncio.create_task(file.sync())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    await file.close()
    assert [record.version for record in read(tmp_path) if isinstance(record, StepTrained)] == list(range(50))


async def test_the_writer_is_seen_while_it_lives_and_has_no_rival(tmp_path: Path) -> None:
    assert not LedgerLock.is_taken(tmp_path)
    file = LedgerFile.create(tmp_path)
    assert LedgerLock.is_taken(tmp_path) and LedgerReader(tmp_path).live
    with pytest.raises(RunFailed, match="another process writes it"):
        LedgerFile.reopen(tmp_path)
    await file.close()
    assert not LedgerLock.is_taken(tmp_path)
    LedgerFile.reopen(tmp_path).abandon()


# --- the end of the file --------------------------------------------------------------------------------------------


async def test_a_ledger_goes_on_where_it_was_cut_off_at_every_byte(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records: list[LedgerRecord] = [OPENED, ended(0), StepTrained(version=1, group_ids=(7,))]
    await write(tmp_path, records)
    whole = (tmp_path / "000000.msgpack").read_bytes()
    borders = [0, *ends(tmp_path)]
    for size in range(len(whole) + 1):
        folder = tmp_path / f"cut-{size}"
        folder.mkdir()
        (folder / "000000.msgpack").write_bytes(whole[:size])
        kept = max(index for index, border in enumerate(borders) if border <= size)
        torn = size - borders[kept]
        before = records[: max(kept - 1, 0)]  # the head is no record of the run
        reader = LedgerReader(folder)
        assert (list(reader), reader.torn_bytes) == (before, torn)
        if torn > 1 and size % 9:
            continue  # every reopening is several syncs
        caplog.clear()
        visited: list[LedgerRecord] = []
        with caplog.at_level(logging.WARNING):
            file = LedgerFile.reopen(folder, visited.append)
        assert visited == before
        assert (f"{torn} bytes of a record" in caplog.text) == (torn > 0)
        file.append(ended(9))
        await file.close()
        again: list[LedgerRecord] = [RunReopened(cut_bytes=torn)] if before else []
        assert read(folder) == [*before, *again, ended(9)]
        # A second time nothing is torn, and the numbers go on.
        file = LedgerFile.reopen(folder)
        assert file.sequence == kept + 2 + len(again) + 2
        await file.close()
        assert read(folder)[-1] == RunReopened(cut_bytes=0)


def test_a_writer_that_is_killed_leaves_what_it_said_it_wrote(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from darts_async.algorithms.ledger_records import StepTrained
from darts_async.runtime.ledger_file import LedgerFile

async def main():
    file = LedgerFile.create(Path(sys.argv[1]), segment_bytes=1 << 18)
    for version in range(1 << 30):
        file.append(StepTrained(version=version, group_ids=tuple(range(version % 20000))))
        await file.flush()
        print(version, flush=True)

asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(300)]
        assert LedgerLock.is_taken(tmp_path)
        writer.kill()
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
    versions: list[int] = []
    LedgerFile.reopen(tmp_path, lambda r: versions.append(r.version) if isinstance(r, StepTrained) else None).abandon()
    assert versions == list(range(len(versions)))
    assert len(said) <= len(versions) <= len(said) + 1


async def test_a_wrong_length_near_the_end_is_damage_and_nothing_is_cut(tmp_path: Path) -> None:
    """The record claims to be longer than the file: it looks unfinished, but intact ones stand behind its head."""
    await write(tmp_path, [OPENED, *map(ended, range(3))])
    path = tmp_path / "000000.msgpack"
    data = bytearray(path.read_bytes())
    border = ends(tmp_path)[-3]
    at = next(at for at in range(border + 7, border + 12) if data[at] == 0xC4)  # a binary: its length is the next byte
    data[at + 1] = 255
    path.write_bytes(data)
    with pytest.raises(LedgerDamaged, match=f"byte {border}: what stands there is no record"):
        read(tmp_path)
    with pytest.raises(LedgerDamaged, match="nor the beginning of one"):
        LedgerFile.reopen(tmp_path)
    assert path.read_bytes() == bytes(data)
    assert not LedgerLock.is_taken(tmp_path)


async def test_what_is_being_written_is_no_damage_while_it_is(tmp_path: Path) -> None:
    await write(tmp_path, [OPENED, ended(0)])
    whole = (tmp_path / "000000.msgpack").read_bytes()
    (tmp_path / "000000.msgpack").write_bytes(whole[:-3])
    reader = LedgerReader(tmp_path, live=True)
    assert list(reader) == [OPENED]
    assert reader.torn_bytes == len(whole) - 3 - ends(tmp_path)[-1]


async def test_reading_while_it_is_written_gives_a_beginning_of_it(tmp_path: Path) -> None:
    file = LedgerFile.create(tmp_path, segment_bytes=2048)
    expected: list[LedgerRecord] = []
    seen = []
    for number in range(200):
        expected.append(ended(number))
        file.append(expected[-1])
        if number % 10 == 9:
            writing = asyncio.create_task(file.flush())
            found = await asyncio.to_thread(read, tmp_path, live=True)
            assert found == expected[: len(found)]
            seen.append(len(found))
            await writing
    await file.close()
    assert seen == sorted(seen) and seen[-1] > 100
    assert read(tmp_path) == expected


# --- damage ---------------------------------------------------------------------------------------------------------


async def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Damage, or an end that is torn off; and what is given before it is what was written."""
    records: list[LedgerRecord] = [OPENED, ended(0), StepTrained(version=1, group_ids=(0, 1))]
    await write(tmp_path, records)
    path = tmp_path / "000000.msgpack"
    whole = path.read_bytes()
    last = ends(tmp_path)[-2]
    torn = 0
    for bit in range(8 * len(whole)):
        with path.open("r+b") as file:  # in place: writing it anew each time is slow on some file systems
            file.write(whole)
            file.seek(bit // 8)
            file.write(bytes([whole[bit // 8] ^ 1 << bit % 8]))
        reader = LedgerReader(tmp_path)
        found: list[LedgerRecord] = []
        damaged = None
        try:
            found.extend(reader)
        except LedgerDamaged as error:
            damaged = error
        if damaged is None:
            assert reader.torn_bytes == len(whole) - last  # only in the last record can it look like that
            torn += 1
        else:
            assert damaged.offset <= bit // 8
        assert found == records[: len(found)]
        assert len(found) < len(records)
    assert 0 < torn < 16


@pytest.mark.parametrize("what", ["dropped", "doubled", "swapped"])
async def test_records_out_of_place_are_noticed(tmp_path: Path, what: str) -> None:
    await write(tmp_path, [OPENED, *map(ended, range(6))])
    path = tmp_path / "000000.msgpack"
    whole, borders = path.read_bytes(), [0, *ends(tmp_path)]
    frames = [whole[start:end] for start, end in pairwise(borders)]
    for place in range(2, len(frames) - 1):
        changed = list(frames)
        if what == "dropped":
            del changed[place]
        elif what == "doubled":
            changed.insert(place, changed[place])
        else:
            changed[place], changed[place + 1] = changed[place + 1], changed[place]
        path.write_bytes(b"".join(changed))
        with pytest.raises(LedgerDamaged, match="missing, doubled or swapped"):
            read(tmp_path)


async def test_segments_that_are_missing_swapped_alien_or_cut_are_named(tmp_path: Path) -> None:
    for run in ("ours", "theirs"):
        await write(tmp_path / run, [OPENED, *map(ended, range(100))], segment_bytes=1024)
    ours = tmp_path / "ours"
    files = {path: path.read_bytes() for path in sorted(ours.glob("*.msgpack"))}
    _, second, third, *_ = files

    def restore() -> None:
        for path, data in files.items():
            path.write_bytes(data)

    second.unlink()
    with pytest.raises(LedgerDamaged, match=r"000002\.msgpack, byte 0: segment 1 is missing before it"):
        read(ours)
    restore()
    second.write_bytes(files[third])
    with pytest.raises(LedgerDamaged, match=r"000001\.msgpack, byte 0: record .* missing, doubled or swapped"):
        read(ours)
    restore()
    second.write_bytes((tmp_path / "theirs" / "000001.msgpack").read_bytes())
    with pytest.raises(LedgerDamaged, match=r"000001\.msgpack, byte 0: it is segment 1 of ledger .*, not 1 of "):
        read(ours)
    restore()
    second.write_bytes(files[second][:-1])
    with pytest.raises(LedgerDamaged, match=r"000001\.msgpack, byte \d+: the segment ends in the middle of a record"):
        read(ours)
    restore()
    second.write_bytes(b"")
    with pytest.raises(LedgerDamaged, match=r"000001\.msgpack, byte 0: the segment is empty"):
        read(ours)
    restore()
    assert len(read(ours)) == 101


@pytest.mark.parametrize(
    "junk",
    [
        msgpack.packb({"kind": "open", "format": 1}),  # the first version of this format
        b"\xc1",  # never used in MessagePack
        b"\x00" * 64,
        b"\x91" * 5000,  # nested for ever
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\xc6\xff\xff\xff\xff",  # a binary of four billion bytes
        msgpack.packb([0, 0, "text"]),
        os.urandom(1 << 20),
    ],
)
async def test_what_is_no_ledger_is_refused_in_bounded_memory(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "000000.msgpack").write_bytes(junk + b"\x00" * 64)
    with pytest.raises(LedgerDamaged, match="byte 0"):
        read(tmp_path)
