"""Rewrite the reference part of `configs/README.md` from the schema's own documentation.

`--check` writes nothing and fails when the file is out of date.
"""

import sys
from pathlib import Path

from pydantic.fields import FieldInfo

from darts_async.config import Config

_MARK = "<!-- written by tools/write_config_reference.py from darts_async/config/schema.py -->"
_README = Path(__file__).resolve().parent.parent / "configs" / "README.md"


def reference() -> str:
    """Return the reference as Markdown: a table per section."""
    parts = [_MARK]
    for name, section in Config.model_fields.items():
        model = section.annotation
        assert isinstance(model, type)
        title = " ".join((model.__doc__ or "").split()).partition(": ")[2]
        parts.append(f"\n### [{name}]\n{title[:1].upper()}{title[1:]}\n\n| key | default | meaning |\n|---|---|---|")
        for key, field in model.model_fields.items():
            parts.append(f"| `{key}` | {_default(field)} | {' '.join((field.description or '').split())} |")
    return "\n".join(parts) + "\n"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`".replace("'", '"') if value not in ("", {}) else "empty"


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
