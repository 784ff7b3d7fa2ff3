"""Who may read private files, and that a planted link leads nowhere. (Keys: `runtime/test_run_keys.py`.)"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from darts_async.durable import partial_of, replace_file
from darts_async.metrics import JsonlWriter
from darts_async.owned_files import (
    links_outside,
    make_private_folder,
    open_log,
    read_private,
    remove_folder,
    write_private,
)


@pytest.fixture(params=[0o000, 0o077, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("any_umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "f")
    write_private(tmp_path / "f" / "x", b"secret")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "f" / "x").stat().st_mode) == 0o600
    assert read_private(tmp_path / "f" / "x") == b"secret"


def test_a_name_that_is_taken_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("there", "link", "dangling"):
        with pytest.raises(FileExistsError):
            write_private(tmp_path / name, b"x")
        with pytest.raises(FileExistsError):
            make_private_folder(tmp_path / name)
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_what_others_may_touch_is_not_believed(tmp_path: Path, mode: int) -> None:
    write_private(tmp_path / "x", b"secret")
    (tmp_path / "x").chmod(mode)
    with pytest.raises(PermissionError, match="chmod 600"):
        read_private(tmp_path / "x")


def test_a_private_file_is_not_read_through_a_link(tmp_path: Path) -> None:
    write_private(tmp_path / "x", b"secret")
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(OSError, match="symbolic link"):
        read_private(tmp_path / "link")


def test_logs_and_metrics_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "log").symlink_to("victim")
    for write in (open_log, JsonlWriter):
        with pytest.raises(OSError, match="symbolic link"):
            write(tmp_path / "log")
    assert (tmp_path / "victim").read_text() == "mine"
    with os.fdopen(open_log(tmp_path / "real"), "ab") as log:
        log.write(b"a")
    with os.fdopen(open_log(tmp_path / "real"), "ab") as log:
        log.write(b"b")
    assert (tmp_path / "real").read_bytes() == b"ab"


def test_removing_a_folder_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "treasure").write_text("keep")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "way out").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(tmp_path / "outside")
    for name in ("folder", "alias", "absent"):
        remove_folder(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside" / "treasure").read_text() == "keep"


def test_links_that_lead_out_are_found_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "logs").mkdir(parents=True)
    (root / "logs" / "a.log").write_text("")
    (root / "inside").symlink_to("logs/a.log")
    assert links_outside(root) == []
    (root / "checkpoints").symlink_to(tmp_path)
    (root / "logs" / "up").symlink_to("../../elsewhere")  # leads nowhere yet
    (root / "logs" / "beside").symlink_to(tmp_path / "run-2")
    assert links_outside(root) == [root / "checkpoints", root / "logs" / "beside", root / "logs" / "up"]
    # The folder itself may be reached by a link.
    (tmp_path / "alias").symlink_to(root)
    assert len(links_outside(tmp_path / "alias")) == 3


def test_what_is_replaced_is_not_written_through_a_link(tmp_path: Path) -> None:
    """`durable` writes beside the file first, under a name that can be guessed."""
    (tmp_path / "victim").write_text("mine")
    target = tmp_path / "best.json"
    for planted in (target, partial_of(target)):
        planted.symlink_to("victim")
    replace_file(target, b"new")
    assert target.read_text() == "new" and not target.is_symlink()
    assert (tmp_path / "victim").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "victim"]
