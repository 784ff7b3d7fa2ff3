"""The reference of the config names every knob, with unit, range and default, tables within tables included."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from darts_async.config import Config
from darts_async.tasks.rewards import BUILT_IN

_TOOL = Path(__file__).resolve().parents[3] / "tools" / "write_config_reference.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_config_reference", _TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(tool: ModuleType) -> dict[str, dict[str, list[str]]]:
    """Cells by title and key."""
    found: dict[str, dict[str, list[str]]] = {}
    title = ""
    for line in tool.reference().splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
            assert title not in found
            found[title] = {}
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
            found[title][cells[0].strip("`")] = cells[1:]
    return found


def _tables(model: Any, path: str = "") -> dict[str, list[str]]:
    """Every table of a model, nested ones included, with its keys; read from the types, not from the JSON schema."""
    found: dict[str, list[str]] = {}
    for name, field in model.model_fields.items():
        kind, is_list = field.annotation, False
        while getattr(kind, "__args__", None) and not isinstance(kind, type):
            is_list, kind = True, kind.__args__[0]
        if getattr(kind, "__origin__", None) is list:
            is_list, kind = True, kind.__args__[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            where = f"{path}.{name}" if path else name
            found[f"[[{where}]]" if is_list else f"[{where}]"] = list(kind.model_fields)
            found |= _tables(kind, where)
    return found


def test_every_key_of_every_table_is_listed(rows: dict[str, dict[str, list[str]]]) -> None:
    tables = _tables(Config)
    assert {"[run]", "[learner]", "[[learner.shadow]]", "[[reward.functions]]"} <= tables.keys()
    assert {title: list(cells) for title, cells in rows.items() if title.startswith("[")} == tables


def test_every_key_has_a_range_a_default_and_a_meaning(rows: dict[str, dict[str, list[str]]]) -> None:
    for title, table in rows.items():
        for key, cells in table.items():
            if title != "chain_arithmetic":  # its keys speak for themselves
                span, default, meaning = cells[-3:]
                assert span and default and len(meaning) > 10, (title, key)


@pytest.mark.parametrize(
    ("title", "key", "wanted"),
    [
        ("[run]", "steps", ["steps", "≥ 1", "`40`"]),
        ("[run]", "max_wall_s", ["s", "> 0", "unset"]),
        ("[group]", "size", ["candidates", "2 to 256", "`8`"]),
        ("[allocation]", "budget", ["candidates", "≥ 1, or `auto`", "unset"]),
        ("[pipeline]", "mode", ["", "`sync`, `stream`, `one_step_off`, `async`", '`"async"`']),
        ("[learner]", "mask_truncated", ["", "`true`, `false`", "`false`"]),
        ("[learner]", "correction", ["", "text, or list of text", '`"tis"`']),
        ("[[learner.shadow]]", "loss", ["", "text", '`"ppo_clip"`']),
        ("[[reward.functions]]", "name", ["", "text", "must be given"]),
        ("[launch]", "silence_s", ["s", "> 0, ≤ 86,400", "`60.0`"]),
        ("chain_arithmetic", "max_operands", ["2 to 8", "`8`"]),
        ("length", "target", ["whole", "must be given"]),
    ],
)
def test_cells(rows: dict[str, dict[str, list[str]]], title: str, key: str, wanted: list[str]) -> None:
    assert rows[title][key][: len(wanted)] == wanted


def test_the_built_in_reward_functions_are_there(rows: dict[str, dict[str, list[str]]]) -> None:
    assert rows.keys() >= BUILT_IN.keys()
