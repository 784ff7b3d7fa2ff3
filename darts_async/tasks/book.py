"""A book of prompts: rows in one file, an index beside it, both mapped into memory by whoever needs them.

So a million prompts cost a process that uses few of them nearly nothing: pages of the index are shared by all
processes of the machine, a row is decoded when it is asked for. Invariants: ids are unique; a prompt without an id of
its own is named by its text, wherever it came from; no training prompt is held out. A book never changes once written.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, overload

import msgspec
import numpy as np

from darts_async.tasks.base import Prompt

__all__ = ["BOOK_FORMAT", "INDEX", "Book", "BookInfo", "BookPrompts", "Record", "content_digest", "id_digest"]

BOOK_FORMAT: Final = 1
"""Raised whenever the files change shape."""

INDEX: Final = np.dtype(
    [("digest", "<u8"), ("offset", "<u8"), ("size", "<u4"), ("stratum", "<u4"), ("held_out", "?"), ("named", "?")]
)
"""A prompt in the index. `digest`: of its id. `named`: its id is its own and stands in the row."""

_FROM_CONTENT = re.compile(r"p-([0-9a-f]{16})", re.ASCII)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A row of the book."""

    content: str
    answer: str
    name: str = ""
    before: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = {}
    origin: int = 0


class BookInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a book says of itself, in `book.json`."""

    format: int
    num_prompts: int
    strata: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Sentences that the user should see: rows left out, duplicates."""


def content_digest(content: str, before: Sequence[tuple[str, str]] = ()) -> int:
    """64 bits that name a prompt by what the policy is asked."""
    text = content if not before else "\0".join([*(part for turn in before for part in turn), content])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def id_digest(prompt_id: str) -> int:
    """What an id is looked up by: 64 bits, those of the content where the id is made of them."""
    found = _FROM_CONTENT.fullmatch(prompt_id)
    if found:
        return int(found[1], 16)
    return int.from_bytes(hashlib.blake2b(prompt_id.encode(), digest_size=8, person=b"prompt id").digest(), "big")


class Book:
    """An open book."""

    def __init__(self, folder: Path) -> None:
        """Map the files of a folder. Raises `ValueError` or `OSError` for one that is no book of this format."""
        self.folder = folder
        self.info = msgspec.json.decode((folder / "book.json").read_bytes(), type=BookInfo)
        if self.info.format != BOOK_FORMAT:
            raise ValueError(f"a book of format {self.info.format}")
        self._index = np.load(folder / "index.npy", mmap_mode="r", allow_pickle=False)
        if self._index.dtype != INDEX or self._index.shape != (self.info.num_prompts,):
            raise ValueError("the index is none of this book")
        self._rows: mmap.mmap | bytes = b""
        with (folder / "rows.bin").open("rb") as file:
            if self.info.num_prompts:
                self._rows = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._decoder = msgspec.msgpack.Decoder(Record)

    def __len__(self) -> int:
        return self.info.num_prompts

    def record(self, number: int) -> Record:
        """Return a row as it was written."""
        entry = self._index[number]
        begin = int(entry["offset"])
        return self._decoder.decode(self._rows[begin : begin + int(entry["size"])])

    def prompt(self, number: int) -> Prompt:
        """Return a row as a prompt."""
        row, entry = self.record(number), self._index[number]
        return Prompt(
            prompt_id=row.name or f"p-{int(entry['digest']):016x}",
            stratum=self.info.strata[int(entry["stratum"])],
            content=row.content,
            answer=row.answer,
            before=row.before,
            extra=row.extra,
        )

    def key(self, number: int) -> tuple[str, str]:
        """Id and stratum of a row, without decoding it where that is not needed."""
        entry = self._index[number]
        prompt_id = self.record(number).name if entry["named"] else f"p-{int(entry['digest']):016x}"
        return prompt_id, self.info.strata[int(entry["stratum"])]

    def number_of(self, prompt_id: str) -> int:
        """Where a prompt stands. Raises `KeyError`."""
        digests, order = self._by_digest
        wanted = id_digest(prompt_id)
        place = int(np.searchsorted(digests, np.uint64(wanted)))
        if place < len(digests) and int(digests[place]) == wanted:
            number = int(order[place])
            if self.key(number)[0] == prompt_id:
                return number
        raise KeyError(prompt_id)

    def prompts(self, *, held_out: bool) -> BookPrompts:
        """The prompts of a split, in the order of the data."""
        return BookPrompts(self, np.flatnonzero(self._index["held_out"] == held_out).astype(np.uint32))

    def remembered(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an array of int32 that was once computed for this book, or compute it and keep it with the book."""
        path = self.folder / f"{name}.npy"
        try:
            found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            found = make()
            keep_array(path, found)
        return found

    @cached_property
    def _by_digest(self) -> tuple[np.ndarray, np.ndarray]:
        digests = np.ascontiguousarray(self._index["digest"])
        order = np.argsort(digests, kind="stable").astype(np.uint32)
        return digests[order], order


class BookPrompts(Sequence[Prompt]):
    """Some prompts of a book, decoded when they are asked for."""

    def __init__(self, book: Book, numbers: np.ndarray) -> None:
        """numbers: uint32 [num], rows of the book."""
        self.book = book
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> BookPrompts: ...

    def __getitem__(self, index: int | slice) -> Prompt | BookPrompts:
        if isinstance(index, slice):
            return BookPrompts(self.book, self.numbers[index])
        return self.book.prompt(int(self.numbers[index]))

    def key(self, index: int) -> tuple[str, str]:
        """Id and stratum of a prompt."""
        return self.book.key(int(self.numbers[index]))


def keep_array(path: Path, array: np.ndarray) -> None:
    """Write an array so that a reader sees all of it or nothing; a folder that is gone or full keeps nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
