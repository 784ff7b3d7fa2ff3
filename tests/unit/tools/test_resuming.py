"""The judge of killed runs sees what it is there for: draws trained twice, passed over, lost, and other choices."""

import asyncio
import importlib
from pathlib import Path

import pytest

from darts_async.algorithms.ledger_records import GroupEnded, GroupPlanned, GroupReleased, KeptCandidate, StepTrained
from darts_async.config.paths import RunPaths
from darts_async.messages import candidate_id
from darts_async.runtime.ledger_file import LedgerFile

_TOOLS = Path(__file__).resolve().parents[3] / "tools"


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(_TOOLS))
    return importlib.import_module("resuming.story")


def _group(group_id: int, draw: int, outcome: str = "trained", *, index: int = 1) -> list:
    one = candidate_id(group_id, index)
    records: list = [
        GroupPlanned(
            group_id=group_id,
            draw=draw,
            prompt_id=f"p{draw}",
            rule="shortest",
            group_size=1,
            keep_longest=0,
            candidate_ids=(candidate_id(group_id, 0), one),
            dispatch_version=0,
        )
    ]
    if outcome == "trained":
        kept = (KeptCandidate(one, 7, 0.5),)
        records.append(GroupReleased(group_id=group_id, step=0, kept=kept, lengths=()))
    return [*records, GroupEnded(group_id=group_id, outcome=outcome)]  # type: ignore[arg-type] # one of the literals


def _read(story, folder: Path, *records):
    async def write() -> None:
        file = LedgerFile.create(RunPaths(folder).ledger)
        for record in records:
            file.append(record)
        await file.close()

    asyncio.run(write())
    return story.read_story(folder)


def _steps(*groups: list, size: int = 1) -> list:
    """Each of these groups trained, `size` a step."""
    records, ids = [], []
    for group in groups:
        records += group
        ids += [group[0].group_id] if group[-1].outcome == "trained" else []
        if len(ids) == size:
            version = sum(isinstance(record, StepTrained) for record in records) + 1
            records.append(StepTrained(version=version, group_ids=tuple(ids)))
            ids = []
    return records


def test_a_draw_that_starts_again_and_is_trained_once_is_fine(story, tmp_path: Path):
    unbroken = _read(story, tmp_path / "a", *_steps(_group(0, 0), _group(1, 1)))
    broken = _read(story, tmp_path / "b", *_steps(_group(0, 0), _group(1, 1, "rejected"), _group(9, 1)))
    assert story.problems(broken, steps=2, groups_per_step=1) == []
    assert (broken.redone, broken.trained) == (1, {0: 1, 1: 1})
    assert story.differences(broken, unbroken) == []


def test_what_is_wrong_with_a_story(story, tmp_path: Path):
    twice = _read(story, tmp_path / "a", *_steps(_group(0, 0), _group(1, 0)))
    assert story.problems(twice, steps=2, groups_per_step=1) == ["draws [0] were trained more than once"]
    gap = _read(story, tmp_path / "b", *_steps(_group(0, 0), _group(1, 2)))
    assert story.problems(gap, steps=2, groups_per_step=1) == ["draws [1] were never planned, later ones were"]
    lost = _read(story, tmp_path / "c", *_steps(_group(0, 0, "cancelled"), *(_group(n, n) for n in range(1, 7))))
    assert "draws [0] were planned and never trained" in story.problems(lost, steps=6, groups_per_step=1)[0]
    short = _read(story, tmp_path / "d", *_steps(_group(0, 0)))
    assert story.problems(short, steps=2, groups_per_step=2) == [
        "versions [1] were made, not 1 to 2",
        "versions [1] were not made of 2 groups",
    ]


def test_runs_that_trained_on_something_else(story, tmp_path: Path):
    one = _read(story, tmp_path / "a", *_steps(_group(0, 0), _group(1, 1)))
    swapped = _read(story, tmp_path / "b", *_steps(_group(0, 1), _group(1, 0)))
    other = _read(story, tmp_path / "c", *_steps(_group(0, 0, index=0), _group(1, 1)))
    assert len(story.differences(one, swapped)) == 2
    (found,) = story.differences(one, other)
    assert "(1, 7, 0.5)" in found and "(0, 7, 0.5)" in found
