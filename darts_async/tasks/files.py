"""The files that a task reads: a path, several, a pattern or a folder; and rows of JSON Lines with line numbers."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from darts_async.errors import ConfigError
from darts_async.tasks.columns import BadRow

__all__ = ["MAX_LINE_BYTES", "Row", "find_files", "json_rows"]

MAX_LINE_BYTES: Final = 1 << 24

Row = dict[str, Any] | BadRow
"""What a line holds, or why it holds nothing."""


def find_files(key: str, given: str | Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Return the files that a setting names, folders searched and patterns followed. Raises `ConfigError`."""
    found: list[Path] = []
    for text in [given] if isinstance(given, str) else given:
        path = Path(text).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in suffixes)
        elif path.is_file():
            files = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(str(path)))]  # noqa: PTH207 - may be absolute
        if not files:
            what = f"there are no {' or '.join(suffixes)} files in" if path.is_dir() else "there is no file"
            raise ConfigError(
                key,
                text,
                f"{what} {path.absolute()}",
                "Mend the path: it counts from the folder the run is started in, then from the config's own.",
            )
        found += files
    if not found:
        raise ConfigError(key, given, "names no file", "Give a path.")
    return found


def json_rows(path: Path, key: str) -> Iterator[tuple[int, Row]]:
    """Read a file line by line, or one JSON array: (line, or number in the array, from 1 on; row).

    Empty lines are no rows. Raises `ConfigError` when the file cannot be read.
    """
    decode = msgspec.json.Decoder().decode
    try:
        with path.open("rb") as file:
            start = file.read(1)
            while start.isspace():
                start = file.read(1)
            file.seek(0)
            if start == b"[":
                yield from _array_rows(path, file.read(), key)
                return
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not text.isspace():
                    yield number, _row(text, decode)
    except OSError as error:
        raise ConfigError(key, str(path), f"cannot be read ({error.strerror or error})", "Check its rights.") from None


def _array_rows(path: Path, text: bytes, key: str) -> Iterator[tuple[int, Row]]:
    try:
        rows = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        rule = f"begins as a JSON array and is none ({error})"
        raise ConfigError(key, str(path), rule, "Write one JSON object a line, or mend the array.") from None
    for number, row in enumerate(rows, 1):
        yield number, row if isinstance(row, dict) else BadRow(f"a {type(row).__name__}, not an object")


def _row(line: bytes, decode: Callable[[bytes], Any]) -> Row:
    if len(line) > MAX_LINE_BYTES:
        return BadRow(f"a line of {len(line)} bytes (at most {MAX_LINE_BYTES})")
    try:
        row = decode(line)
    except UnicodeDecodeError:
        return BadRow("not UTF-8")
    except (msgspec.DecodeError, RecursionError) as error:
        return BadRow(f"not JSON ({error})")
    return row if isinstance(row, dict) else BadRow(f"a {type(row).__name__}, not an object")
