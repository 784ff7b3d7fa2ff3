"""The lock of a run folder: one start at a time, and none before everything of the last one is gone."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from darts_async.launcher.run_lock import RunIsAlive, RunLock

_LAUNCHER = """
import os, subprocess, sys
from pathlib import Path
from darts_async.launcher.run_lock import RunLock
lock = RunLock.take(Path(sys.argv[1]))
role = subprocess.Popen(
    [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"],
    pass_fds=(lock.descriptor,), start_new_session=True, stdin=subprocess.DEVNULL)
lock.started(role.pid)
lock.bound(Path(sys.argv[2]))
print(role.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def launcher(tmp_path: Path):
    """A launcher with one role, which has a child of its own that does not hold the lock."""
    (tmp_path / "darts-sockets").mkdir(mode=0o700)
    command = [sys.executable, "-c", _LAUNCHER, str(tmp_path), str(tmp_path / "darts-sockets")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    process.role = int(process.stdout.readline())  # type: ignore[attr-defined]
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.role, signal.SIGKILL)  # type: ignore[attr-defined]


def _take_over(folder: Path, timeout_s: float, notes: list[str]) -> RunLock:
    return asyncio.run(RunLock.take_over(folder, timeout_s, notes.append))


def test_it_is_taken_once_and_free_when_it_is_released(tmp_path: Path):
    lock = RunLock.take(tmp_path)
    with pytest.raises(RunIsAlive) as caught:
        RunLock.take(tmp_path)
    assert caught.value.launcher_lives
    assert str(caught.value) == f"its launcher (process {os.getpid()}) is running"
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    lock.release()
    lock.release()
    again = RunLock.take(tmp_path)
    assert again.last is not None and again.last.launcher[0] == os.getpid()
    again.release()


def test_a_run_whose_launcher_lives_is_not_waited_for(tmp_path: Path, launcher):
    notes: list[str] = []
    with pytest.raises(RunIsAlive, match=rf"its launcher \(process {launcher.pid}\) is running"):
        _take_over(tmp_path, 60, notes)
    assert notes == []


def test_what_a_killed_launcher_has_left_keeps_the_lock_until_it_is_gone(tmp_path: Path, launcher):
    launcher.kill()
    launcher.wait()
    notes: list[str] = []
    with pytest.raises(RunIsAlive, match="processes of its last start are still there") as caught:
        _take_over(tmp_path, 0.2, notes)
    assert not caught.value.launcher_lives
    assert str(launcher.role) in str(caught.value)
    assert len(notes) == 1 and notes[0].startswith("waiting up to 0.2 s: ")
    # The role ends and lets go of the lock; its child, which never had it, is waited for too.
    os.kill(launcher.role, signal.SIGKILL)
    with pytest.raises(RunIsAlive, match="processes of its last start are still there"):
        _take_over(tmp_path, 0.2, [])

    async def both() -> RunLock:
        waiting = asyncio.create_task(RunLock.take_over(tmp_path, 10, notes.append))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        os.killpg(launcher.role, signal.SIGKILL)
        return await waiting

    lock = asyncio.run(both())
    assert (tmp_path / "darts-sockets").is_dir()
    lock.clear_sockets()
    assert not (tmp_path / "darts-sockets").exists()
    lock.release()


def test_only_a_private_socket_folder_is_removed(tmp_path: Path):
    kept = [tmp_path / "darts-open", tmp_path / "home"]
    for folder, mode in zip(kept, (0o755, 0o700), strict=True):
        folder.mkdir()
        folder.chmod(mode)
    (tmp_path / "darts-link").symlink_to(kept[1])
    for path in (*kept, tmp_path / "darts-link"):
        lock = RunLock.take(tmp_path)
        lock.bound(path)
        lock.release()
        lock = RunLock.take(tmp_path)
        lock.clear_sockets()
        lock.release()
    assert all(folder.is_dir() for folder in kept)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"launcher":[0,""]}', b"\xff" * 100])
def test_a_file_that_says_nonsense_says_nothing(tmp_path: Path, content: bytes):
    (tmp_path / "lock").write_bytes(content)
    lock = _take_over(tmp_path, 0, [])
    assert lock.last is None
    lock.release()


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        RunLock.take(tmp_path)
    assert (tmp_path / "victim").read_text() == "mine"
