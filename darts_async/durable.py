"""Files and folders that survive a power cut: written beside, synced, renamed, and the rename synced.

Invariant: what has its final name is complete, also after a crash at any moment. A file system that lies about syncing
is not a case this serves.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["partial_of", "replace_file", "replace_folder", "write_anew"]


def partial_of(path: Path) -> Path:
    """Where to write what will become `path`: beside it, hidden."""
    return path.with_name(f".{path.name}.partial")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, or replace it. Raises `OSError`; then the old one is as it was."""
    partial = partial_of(path)
    try:
        write_anew(partial, content)
        _sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_anew(path: Path, content: bytes) -> None:
    """Write a file in the place of whatever has its name; of a symbolic link the link alone is replaced. `OSError`."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        file.write(content)


def replace_folder(partial: Path, folder: Path) -> None:
    """Give a finished folder, and everything in it, its final name. A folder that has the name is removed.

    Folders cannot be exchanged in one move: for a moment in between there is none of that name, never a torn one.
    """
    for root, _, names in os.walk(partial):
        for name in names:
            _sync(Path(root) / name)
        _sync(Path(root))
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
