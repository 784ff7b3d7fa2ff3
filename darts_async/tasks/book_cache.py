"""Where books of prompts are kept, so that what takes long to read is read once: by the first process that needs it.

A book is found again by what it was made from: the task's parameters and each file's path, size and time of change. One
that is made in no time is not kept. The folder is `$XDG_CACHE_HOME/darts-async/prompts`, by default under `~/.cache`;
where it cannot be written, books live in a temporary folder and are made by each process. Deleting it costs time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from darts_async.tasks.book import BOOK_FORMAT, Book

__all__ = ["cache_folder", "open_book"]

KEEP_FROM_S: Final = 0.5
"""A book that took at least this long to make is kept."""
MAX_KEPT: Final = 16
_STALE_S: Final = 86_400.0
_UNFINISHED: Final = "making-"


def cache_folder() -> Path:
    """Where books are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "darts-async" / "prompts"


def open_book(
    made_from: Mapping[str, Any] | None, files: Sequence[Path], write: Callable[[Path], None], *, keep: bool = False
) -> Book:
    """Return the book that was made from this, or have it written into a folder and open it.

    made_from: all parameters it depends on; None: never kept. keep: however fast it was made.
    """
    home = cache_folder()
    place = None if made_from is None else home / _key(made_from, files)
    if place is not None:
        book = _found(place)
        if book is not None:
            return book
    began = time.monotonic()
    folder = _new_folder(home)
    try:
        write(folder)
        book = Book(folder)
        if place is not None and (keep or time.monotonic() - began >= KEEP_FROM_S) and folder.parent == home:
            book = _kept(book, folder, place)
            with contextlib.suppress(OSError):  # another process makes room, too
                _make_room(home)
    finally:
        # What is mapped stays readable when its folder is gone.
        shutil.rmtree(folder, ignore_errors=True)
    return book


def _kept(book: Book, folder: Path, place: Path) -> Book:
    """Move a new book to where it is looked for. If another process was first, its book is the one for all."""
    try:
        folder.rename(place)
    except OSError:
        return _found(place) or book
    book.folder = place
    return book


def _found(place: Path) -> Book | None:
    try:
        book = Book(place)
        os.utime(place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError):  # damaged: make it anew
        shutil.rmtree(place, ignore_errors=True)
        return None
    return book


def _key(made_from: Mapping[str, Any], files: Sequence[Path]) -> str:
    seen = []
    for path in files:
        stat = path.stat()
        seen.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    text = msgspec.json.encode([BOOK_FORMAT, made_from, seen], order="deterministic")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _new_folder(home: Path) -> Path:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=home))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="darts-async-prompts-"))


def _make_room(home: Path) -> None:
    """Remove the books that were not used for longest, and what a killed process has left."""
    aged = sorted(((folder.stat().st_mtime, folder) for folder in home.iterdir()), reverse=True)
    left = [folder for at, folder in aged if folder.name.startswith(_UNFINISHED) and time.time() - at > _STALE_S]
    books = [folder for _, folder in aged if not folder.name.startswith(_UNFINISHED)]
    for folder in [*left, *books[MAX_KEPT:]]:
        shutil.rmtree(folder, ignore_errors=True)
