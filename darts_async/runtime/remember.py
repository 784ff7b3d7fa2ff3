"""Reads the ledger into an allocator's recollection, up to a record and no further. Blocks: not for an event loop."""

from __future__ import annotations

from pathlib import Path

from darts_async.algorithms.recollection import Recollection
from darts_async.runtime.ledger_reader import LedgerReader

__all__ = ["remember"]


def remember(recollection: Recollection, folder: Path, ledger_records: int) -> None:
    """Feed it the records in front of record number `ledger_records` (heads of segments count). Raises `LedgerDamaged`
    when the ledger cannot be read; `OSError`."""
    if not ledger_records:
        return
    reader = LedgerReader(folder)
    for record in reader:
        if reader.sequence > ledger_records:
            return
        recollection.feed(record)
        if reader.sequence == ledger_records:
            return
