"""Files that belong to this user and to one run: private ones, and what may be deleted or appended to.

Invariants: a private file or folder has its mode whatever the umask, from its first byte on; nothing here follows a
symbolic link where it writes or deletes, so that a link planted in a run's folder leads nowhere.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

__all__ = ["links_outside", "make_private_folder", "open_log", "read_private", "remove_folder", "write_private"]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(path: Path) -> None:
    """Make a folder that this user alone may enter. Raises `OSError` (`FileExistsError` if the name is taken)."""
    path.mkdir(mode=0o700)
    path.chmod(0o700)  # a umask may have taken the owner's own rights


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that this user alone may read. Raises `OSError` (`FileExistsError` if the name is taken)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content)


def read_private(path: Path, max_bytes: int = 1 << 16) -> bytes:
    """Return a private file's content. Raises `OSError`, `PermissionError` when others may read or write it too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_mode & _OTHERS or status.st_uid != os.geteuid():
            raise PermissionError(f"{path} must belong to this user and be readable by nobody else (chmod 600)")
        return file.read(max_bytes)


def open_log(path: Path) -> int:
    """Open a file for appending, made when missing; the caller closes the descriptor. `OSError`, also for a link."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it, as far as that goes. Of a symbolic link the link alone is removed."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)  # follows no links below either


def links_outside(folder: Path) -> list[Path]:
    """Return the symbolic links in a folder, at any depth, that lead out of it (or nowhere), sorted."""
    root = folder.resolve()
    found = []
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                found.append(path)
    return sorted(found)
