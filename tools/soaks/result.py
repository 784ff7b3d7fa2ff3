"""What a soak came to, as JSON and as rows of the README's table. Every figure of the table comes from here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One kind of fault."""

    fault: str
    times: int
    outcome: str
    median_s: float | None = None
    """Recovery: from the fault to the first group that is trained with everybody back."""
    worst_s: float | None = None
    memory: str = ""


@dataclass(frozen=True)
class Result:
    """One soak."""

    name: str
    rows: list[Row]
    seconds: float
    problems: list[str] = field(default_factory=list)
    """What is not as it must be; empty when all is."""
    quick: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    """Whatever else was measured."""

    @property
    def ok(self) -> bool:
        """Whether all is as it must be."""
        return not self.problems

    def write(self, folder: Path) -> Path:
        """To `<folder>/<name>.json`, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"ok": self.ok, **asdict(self)}, indent=2) + "\n", "utf-8")
        part.rename(path)
        return path

    @classmethod
    def read(cls, path: Path) -> Result:
        """What `write` has written. Raises `OSError`, `ValueError`, `TypeError`, `KeyError`."""
        values = json.loads(path.read_text("utf-8"))
        del values["ok"]
        return cls(**{**values, "rows": [Row(**row) for row in values["rows"]]})
