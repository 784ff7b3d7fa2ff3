"""From a TOML file and command-line overrides to a checked `Config`, or to one `ConfigError` that says what to do.

A file may start with `extends = "other.toml"` (a path beside it, or the name of a built-in config): it then holds only
what differs.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from darts_async.config.beside import find_beside
from darts_async.config.rules import resolve
from darts_async.config.schema import Config
from darts_async.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
_MAX_DEPTH = 8


def builtin_configs() -> Path:
    """Folder of the built-in configs: inside the installed wheel, or `configs/` of a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def load_config(source: str | None, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Read a config (None: the embedded quickstart), apply `section.key value` overrides, resolve and check it.

    Raises `ConfigError` for a file that cannot be read or parsed, an unknown or ill-typed key, or a broken rule.
    """
    document = read_document("quickstart" if source is None else source)
    for key, text in overrides:
        apply_override(document, key, text)
    return config_of(document)


def read_document(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with everything that it extends, unchecked: a path, a built-in name, or what a file would hold.

    Raises `ConfigError` for a file that cannot be read or parsed.
    """
    return _read(_find(source), ()) if isinstance(source, str) else _extended(dict(source), Path(), ())


def config_of(document: Mapping[str, Any]) -> Config:
    """Resolve and check a whole document. Raises `ConfigError` for an unknown or ill-typed key, or a broken rule."""
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise explain_error(error) from None
    return resolve(config)


def to_toml(config: Config) -> str:
    """Write a config out in full; TOML has no null, so unset keys are left out."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def _find(source: str) -> Path:
    path = Path(source)
    if path.suffix == ".toml" or path.exists():
        return path
    builtin = builtin_configs() / f"{source}.toml"
    return builtin if builtin.is_file() else path


def _read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    if path in chain or len(chain) >= _MAX_DEPTH:
        raise ConfigError("extends", str(path), "files must not extend each other in a circle", "Remove one `extends`.")
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in builtin_configs().glob("*.toml")))
        raise ConfigError("CONFIG", str(path), "no such file", f"Give a path, or a built-in name: {names}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("CONFIG", str(path), f"cannot be read ({error})", "Check the path and its rights.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("CONFIG", str(path), f"is not valid TOML: {error}", "Mend the line it names.") from None
    find_beside(document, path.parent)
    return _extended(document, path.parent, (*chain, path))


def _extended(document: dict[str, Any], folder: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    """Lay a document over the one it extends; `folder` is where a path is looked for first."""
    parent = document.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise ConfigError("extends", parent, "must be a path or the name of a built-in config", "Quote it.")
    beside = folder / parent
    base = _read(beside if beside.is_file() else _find(parent), chain)
    return _merge(base, document)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def apply_override(document: dict[str, Any], key: str, text: str) -> None:
    """Set one `section.key` from text: TOML syntax where it parses and the field wants it, a bare word otherwise."""
    *path, last = key.split(".")
    if not path or not all((*path, last)):
        raise ConfigError(key, text, "an override names a section and a key", "Write --section.key value.")
    table = document
    for part in path:
        below = table.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(key, text, f"`{part}` is a value, not a section", "Check the name.")
        table = below
    table[last] = text if _is_text(key, text) else _value(text)


def _is_text(key: str, text: str) -> bool:
    """Whether a key's field takes this as it stands, so that `--run.name 7` is a name and not a number.

    A field that takes a list as well gets one for what is written in brackets.
    """
    section_name, _, field_name = key.partition(".")
    section = Config.model_fields.get(section_name)
    if section is None or not isinstance(section.annotation, type) or not issubclass(section.annotation, BaseModel):
        return False
    field = section.annotation.model_fields.get(field_name)
    if field is None:
        return False
    kinds = get_args(field.annotation)
    if any(get_origin(kind) is list for kind in kinds) and text.lstrip().startswith("["):
        return False
    return field.annotation is str or str in kinds


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def explain_error(error: ValidationError) -> ConfigError:
    """Turn pydantic's first complaint into key, value, rule and fix."""
    return _explain(error.errors(include_url=False)[0])


def _explain(detail: ErrorDetails) -> ConfigError:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        names = _names_at(location[:-1])
        near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
        where = f"section [{location[0]}]" if len(location) > 1 else "a config"
        fix = f"Did you mean `{'.'.join([*location[:-1], near[0]])}`?" if near else f"Known: {', '.join(names)}."
        return ConfigError(key, value, f"unknown key; {where} has no `{location[-1]}`", fix)
    rule = detail["msg"][:1].lower() + detail["msg"][1:]
    return ConfigError(key, value, rule, _documentation(location))


def _names_at(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)


def _documentation(location: Sequence[str]) -> str:
    """The field's own documentation, as the fix: it states meaning, unit and range."""
    model: type[BaseModel] = Config
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            break
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
            continue
        text = " ".join((field.description or "").split())
        return f"What it means: {text}" if text else "See configs/README.md."
    return f"Write it as a table: [{location[0]}]." if location else "See configs/README.md."
