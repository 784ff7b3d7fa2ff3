"""Rewrite the reference part of `configs/README.md` from the code: of every key its unit, range, default and effect.

The keys of the schema, then the parameters of the built-in tasks and reward functions, which tables of the schema hold.

`--check` writes nothing and fails when the file is out of date.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic.fields import FieldInfo

from darts_async.config import Config
from darts_async.tasks import chain_arithmetic, own_data, reasoning
from darts_async.tasks.rewards import BUILT_IN

_MARK = "<!-- written by tools/write_config_reference.py from darts_async/config/schema.py -->"
_README = Path(__file__).resolve().parent.parent / "configs" / "README.md"
_Schema = Mapping[str, Any]

# Of numbers: the last word of a name is its unit, or stands for one.
_UNITS = {
    "s": "s",
    "ms": "ms",
    "mib": "MiB",
    "gib": "GiB",
    "bytes": "bytes",
    "tokens": "tokens",
    "groups": "groups",
    "steps": "steps",
    "prompts": "prompts",
    "samples": "samples",
    "restarts": "restarts",
    "threads": "threads",
    "processes": "processes",
    "workers": "processes",
    "replicas": "generators",
    "seqs": "candidates",
    "staleness": "versions",
    "fraction": "share",
    "ratio": "share",
}
# And those whose names are words of the field.
_UNITS_OF = {
    "allocation.budget": "candidates",
    "allocation.max": "candidates",
    "allocation.min": "candidates",
    "checkpoint.keep": "checkpoints",
    "generator.stream_interval": "tokens",
    "group.keep_longest": "candidates",
    "group.size": "candidates",
    "launch.join": "generators",
    "learner.shadow_every": "steps",
    "learner.updates_per_step": "updates",
    "metrics.sink_queue": "lines",
    "queues.min_chunk": "groups",
    "queues.trajectory_hwm": "messages",
}
_BOUNDS = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}


def reference() -> str:
    """Return the reference as Markdown: a table per section, and per table within one."""
    schema = Config.model_json_schema()
    parts = [_MARK]
    for name, section in schema["properties"].items():
        parts += _tables(name, f"[{name}]", schema, section, "###")
    parts += _parameters()
    return "\n".join(parts) + "\n"


def _parameters() -> Iterator[str]:
    """Of the built-in tasks and reward functions."""
    yield "\n## Parameters of the built-in tasks\nThey go into `[task.params]`.\n\n### chain_arithmetic"
    yield "Chains of one-digit sums, which the quickstart policy knows.\n\n| key | range | default |\n|---|---|---|"
    for name, (default, low, high) in chain_arithmetic.PARAMS.items():
        yield f"| `{name}` | {_number(low)} to {_number(high)} | `{default}` |"
    for title, struct in (
        ("jsonl, parquet", own_data.DataParams),
        ("dataset", own_data.DatasetParams),
        ("reasoning_gym", reasoning.Params),
    ):
        yield from _struct_table(title, struct)
    yield "\n## Parameters of the built-in reward functions\nThey go into `params` of a `[[reward.functions]]`."
    for name, function in sorted(BUILT_IN.items()):
        yield from _struct_table(name, function)


def _struct_table(title: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    """The fields of a struct. Its own documentation is left out where it only says what it is the parameters of."""
    schema = msgspec.json.schema(struct)["$defs"]
    texts = _texts(struct)
    about = " ".join((struct.__doc__ or "").split())
    yield f"\n### {title}\n{'' if about.startswith('`') else about}".rstrip()
    fields = msgspec.structs.fields(struct)
    if not fields:
        yield "(No parameters.)"
        return
    yield "\n| key | range | default | what it does |\n|---|---|---|---|"
    for field in fields:
        value = schema[struct.__name__]["properties"][field.name]
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        shown = "must be given" if field.required else _shown(default)
        yield f"| `{field.name}` | {_range({'$defs': schema}, value)} | {shown} | {texts.get(field.name, '')} |"


def _texts(struct: type) -> dict[str, str]:
    """What stands under the fields of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if base.__module__.startswith("darts_async."):
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(node, ast.ClassDef)
            for field, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    text = _text(below)
                    if text:
                        found[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return found


def _text(node: ast.stmt) -> str:
    """A statement that is nothing but a text."""
    value = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""
    return value if isinstance(value, str) else ""


def _tables(path: str, title: str, schema: _Schema, place: _Schema, level: str) -> Iterator[str]:
    """Of a section, then of the tables in it."""
    section = _model(schema, place)
    assert section is not None
    text = " ".join(section.get("description", "").split()).partition(": ")[2]
    yield f"\n{level} {title}\n{text[:1].upper()}{text[1:]}\n"
    yield "| key | unit | range | default | what it does |\n|---|---|---|---|---|"
    fields = _fields(path)
    below = []
    for key, value in section["properties"].items():
        where = f"{path}.{key}"
        meaning = " ".join(value.get("description", "").split()).replace("|", "\\|")
        yield f"| `{key}` | {_unit(where, value)} | {_range(schema, value)} | {_default(fields[key])} | {meaning} |"
        items = value.get("items", value)
        if _model(schema, items) is not None:
            below.append((where, f"[[{where}]]" if "items" in value else f"[{where}]", items))
    for where, inner_title, items in below:
        yield from _tables(where, inner_title, schema, items, level + "#")


def _model(schema: _Schema, place: _Schema) -> _Schema | None:
    """The table that a place refers to, if it does."""
    reference = place.get("$ref") or next((part["$ref"] for part in place.get("allOf", []) if "$ref" in part), None)
    return None if reference is None else schema["$defs"][reference.rpartition("/")[2]]


def _fields(path: str) -> Mapping[str, FieldInfo]:
    """The fields of a section, or of a table in it."""
    model: Any = Config
    for part in path.split("."):
        model = model.model_fields[part].annotation
        while not hasattr(model, "model_fields"):
            model = model.__args__[0]
    return model.model_fields


def _unit(path: str, value: _Schema) -> str:
    numeric = {"integer", "number"} & {part.get("type") for part in (value, *value.get("anyOf", []))}
    return _UNITS_OF.get(path, _UNITS.get(path.rpartition(".")[2].rpartition("_")[2], "")) if numeric else ""


def _range(schema: _Schema, value: _Schema) -> str:
    if "anyOf" in value:
        return ", or ".join(_range(schema, part) for part in value["anyOf"] if part.get("type") != "null")
    if "const" in value or "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if _model(schema, value) is not None:
        return "a table"
    match value.get("type"):
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number" as kind:
            return _numbers(value, "whole" if kind == "integer" else "any")
        case "array":
            bound = f", at most {value['maxItems']}" if "maxItems" in value else ""
            items = value.get("items", {})
            return "tables" if _model(schema, items) is not None else f"list of {_range(schema, items)}{bound}"
        case "object":
            return "a table"
        case "string":
            return "text"
    return "anything"


def _numbers(value: _Schema, kind: str) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    return ", ".join(f"{sign}{_number(value[name])}" for name, sign in _BOUNDS.items() if name in value) or kind


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    return _shown(field.get_default(call_default_factory=True))


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`".replace("'", '"') if value not in ("", {}, []) else "empty"


def main() -> int:
    """Rewrite or check the file; return the exit status."""
    text = _README.read_text("utf-8")
    head, _, _ = text.partition(_MARK)
    wanted = head + reference()
    if "--check" in sys.argv[1:]:
        if text != wanted:
            print(f"{_README} is out of date: run tools/write_config_reference.py")
            return 1
        return 0
    _README.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
