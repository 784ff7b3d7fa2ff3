"""Tasks made of somebody's data: `jsonl`, `parquet` and `dataset`. Each row is a prompt with its answer.

The rows are read once into a book (`book`), which all processes share. What scores a response is `verifier`, or, if
there are any, the functions of `[[reward.functions]]`. Rows that cannot be used are skipped and told, up to
`max_bad_rows`; a prompt that was there before is left out and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from darts_async.errors import ConfigError
from darts_async.tasks.bad_rows import BadRows
from darts_async.tasks.base import Prompt
from darts_async.tasks.book import Book, BookPrompts
from darts_async.tasks.book_cache import open_book
from darts_async.tasks.book_writer import BookWriter
from darts_async.tasks.columns import BadRow, Columns, Item, parse_template
from darts_async.tasks.files import Row, find_files, json_rows
from darts_async.tasks.params import read_params
from darts_async.tasks.rewards import Reward, load_builtin
from darts_async.tasks.tables import dataset_rows, parquet_rows

__all__ = ["DATA_TASKS", "DataParams", "DatasetParams", "OwnData", "Source", "write_book"]

HELD_OUT_FRACTION: Final = 0.05

Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class DataParams(msgspec.Struct, frozen=True, kw_only=True):
    """`[task.params]` of `jsonl` and `parquet`."""

    path: str | list[str]
    """File, several, a pattern (`data/*.jsonl`) or a folder."""
    prompt: str = "prompt"
    """Column of the prompt: a text, or a conversation that ends with the user's message."""
    answer: str = "answer"
    """Column of the reference answer. Empty: there is none, and the reward functions need none."""
    id: str = ""
    """Column of the prompt's id. Empty: it follows from the text."""
    stratum: str = ""
    """Column of the difficulty class, if there is one: what is known of a class helps to allot candidates."""
    keep: list[str] = []
    """Further columns, for your reward functions: `prompt.extra["name"]`."""
    system: str = ""
    """System prompt, for rows without one."""
    template: str = "{prompt}"
    """The user's message; `{column}` stands for a column's text."""
    held_out: str | list[str] = ""
    """File or files of the held-out prompts. Empty: a fraction of the rows."""
    held_out_fraction: Share = HELD_OUT_FRACTION
    """Share of the prompts that is held out, chosen by a hash of their text; at least one, unless it is 0."""
    verifier: str = "exact_match"
    """What scores a response where there are no `[[reward.functions]]`: a built-in reward function."""
    max_bad_rows: NotNegative | None = None
    """Most rows that may be unusable: a number, or below 1 a share. Unset: 10 or 1 %, whichever is more."""


class DatasetParams(DataParams, frozen=True, kw_only=True):
    """`[task.params]` of `dataset`; `path` is one folder or file."""

    path: str
    split: str = "train"
    """Split of the training prompts."""
    held_out: str = ""
    """Folder or file of the held-out prompts. Empty: `path`."""
    held_out_split: str = ""
    """Split of the held-out prompts, of `held_out` if that is set, else of `path`."""


@dataclass(frozen=True, slots=True)
class Source:
    """Rows from one place, in order, each with its number there."""

    rows: Callable[[], Iterator[tuple[int, Row]]]
    held_out: bool
    name: str
    unit: str = ":"
    """Between the name and the number, for people."""


class OwnData:
    """Prompts in a book, scored by a built-in verifier."""

    def __init__(self, name: str, book: Book, verifier: Reward) -> None:
        self.name = name
        self.notes = book.info.notes
        self._book = book
        self._verifier = verifier

    def train_prompts(self) -> BookPrompts:
        """All that are not held out, in the order of the data."""
        return self._book.prompts(held_out=False)

    def held_out_prompts(self) -> BookPrompts:
        """Those of the file or split that was named, or those whose text says so."""
        return self._book.prompts(held_out=True)

    def find(self, prompt_id: str) -> Prompt:
        """Return a prompt by its id. Raises `KeyError`."""
        return self._book.prompt(self._book.number_of(prompt_id))

    def prepare(self) -> None:
        """Have the verifier load what it needs."""
        prepare = getattr(self._verifier, "prepare", None)
        if prepare is not None:
            prepare()

    def reward(self, prompt: Prompt, response: str) -> float:
        """Score a response with the task's verifier."""
        return self._verifier(prompt, response)


def write_book(
    folder: Path,
    sources: Sequence[Source],
    read: Callable[[Mapping[str, Any]], Item],
    held_out_fraction: float,
    max_bad_rows: float | None,
) -> None:
    """Write the rows of all sources into a book. Raises `ConfigError` when too many of them cannot be used.

    read: makes an item of a row, or raises `BadRow`.
    """
    bad = BadRows()
    # The held-out ones first: of two equal prompts the first counts.
    ordered = sorted(enumerate(sources), key=lambda entry: not entry[1].held_out)

    def where(source: int, place: int) -> str:
        return f"{sources[source].name}{sources[source].unit}{place}"

    with BookWriter(folder) as writer:
        for number, source in ordered:
            for place, row in source.rows():
                bad.num_rows += 1
                try:
                    if isinstance(row, BadRow):
                        raise row
                    item = read(row)
                except BadRow as why:
                    bad.skip(where(number, place), str(why))
                else:
                    writer.add(item, held_out=source.held_out, source=number, place=place)
        own_held_out = any(source.held_out for source in sources)
        info = writer.finish(where, bad, 0.0 if own_held_out else held_out_fraction)
    bad.check(max_bad_rows)
    if not info.num_prompts:
        raise ConfigError("task.params.path", sources[0].name, "holds no row", "Give a file with prompts.")


def columns_of(params: DataParams) -> Columns:
    """Return the columns that parameters name. Raises `ConfigError`."""
    return Columns(
        prompt=params.prompt,
        answer=params.answer,
        id=params.id,
        stratum=params.stratum,
        keep=tuple(params.keep),
        system=params.system,
        template=parse_template("task.params.template", params.template),
    )


def _jsonl(params: Mapping[str, object]) -> OwnData:
    given = read_params("task.params", params, DataParams)
    return _from_files("jsonl", given, (".jsonl", ".ndjson", ".json"), lambda path, _, key: json_rows(path, key), ":")


def _parquet(params: Mapping[str, object]) -> OwnData:
    given = read_params("task.params", params, DataParams)
    return _from_files("parquet", given, (".parquet",), parquet_rows, ", row ")


def _from_files(
    name: str,
    params: DataParams,
    suffixes: Sequence[str],
    read: Callable[[Path, Sequence[str], str], Iterator[tuple[int, Any]]],
    unit: str,
) -> OwnData:
    verifier = load_builtin("task.params.verifier", params.verifier, {})
    columns = columns_of(params)
    files = [(path, False) for path in find_files("task.params.path", params.path, suffixes)]
    if params.held_out:
        files += [(path, True) for path in find_files("task.params.held_out", params.held_out, suffixes)]
    sources = [
        Source(
            partial(read, path, columns.names, "task.params.held_out" if held_out else "task.params.path"),
            held_out,
            str(path),
            unit,
        )
        for path, held_out in files
    ]
    made_from = {"task": name, **_what_matters(params), "held_out_files": sum(held_out for _, held_out in files)}

    def write(folder: Path) -> None:
        write_book(folder, sources, columns.item, params.held_out_fraction, params.max_bad_rows)

    return OwnData(name, open_book(made_from, [path for path, _ in files], write), verifier)


def _dataset(params: Mapping[str, object]) -> OwnData:
    given = read_params("task.params", params, DatasetParams)
    verifier = load_builtin("task.params.verifier", given.verifier, {})
    columns = columns_of(given)
    splits = [(given.path, given.split, False)]
    if given.held_out or given.held_out_split:
        splits.append((given.held_out or given.path, given.held_out_split or given.split, True))
    if len({split[:2] for split in splits}) < len(splits):
        raise ConfigError(
            "task.params.held_out_split", given.held_out_split, "is what is trained on", "Name another split."
        )
    sources = [
        Source(
            partial(dataset_rows, path, split, columns.names, "task.params.path"),
            held_out,
            f"{path}, split {split}",
            ", row ",
        )
        for path, split, held_out in splits
    ]

    def write(folder: Path) -> None:
        write_book(folder, sources, columns.item, given.held_out_fraction, given.max_bad_rows)

    files = [file for path, _, _ in splits for file in _files_of(Path(path).expanduser())]
    return OwnData("dataset", open_book({"task": "dataset", **_what_matters(given)}, files, write), verifier)


def _files_of(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place][: place.exists()]


def _what_matters(params: DataParams) -> dict[str, Any]:
    values = msgspec.structs.asdict(params)
    values.pop("verifier")
    return values


DATA_TASKS: Final[Mapping[str, Callable[[Mapping[str, object]], OwnData]]] = {
    "jsonl": _jsonl,
    "parquet": _parquet,
    "dataset": _dataset,
}
