"""What the allocator knows, on disk: one MessagePack map per checkpoint, written whole or not at all.

Must never be read with anything that runs code; a file that is not such a map is a `ProtocolError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from darts_async.durable import write_anew
from darts_async.errors import ProtocolError

__all__ = ["load_allocator_state", "prune_allocator_states", "save_allocator_state", "saved_versions", "state_file"]


def state_file(folder: Path, version: int) -> Path:
    """Where the state of a policy version is."""
    return folder / f"step_{version}.msgpack"


def save_allocator_state(folder: Path, version: int, state: dict[str, Any]) -> Path:
    """Write a state; return its file. The folder is made when missing."""
    path = state_file(folder, version)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    write_anew(partial, msgspec.msgpack.encode(state))
    partial.replace(path)
    return path


def load_allocator_state(folder: Path, version: int) -> dict[str, Any]:
    """Read a state back. Raises `ProtocolError` for a file that is none, `OSError` when it cannot be read."""
    path = state_file(folder, version)
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ProtocolError(f"{path} is not an allocator's state: {error}") from error


def saved_versions(folder: Path) -> list[int]:
    """The versions whose states are in a folder, in order; none if there is no folder."""
    names = (path.stem.removeprefix("step_") for path in folder.glob("step_*.msgpack"))
    return sorted(int(name) for name in names if name.isdecimal())


def prune_allocator_states(folder: Path, versions: list[int], keep: int) -> list[int]:
    """Remove all but the last `keep` of these versions' files; return the versions that are left."""
    num = max(len(versions) - keep, 0)
    for version in versions[:num]:
        state_file(folder, version).unlink(missing_ok=True)
    return versions[num:]
