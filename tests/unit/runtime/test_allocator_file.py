"""The allocator's state on disk: what is written comes back, older files go, other files are refused."""

from pathlib import Path

import pytest

from darts_async.errors import ProtocolError
from darts_async.runtime.allocator_file import (
    load_allocator_state,
    prune_allocator_states,
    save_allocator_state,
    state_file,
)


def test_round_trip_and_retention(tmp_path: Path):
    folder = tmp_path / "allocator"
    state = {"version": 3, "statistics": {"prompts": {"a": [0.1, 1e300, -2.5, 4.0]}, "all": [1, 0.25]}}
    for version in (1, 2, 3):
        save_allocator_state(folder, version, state)
    assert load_allocator_state(folder, 3) == state
    assert prune_allocator_states(folder, [1, 2, 3], keep=2) == [2, 3]
    assert sorted(path.name for path in folder.iterdir()) == ["step_2.msgpack", "step_3.msgpack"]


def test_anything_else_is_refused(tmp_path: Path):
    for content in (b"", b"\xc1", b"\x93\x01\x02\x03"):
        state_file(tmp_path, 1).write_bytes(content)
        with pytest.raises(ProtocolError, match="step_1"):
            load_allocator_state(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        load_allocator_state(tmp_path, 2)
