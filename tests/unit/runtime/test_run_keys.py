"""The run's keys on disk: who may read them, and that a role gets what it needs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from darts_async.errors import RunFailed
from darts_async.messages import ROLES
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import LINKS, dealers, roles_that_connect


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("any_umask")
def test_nobody_else_can_read_the_keys_whatever_the_umask(tmp_path: Path) -> None:
    keys = RunKeys.create(tmp_path / "keys")
    assert _mode(keys.folder) == 0o700
    files = sorted(keys.folder.iterdir())
    assert [file.name for file in files] == sorted(
        f"{name}.{kind}" for name in ("server", *ROLES) for kind in ("public", "secret")
    )
    assert {_mode(file) for file in files} == {0o600}
    assert len({file.read_bytes() for file in files}) == len(files)


def test_keys_of_both_ends_fit(tmp_path: Path) -> None:
    keys = RunKeys.create(tmp_path / "keys")
    again = RunKeys(tmp_path / "keys")  # what a restarted role reads
    for link in LINKS:
        assert keys.serve(link).pair == again.serve(link).pair and keys.serve(link).domain == link
        members = {keys.connect(role).pair.public for role in roles_that_connect(link)}
        assert again.allowed((link,)) == {link: members} and members
        assert keys.connect("generator").server == keys.serve(link).pair.public
    assert keys.connect("generator").pair.public not in keys.allowed(("groups",))["groups"]


def test_each_start_of_a_run_has_its_own(tmp_path: Path) -> None:
    before = RunKeys.create(tmp_path / "keys").connect("learner")
    after = RunKeys.create(tmp_path / "keys").connect("learner")
    assert (before.pair, before.server) != (after.pair, after.server)
    RunKeys(tmp_path / "keys").remove()
    assert not (tmp_path / "keys").exists()


def test_a_link_in_the_place_of_the_folder_leads_nowhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "treasure").write_text("keep me")
    (tmp_path / "keys").symlink_to(elsewhere)
    RunKeys.create(tmp_path / "keys")
    assert not (tmp_path / "keys").is_symlink()
    assert [file.name for file in elsewhere.iterdir()] == ["treasure"]


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda path: path.chmod(0o640), "readable by nobody else"),
        (lambda path: path.write_bytes(b"x" * 39), "does not hold a key"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.symlink_to("server.public")), "symbolic links"),
    ],
    ids=["readable", "short", "missing", "link"],
)
def test_a_key_that_cannot_be_trusted_is_named(tmp_path: Path, spoil: object, rule: str) -> None:
    keys = RunKeys.create(tmp_path / "keys")
    spoil(keys.folder / "selector.secret")  # type: ignore[operator]
    with pytest.raises(RunFailed, match=rule) as caught:
        keys.connect("selector")
    assert "selector.secret" in str(caught.value)


def test_every_link_has_somebody_at_the_other_end() -> None:
    assert dealers("control", 2) == {"allocator-0", "generator-0", "generator-1", "learner-0", "selector-0"}
    assert dealers("policy", 1) == {"allocator-0", "generator-0"}
    assert all(roles_that_connect(link) for link in LINKS)
