"""The spool on disk: what was synced is read back, whatever a crash or a bad disk did to the end of the file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.finished_step import FinishedStep
from darts_async.errors import RunFailed
from darts_async.messages import TrainGroup, VersionSpan, candidate_id
from darts_async.runtime.spool import Chunk, Refused, Spool, SpooledStep
from darts_async.runtime.spool_frames import pack_record, read_records
from darts_async.runtime.step_journal import StepJournal


def _group(group_id: int, tokens: int = 3) -> TrainGroup:
    return TrainGroup(
        group_id=group_id,
        prompt_id="p",
        step=0,
        prompt_tokens=np.arange(2, dtype=np.int32),
        candidate_ids=(candidate_id(group_id, 0),),
        lengths=np.array([tokens], np.int32),
        response_tokens=np.arange(group_id, group_id + tokens, dtype=np.int32),
        behaviour_logprobs=np.full(tokens, -0.1 * group_id, np.float32),
        version_spans=((VersionSpan(0, 0),),),
        rewards=np.ones(1, np.float32),
        baseline_rewards=np.ones(1, np.float32),
        baseline_lengths=np.array([tokens], np.int32),
        capped=(False,),
    )


def _ids(step: SpooledStep) -> tuple[list[list[int]], list[int], list[int]]:
    return (
        [[group.group_id for group in chunk] for chunk in step.chunks],
        [group.group_id for group in step.waiting],
        step.refused,
    )


def _step(version: int) -> FinishedStep:
    return FinishedStep(
        version=version,
        group_ids=(version,),
        num_responses=1,
        tokens=2,
        reward=0.5,
        staleness_tokens=0,
        staleness_max=0,
        wait_s=0.0,
        elapsed_s=float(version),
        publish_ms=1.0,
        skipped=False,
        num_swept=0,
        ended_by="",
        values={"learner/loss": 0.1 * version},
    )


@given(st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=5))
def test_frames_come_back_and_every_torn_tail_is_seen(messages: list[list[bytes]]) -> None:
    records = [pack_record(number, frames) for number, frames in enumerate(messages)]
    ends = [0]
    for record in records:
        ends.append(ends[-1] + len(record))
    data = b"".join(records)
    for size in range(len(data) + 1):
        found = list(read_records(data[:size]))
        whole = sum(end <= size for end in ends) - 1
        assert [end for end, _ in found] == ends[1 : whole + 1]
        assert [[bytes(frame) for frame in frames] for _, frames in found] == messages[:whole]


def test_a_flipped_bit_ends_the_file_before_its_record() -> None:
    records = [pack_record(number, [b"head", bytes(range(20 * number, 20 * number + 20))]) for number in range(3)]
    data = b"".join(records)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        hit = min(number for number in range(3) if bit // 8 < sum(map(len, records[: number + 1])))
        assert len(list(read_records(bytes(damaged)))) == hit


def test_records_of_another_place_are_not_taken() -> None:
    first, second = pack_record(0, [b"a"]), pack_record(1, [b"b"])
    assert not list(read_records(second))
    assert len(list(read_records(first + first))) == 1
    assert len(list(read_records(first + second))) == 2
    with pytest.raises(ValueError, match="65 frames"):
        pack_record(0, [b""] * 65)


async def test_what_was_synced_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    groups = [_group(number, tokens=number + 1) for number in range(4)]
    spool.put(7, groups[0], groups[1])
    spool.put(7, Chunk(num_groups=2), Refused(group_id=9))
    await spool.sync()
    spool.put(7, groups[2], Chunk(num_groups=1), groups[3])
    await spool.sync()
    spool.close()
    again = Spool(tmp_path / "spool")
    assert again.steps() == [7]
    step = again.read(7)
    assert _ids(step) == ([[0, 1], [2]], [3], [9]) and step.num_trained == 3
    for before, after in zip(groups, step.groups, strict=True):
        assert before.response_tokens.tobytes() == after.response_tokens.tobytes()
        assert before.behaviour_logprobs.tobytes() == after.behaviour_logprobs.tobytes()
        assert after.response_tokens.flags.aligned
    again.put(7, Chunk(num_groups=1))
    await again.sync()
    again.close()
    assert _ids(Spool(tmp_path / "spool").read(7)) == ([[0, 1], [2], [3]], [], [9])


async def test_a_torn_tail_is_cut_at_every_byte_and_written_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(0, _group(0), Chunk(num_groups=1))
    await spool.sync()
    path = tmp_path / "step_0.spool"
    whole = path.read_bytes()
    spool.put(0, _group(1))
    await spool.sync()
    spool.close()
    longer = path.read_bytes()
    for size in range(len(whole), len(longer)):
        path.write_bytes(longer[:size])
        again = Spool(tmp_path)
        assert _ids(again.read(0)) == ([[0]], [], [])
        assert path.read_bytes() == whole
        if size % 50 == 0:
            again.put(0, _group(5))
            await again.sync()
            assert _ids(Spool(tmp_path).read(0)) == ([[0]], [5], [])
        again.close()


async def test_pruning_keeps_what_no_checkpoint_covers(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for step in range(5):
        spool.put(step, _group(step))
        await spool.sync()
    (tmp_path / "notes.txt").touch()
    spool.prune(3)
    assert spool.steps() == [3, 4]
    spool.put(4, _group(9))
    await spool.sync()
    assert _ids(spool.read(4)) == ([], [4, 9], [])
    spool.drop_from(4)
    assert spool.steps() == [3]
    spool.put(4, _group(10))  # begun anew
    await spool.sync()
    assert _ids(spool.read(4)) == ([], [10], [])
    spool.clear()
    assert spool.steps() == []
    spool.close()


async def test_groups_that_are_over_are_taken_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(
        2, _group(0), _group(1), Chunk(num_groups=2), _group(2), Chunk(num_groups=1), _group(3), Refused(group_id=8)
    )
    await spool.sync()
    left = spool.read(2).without(frozenset({1, 2}))
    assert _ids(left) == ([[0]], [3], [8])
    await spool.replace(2, left)
    spool.put(2, Chunk(num_groups=1))
    await spool.sync()
    spool.close()
    assert _ids(Spool(tmp_path).read(2)) == ([[0], [3]], [], [8])


async def test_a_chunk_of_groups_that_are_not_there_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(0, Chunk(num_groups=1))
    await spool.sync()
    with pytest.raises(RunFailed, match="a chunk of 1 of 0 groups"):
        spool.read(0)
    spool.close()


async def test_a_disk_that_is_full_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file")  # a folder cannot be made of it
    spool.put(0, _group(0))
    with pytest.raises(RunFailed, match="cannot be written"):
        await spool.sync()
    spool.close()


async def test_the_journal_goes_on_behind_its_last_whole_step(tmp_path: Path) -> None:
    journal = StepJournal(tmp_path)
    for version in (1, 2, 3):
        await journal.append(_step(version))
    journal.close()
    path = tmp_path / "steps.journal"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - random.Random(0).randrange(1, len(data) // 3)])
    again = StepJournal(tmp_path)
    seen: list[FinishedStep] = []
    again.read(seen.append)
    assert [(step.version, step.group_ids, step.values) for step in seen] == [
        (version, (version,), {"learner/loss": 0.1 * version}) for version in (1, 2)
    ]
    assert again.version == 2
    await again.append(_step(3))
    again.close()
    more: list[int] = []
    StepJournal(tmp_path).read(lambda step: more.append(step.version))
    assert more == [1, 2, 3]


async def test_a_journal_with_a_gap_is_refused(tmp_path: Path) -> None:
    journal = StepJournal(tmp_path)
    await journal.append(_step(2))
    journal.close()
    with pytest.raises(RunFailed, match="version 2 behind version 0"):
        StepJournal(tmp_path).read(lambda _: None)
