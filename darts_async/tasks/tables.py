"""Rows of Parquet files and of Hugging Face data sets on disk. The libraries are imported when a file is read.

Must never reach for the network: data is a folder or a file that is here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from darts_async.errors import ConfigError

__all__ = ["dataset_rows", "need", "parquet_rows"]

_BATCH: Final = 1024


def need(module: str, key: str, value: object) -> None:
    """Raise `ConfigError` unless a library of the extra `tasks` is installed."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            key, value, f"needs the package `{module.replace('_', '-')}`", 'Run: pip install "darts-async[tasks]"'
        )


def parquet_rows(path: Path, columns: Sequence[str], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a file: (row, from 1 on; its columns). Raises `ConfigError` when it cannot be read."""
    need("pyarrow", key, str(path))
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415 - late: it takes a while
    from pyarrow.lib import ArrowException  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            wanted = [name for name in _tops(columns, names) if name in names]
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError) as error:
        raise ConfigError(key, str(path), f"cannot be read as Parquet ({error})", "Check the file.") from None


def dataset_rows(path: str, split: str, columns: Sequence[str], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a split of a data set on disk: a folder of `save_to_disk`, or one with data files of a known format.

    Raises `ConfigError` when it cannot be read, or has no such split.
    """
    need("datasets", key, path)
    data = _load(path, split, key)
    names = set(data.column_names)
    wanted = [name for name in _tops(columns, names) if name in names]
    number = 0
    for batch in data.select_columns(wanted).iter(batch_size=_BATCH) if wanted else ():
        for values in zip(*(batch[name] for name in wanted), strict=True):
            number += 1
            yield number, dict(zip(wanted, values, strict=True))


def _load(path: str, split: str, key: str) -> Any:
    import datasets  # type: ignore[import-untyped]  # noqa: PLC0415 - late: it takes a while

    place = Path(path).expanduser()
    if not place.exists():
        raise ConfigError(
            key, path, f"there is no folder or file {place.absolute()}", "Mend the path; data sets are read from disk."
        )
    datasets.disable_progress_bars()
    try:
        if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
            found = datasets.load_from_disk(str(place))
        elif place.is_dir():
            found = datasets.load_dataset(str(place))
        else:
            found = datasets.load_dataset(place.suffix.lstrip(".").replace("jsonl", "json"), data_files=str(place))
    except Exception as error:  # noqa: BLE001 - the library raises what its readers raise
        rule = f"cannot be read as a data set ({type(error).__name__}: {str(error)[:300]})"
        raise ConfigError(key, path, rule, "Save it with `save_to_disk`, or use the tasks jsonl or parquet.") from None
    if not isinstance(found, dict):
        return found
    if split not in found:
        raise ConfigError(
            "task.params.split", split, f"{path} has no such split (it has {', '.join(found)})", "Choose one of those."
        )
    return found[split]


def _tops(columns: Sequence[str], names: set[str]) -> list[str]:
    """Columns to read for these names: themselves, or of nested ones what they are nested in."""
    return list(dict.fromkeys(name if name in names else name.partition(".")[0] for name in columns))
