"""The folder of checkpoints: what stays on disk, and that `best.json` names something that is there."""

import json
from pathlib import Path

from darts_async.durable import replace_file, replace_folder
from darts_async.runtime.checkpoints import Checkpoints


def _make(checkpoints: Checkpoints, version: int) -> None:
    checkpoints.path_of(version).mkdir(parents=True)
    (checkpoints.path_of(version) / "model").touch()


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_the_best_is_named_and_stays(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for version, reward in ((2, 0.25), (4, 0.75), (6, 0.5)):
        _make(checkpoints, version)
        await checkpoints.written(version, periodic=version == 2, awaits_score=True)
        await checkpoints.scored(version, reward, 10.0 * version)
        best = json.loads((tmp_path / "best.json").read_text())
        assert checkpoints.path_of(best["step"]).is_dir()
    assert best == {"step": 4, "reward": 0.75, "response_length": 40.0}
    assert _left(tmp_path) == ["best.json", "step_2", "step_4"]
    _make(checkpoints, 7)
    await checkpoints.written(7, last=True)
    await checkpoints.ended()
    assert _left(tmp_path) == ["best.json", "step_2", "step_4", "step_7"]


async def test_without_a_score_there_is_no_best(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for version in (1, 2, 3):
        _make(checkpoints, version)
        await checkpoints.written(version, periodic=True)
    assert _left(tmp_path) == ["step_2", "step_3"]


def test_a_folder_takes_the_place_of_another_one(tmp_path: Path):
    for content in ("old", "new"):
        partial = tmp_path / ".x.partial" / "deep"
        partial.mkdir(parents=True)
        (partial / "file").write_text(content)
        replace_folder(tmp_path / ".x.partial", tmp_path / "x")
        assert _left(tmp_path) == ["x"]
        assert (tmp_path / "x" / "deep" / "file").read_text() == content


def test_a_file_that_cannot_be_replaced_is_as_it_was(tmp_path: Path):
    replace_file(tmp_path / "best.json", b"one")
    (tmp_path / "folder").mkdir()
    try:
        replace_file(tmp_path / "folder", b"two")
    except OSError:
        pass
    else:
        raise AssertionError("a folder was replaced by a file")
    replace_file(tmp_path / "best.json", b"three")
    assert (tmp_path / "best.json").read_bytes() == b"three"
    assert _left(tmp_path) == ["best.json", "folder"]
