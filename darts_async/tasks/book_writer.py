"""Writing a book: rows as they come, duplicates found at the end, held-out prompts set apart.

Rows stream to the file; what stays in memory is some 40 bytes a row, in arrays. Of prompts with the same text the first
one counts, and those of the held-out set come first: what is evaluated on is never trained on.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np

from darts_async.tasks.bad_rows import BadRows
from darts_async.tasks.book import BOOK_FORMAT, INDEX, BookInfo, Record, content_digest, id_digest
from darts_async.tasks.columns import Item

__all__ = ["BookWriter"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_MAX_NAME: Final = 120
_MAX_SHOWN: Final = 3


class BookWriter:
    """A book in the making. Use as a context manager; `finish` makes it one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / "rows.bin").open("wb")
        self._encode = msgspec.msgpack.Encoder().encode
        self._offset = 0
        self._strata: dict[str, int] = {}
        self._offsets, self._sizes, self._strata_of = array("Q"), array("I"), array("I")
        self._contents, self._ids, self._answers = array("Q"), array("Q"), array("q")
        self._held_out, self._named = array("b"), array("b")
        self._places, self._sources = array("Q"), array("I")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, item: Item, *, held_out: bool, source: int, place: int) -> None:
        """Write a row. source, place: which file it came from, and its line or row there."""
        name = _safe(item.name) if item.name else ""
        body = self._encode(Record(item.content, item.answer, name, item.before, item.extra, item.origin))
        digest = content_digest(item.content, item.before)
        self._file.write(body)
        self._offsets.append(self._offset)
        self._sizes.append(len(body))
        self._offset += len(body)
        self._strata_of.append(self._strata.setdefault(item.stratum, len(self._strata)))
        self._contents.append(digest)
        self._ids.append(id_digest(name) if name else digest)
        self._answers.append(hash(item.answer))
        self._held_out.append(held_out)
        self._named.append(bool(name))
        self._places.append(place)
        self._sources.append(source)

    def finish(self, where: Callable[[int, int], str], bad: BadRows, held_out_fraction: float) -> BookInfo:
        """Leave duplicates out, hold prompts out, write the index. `where`: (source, place) to words."""
        self._file.flush()
        contents, ids = _numbers(self._contents), _numbers(self._ids)
        held_out = np.frombuffer(self._held_out, dtype=np.bool_).copy() if self._held_out else np.empty(0, np.bool_)
        first, clashes = _first_and_clashes(contents, ids)
        fresh = first == np.arange(len(contents))
        for row in clashes.tolist():
            bad.skip(where(self._sources[row], self._places[row]), "its id was used before, for another prompt")
        notes = self._duplicates(np.flatnonzero((first >= 0) & ~fresh), first, held_out, where)
        index = np.empty(len(contents), INDEX)
        for name, values in (
            ("digest", ids),
            ("offset", _numbers(self._offsets)),
            ("size", _numbers(self._sizes)),
            ("stratum", _numbers(self._strata_of)),
            ("named", _numbers(self._named)),
        ):
            index[name] = values
        index["held_out"] = held_out if held_out.any() else _chosen(contents, fresh, held_out_fraction)
        index = index[fresh]
        np.save(self._folder / "index.npy", index, allow_pickle=False)
        if bad.sentence:
            notes.insert(0, bad.sentence)
        info = BookInfo(BOOK_FORMAT, len(index), tuple(self._strata), tuple(notes))
        (self._folder / "book.json").write_bytes(msgspec.json.encode(info))
        return info

    def _duplicates(
        self, repeated: np.ndarray, first: np.ndarray, held_out: np.ndarray, where: Callable[[int, int], str]
    ) -> list[str]:
        if not len(repeated):
            return []
        answers = _numbers(self._answers)
        differing = repeated[answers[repeated] != answers[first[repeated]]]
        leaking = repeated[held_out[first[repeated]] & ~held_out[repeated]]

        def shown(rows: np.ndarray) -> str:
            places = [
                f"{where(self._sources[row], self._places[row])} (first: "
                f"{where(self._sources[first[row]], self._places[first[row]])})"
                for row in rows[:_MAX_SHOWN].tolist()
            ]
            return "; ".join(places) + (f"; and {len(rows) - _MAX_SHOWN} more" if len(rows) > _MAX_SHOWN else "")

        notes = [f"{len(repeated)} prompts came before and count once: {shown(repeated)}"]
        if len(differing):
            notes.append(f"{len(differing)} of them have another answer than the first: {shown(differing)}")
        if len(leaking):
            notes.append(f"{len(leaking)} of them are in the held-out set, and not trained on")
        return notes


def _numbers(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, dtype=np.dtype(values.typecode)) if values else np.empty(0, np.dtype(values.typecode))


def _first_of(values: np.ndarray) -> np.ndarray:
    """For each element the place of the first one that is equal."""
    if not len(values):
        return np.empty(0, np.int64)
    _, firsts, inverse = np.unique(values, return_index=True, return_inverse=True)
    found: np.ndarray = firsts[inverse]
    return found


def _first_and_clashes(contents: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first one with its text, -1 if its id is an earlier one's with another text; and the latter."""
    usable = np.ones(len(contents), np.bool_)
    while True:
        rows = np.flatnonzero(usable)
        first = np.full(len(contents), -1, np.int64)
        first[rows] = rows[_first_of(contents[rows])]
        fresh = np.flatnonzero(first == np.arange(len(contents)))
        clashes = fresh[_first_of(ids[fresh]) != np.arange(len(fresh))]
        if not len(clashes):
            return first, np.flatnonzero(~usable)
        usable[clashes] = False  # the next one with that text may take its place


def _chosen(contents: np.ndarray, fresh: np.ndarray, fraction: float) -> np.ndarray:
    """Which prompts are held out: those whose text says so, whatever the other rows are; at least one, never all."""
    if not fraction or fresh.sum() < 2:
        return np.zeros(len(contents), np.bool_)
    chosen: np.ndarray = contents < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if not (chosen & fresh).any():
        rows = np.flatnonzero(fresh)
        chosen = chosen.copy()
        chosen[rows[np.argmin(contents[rows])]] = True
    elif chosen[fresh].all():
        rows = np.flatnonzero(fresh)
        chosen[rows[np.argmax(contents[rows])]] = False
    return chosen


def _safe(name: str) -> str:
    """An id as it may stand in file names; one that may not keeps a mark of what it was."""
    if len(name) <= _MAX_NAME and not _UNSAFE.search(name) and not name.startswith("p-"):
        return name
    mark = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
    return f"{_UNSAFE.sub('_', name)[: _MAX_NAME - 13]}-{mark}"
