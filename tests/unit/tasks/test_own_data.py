"""Tasks of somebody's data: bad rows are told and bounded, what is held out is never trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from darts_async.config import load_config
from darts_async.errors import ConfigError
from darts_async.tasks import Task, load_task, prompt_set
from darts_async.tasks.own_data import OwnData


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, rows: Sequence[Any]) -> None:
    Path(path).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def rows(num: int, begin: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"a{i}", "answer": i} for i in range(begin, begin + num)]


def own(name: str = "jsonl", **params: Any) -> OwnData:
    task: Task = load_task(name, {"path": "data.jsonl", "held_out_fraction": 0, **params})
    assert isinstance(task, OwnData)
    return task


def refused(name: str = "jsonl", **params: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        own(name, **params)
    return caught.value


FIVE_BAD = ["{oops", {"prompt": "x"}, [1], {"prompt": "", "answer": 1}, b"\xff"]


def with_five_bad_rows() -> None:
    lines = [json.dumps(row).encode() for row in rows(20)]
    for place, bad in zip((3, 6, 9, 12, 15), FIVE_BAD, strict=True):
        lines[place] = bad if isinstance(bad, bytes) else (bad if isinstance(bad, str) else json.dumps(bad)).encode()
    Path("data.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(lines))


def test_five_bad_rows_are_skipped_and_told_with_their_lines() -> None:
    with_five_bad_rows()
    task = own()
    assert [prompt.answer for prompt in task.train_prompts()] == [
        str(i) for i in range(20) if i not in (3, 6, 9, 12, 15)
    ]
    (note,) = task.notes
    assert note.startswith("5 of 20 rows cannot be used: ")
    for line in (7, 13, 19, 25, 31):
        assert f"data.jsonl:{line}: " in note


@pytest.mark.parametrize(("bound", "passes"), [(5, True), (4, False), (0, False), (0.25, True), (0.2, False)])
def test_bad_rows_have_a_bound(bound: float, passes: bool) -> None:
    with_five_bad_rows()
    if passes:
        assert len(own(max_bad_rows=bound).train_prompts()) == 15
        return
    error = refused(max_bad_rows=bound)
    assert error.key == "task.params.max_bad_rows" and "data.jsonl:7: not JSON" in error.rule


def test_by_default_ten_rows_or_one_in_a_hundred() -> None:
    write("data.jsonl", [*rows(3000), *["{"] * 30])
    assert len(own().train_prompts()) == 3000
    write("data.jsonl", [*rows(3000), *["{"] * 31])
    assert "more than the default of 10 rows or 1 %: 31 of 3031 rows" in refused().rule
    write("data.jsonl", [*rows(20), *["{"] * 11])
    assert "data.jsonl:21, data.jsonl:22, " in refused().rule


def test_a_wrong_column_is_named_once_with_those_there_are() -> None:
    write("data.jsonl", rows(40))
    rule = refused(prompt="question").rule
    assert rule.count("no column `question` (it has prompt, answer)") == 1 and "and 35 more" in rule


def test_own_held_out_file_is_never_trained_on() -> None:
    write("data.jsonl", rows(10))
    write("test.jsonl", rows(4, begin=8))
    task = own(held_out="test.jsonl")
    assert [prompt.content for prompt in task.held_out_prompts()] == ["a8", "a9", "a10", "a11"]
    assert [prompt.content for prompt in task.train_prompts()] == [f"a{i}" for i in range(8)]
    assert "2 of them are in the held-out set, and not trained on" in task.notes


def test_several_files_an_array_and_the_columns_for_rewards(folder: Path) -> None:
    (folder / "data").mkdir()
    write("data/one.jsonl", [{"prompt": "a", "answer": "1", "unit": {"kg": 2}, "level": 3}])
    (folder / "data" / "two.json").write_text(json.dumps([{"prompt": "b", "answer": "2", "unit": None, "level": "x"}]))
    for path in ("data", ["data/one.jsonl", "data/two.json"], "data/*.json*"):
        task = own(path=path, keep=["unit"], stratum="level")
        got = [(p.content, p.stratum, p.extra) for p in task.train_prompts()]
        assert got == [("a", "3", {"unit": {"kg": 2}}), ("b", "x", {"unit": None})]
    assert task.find(task.train_prompts()[1].prompt_id).answer == "2"
    assert (task.reward(task.train_prompts()[1], " 2\n"), task.reward(task.train_prompts()[1], "12")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"path": "absent.jsonl"}, "task.params.path"),
        ({"path": []}, "task.params.path"),
        ({"held_out": "absent.jsonl"}, "task.params.held_out"),
        ({"pth": "x"}, "task.params.pth"),
        ({"held_out_fraction": 1.0}, "task.params.held_out_fraction"),
        ({"max_bad_rows": -1}, "task.params.max_bad_rows"),
        ({"prompt": 3}, "task.params.prompt"),
        ({"verifier": "exactmatch"}, "task.params.verifier"),
        ({"template": "x"}, "task.params.template"),
        ({"path": "empty.jsonl"}, "task.params.path"),
        ({"path": "array.jsonl"}, "task.params.path"),
    ],
)
def test_what_is_refused(params: dict[str, Any], key: str) -> None:
    write("data.jsonl", rows(2))
    write("empty.jsonl", [])
    write("array.jsonl", ["[1,"])
    assert refused(**params).key == key


def test_a_missing_path_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"task\.params\.path"):
        load_task("jsonl", {})


def test_parquet_rows_are_told_by_number() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    truth = [{"truth": str(i)} if i != 4 else None for i in range(3000)]
    table = pa.table({"q": [f"a{i}" for i in range(3000)], "reward": truth, "unused": ["x" * 50] * 3000})
    pq.write_table(table, "data.parquet")
    task = own("parquet", path="data.parquet", prompt="q", answer="reward.truth")
    assert len(task.train_prompts()) == 2999 and task.train_prompts()[2998].answer == "2999"
    assert "data.parquet, row 5: no column `reward.truth`" in task.notes[0]
    Path("data.parquet").write_text("no parquet")
    assert "cannot be read as Parquet" in refused("parquet", path="data.parquet").rule


@pytest.mark.long
def test_data_sets_on_disk_by_split() -> None:
    import datasets

    def part(num: int, begin: int) -> datasets.Dataset:
        return datasets.Dataset.from_list(rows(num, begin))

    datasets.DatasetDict({"train": part(6, 0), "test": part(3, 5)}).save_to_disk("saved")
    task = own("dataset", path="saved", held_out_split="test")
    assert [prompt.answer for prompt in task.held_out_prompts()] == ["5", "6", "7"]
    assert [prompt.answer for prompt in task.train_prompts()] == ["0", "1", "2", "3", "4"]
    assert "has no such split (it has train, test)" in refused("dataset", path="saved", split="dev").rule
    assert refused("dataset", path="saved", held_out_split="train").key == "task.params.held_out_split"
    part(4, 0).save_to_disk("one")
    assert len(own("dataset", path="one").train_prompts()) == 4
    Path("files").mkdir()
    write("files/train.jsonl", rows(5))
    assert len(own("dataset", path="files").train_prompts()) == 5
    assert "there is no folder or file" in refused("dataset", path="absent").rule


def test_a_large_set_is_rendered_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    write("data.jsonl", [{"prompt": "a1" + "+1" * (i % 40), "answer": "1", "id": f"n{i}"} for i in range(80)])
    sets = []
    for at_once in (4096, 4):
        monkeypatch.setattr(prompt_set, "RENDERED_AT_ONCE", at_once)
        params = [("path", "data.jsonl"), ("id", '"id"')]
        overrides = [("task.name", "jsonl"), ("model.max_prompt_tokens", "40"), ("eval.prompts", "3")]
        config = load_config(None, [*overrides, *((f"task.params.{key}", value) for key, value in params)])
        sets.append(prompt_set.load_prompts(config))
    now, later = sets
    assert isinstance(later.train, prompt_set.RenderedPrompts) and isinstance(now.train, tuple)
    assert now.num_skipped == later.num_skipped > 0 and len(now.train) == len(later.train) > 0
    for index, prompt in enumerate(later.train):
        assert prompt.tokens.tolist() == now.train[index].tokens.tolist()
        assert later.train_key(index) == now.train_key(index) == (prompt.prompt_id, prompt.stratum)
    assert [prompt.prompt_id for prompt in later.train[1:3]] == [prompt.prompt_id for prompt in now.train[1:3]]
