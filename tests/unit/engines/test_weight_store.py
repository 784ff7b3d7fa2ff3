"""Retention of published weight versions."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from darts_async.engines.weight_store import MOST_KEPT, WeightStore


def _publish(store: WeightStore, *versions: int) -> None:
    store.folder.mkdir(parents=True, exist_ok=True)
    for version in versions:
        store.path_of(version).write_bytes(b"")


def test_names_and_order(tmp_path: Path) -> None:
    store = WeightStore(tmp_path / "weights", replicas=1)
    assert store.versions() == [] and store.prune() == []
    _publish(store, 10, 9, 1_000_000)
    assert store.path_of(9).name == "v000009.safetensors"
    assert store.versions() == [9, 10, 1_000_000]


def test_nothing_goes_before_every_replica_has_confirmed(tmp_path: Path) -> None:
    store = WeightStore(tmp_path, replicas=2)
    _publish(store, 1, 2, 3)
    store.confirm(0, 3)
    assert store.prune() == []
    store.confirm(1, 2)
    assert store.prune() == [1]
    store.confirm(1, 1)  # late news
    assert store.prune() == [] and store.versions() == [2, 3]
    store.confirm(1, 3)
    assert store.prune() == [2] and store.versions() == [3]


def test_a_replica_that_lags_holds_back_so_many_and_what_is_evaluated(tmp_path: Path) -> None:
    store = WeightStore(tmp_path, replicas=1)
    store.awaited(4)  # it joined, and confirms nothing
    _publish(store, *range(1, MOST_KEPT + 5))
    store.confirm(0, MOST_KEPT + 4)
    assert store.prune(evaluated=[2]) == [1, 3, 4]
    assert store.versions() == [2, *range(5, MOST_KEPT + 5)] and store.gone_through == -1
    store.confirm(4, 7)
    assert store.prune() == [2, 5, 6] and store.gone_through == 6
    store.lost(4)
    store.confirm(4, 9)  # what a lost one still says counts for nothing
    assert store.prune() == list(range(7, MOST_KEPT + 4)) and store.versions() == [MOST_KEPT + 4]


def test_clear_removes_versions_and_halves_and_nothing_else(tmp_path: Path) -> None:
    store = WeightStore(tmp_path, replicas=1)
    _publish(store, 1)
    (tmp_path / ".v000002.safetensors.partial").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("mine")
    store.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    WeightStore(tmp_path / "missing", replicas=1).clear()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=30), st.integers(1, 12))
def test_what_a_replica_may_still_load_exists(confirmations: list[tuple[int, int]], latest: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = WeightStore(Path(folder), replicas=3)
        _publish(store, *range(1, latest + 1))
        serving = {0: 0, 1: 0, 2: 0}
        for replica, seen in confirmations:
            version = min(seen, latest)
            store.confirm(replica, version)
            store.prune()
            serving[replica] = max(serving[replica], version)
            needed = range(max(1, min(serving.values())), latest + 1)
            assert set(needed) <= set(store.versions())
