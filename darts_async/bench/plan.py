"""Which runs a table is made of, and whether they can be compared. Reads configs, writes nothing.

A cell is one preset, in one of its variants if there are any, with one seed. Cells of a seed share one engine, so
everything that is fixed when an engine starts has to be the same for all of them; so has everything that would make
their figures incomparable (task, batch, steps).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from darts_async.bench.scores import is_scored
from darts_async.bench.variants import Variant
from darts_async.config import Config, load_config, to_toml
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError

PRESETS: Final = (
    "grpo_sync",
    "one_step_off",
    "oversample_first_finished",
    "tail_batching",
    "partial_rollout",
    "darts_paper",
    "darts_best",
)
"""The rows of the published table."""

_COMPARABLE: Final = (
    "run.steps",
    "model",
    "task",
    "sampling",
    "group.size",
    "group.groups_per_step",
    "reward",
    "eval",
    "checkpoint",
)
"""What all presets of a table have in common."""
_ENGINE: Final = (
    "generator.replicas",
    "generator.engine",
    "generator.stream_interval",
    "generator.cpu_threads",
    "generator.cpu_kvcache_gib",
    "generator.engine_args",
    "learner.threads",
)
"""And those that share an engine."""


class SeedPlan(msgspec.Struct, frozen=True):
    """What one engine start is used for."""

    configs: tuple[str, ...]
    """Paths of resolved configs, in the order in which they run; each one's folder is its run folder."""
    cell_timeout_s: float
    twin: str = ""
    """Name or path of the profile on which they run; empty: on the engine."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One preset, or one variant of one, with one seed."""

    preset: str
    """Label of the row: the preset's, with the variant's behind it (alone where there is but one preset)."""
    seed: int
    config: Config
    """Resolved; its run folder is the cell's."""

    @property
    def name(self) -> str:
        """Name of the cell and of its run folder."""
        return self.config.run.name

    @property
    def paths(self) -> RunPaths:
        """The cell's run folder."""
        return RunPaths.of(self.config)

    def summary(self) -> dict[str, Any] | None:
        """The summary of a run of exactly this config; None if there is none, whether done or not."""
        with contextlib.suppress(OSError, ValueError):
            if self.paths.resolved_config.read_text("utf-8") == to_toml(self.config):
                summary = json.loads(self.paths.summary.read_text("utf-8"))
                return summary if isinstance(summary, dict) else None
        return None

    @property
    def done(self) -> bool:
        """Whether it has run to its end, and its checkpoints are scored if they are to be."""
        summary = self.summary()
        if summary is None or summary.get("status") != "done":
            return False
        return not is_scored(self.config) or "held_out" in summary.get("bench", {})


def make_cells(
    presets: Sequence[str],
    *,
    seeds: int,
    steps: int,
    eval_prompts: int,
    out: Path,
    overrides: Sequence[tuple[str, str]] = (),
    variants: Sequence[Variant] = (Variant(),),
    twin: bool = False,
) -> list[Cell]:
    """Load every preset in every variant with every seed 0..seeds-1, seed by seed; overrides go to all cells.

    Raises `ConfigError` for presets that cannot be loaded or compared, and for keys that are set twice.
    Every seed begins with another preset: the first cell of an engine pays for whatever is done for the first time.
    """
    labels = [Path(preset).stem for preset in presets]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError("--presets", ",".join(presets), f"`{label}` is there twice", "Name each preset once.")
    varied = {key for variant in variants for key, _ in variant.overrides}
    for key, value in (*overrides, *((key, "") for key in sorted(varied))):
        if key.startswith("run."):
            raise ConfigError(key, value, "the table sets it", "Use --out, --seeds and --steps.")
    for key, value in overrides:
        if key in varied:
            raise ConfigError(key, value, "is also set by --variant or --grid", "Set it in one place.")
    common = [("run.steps", str(steps)), ("eval.prompts", str(eval_prompts)), *overrides]
    if not twin and any(key == "checkpoint.every_steps" for key, _ in overrides):
        # They are there to be scored: all of them, weights alone.
        common[:0] = [("checkpoint.keep", str(steps)), ("checkpoint.optimiser", "false")]
    rows = [(index, variant) for index in range(len(presets)) for variant in variants]
    cells = []
    for seed in range(seeds):
        first = seed % len(rows)
        for index, variant in (*rows[first:], *rows[:first]):
            label = ": ".join(part for part in (labels[index] if len(presets) > 1 else "", variant.label) if part)
            name = "-".join(part for part in (labels[index], variant.folder, f"seed{seed}") if part)
            own = [("run.dir", str(out)), ("run.name", name), ("run.seed", str(seed)), *variant.overrides]
            cells.append(Cell(label or labels[index], seed, load_config(presets[index], [*common, *own])))
    check_comparable(cells, one_engine=not twin)
    return cells


def check_comparable(cells: Sequence[Cell], *, one_engine: bool = True) -> None:
    """Raise `ConfigError` unless the cells may stand in one table, and share an engine."""
    first = cells[0]
    replicas = first.config.generator.replicas
    if one_engine and replicas != 1:
        raise ConfigError("generator.replicas", replicas, "the table runs on one engine", "Set it to 1.")
    for cell in cells[1:]:
        for key in (*_COMPARABLE, *(_ENGINE if one_engine else ())):
            value, wanted = _at(cell.config, key), _at(first.config, key)
            if value != wanted:
                rule = f"preset `{cell.preset}` differs from `{first.preset}` ({wanted!r}); one table has one value"
                raise ConfigError(key, value, rule, f"Leave one of them out, or set it for all: --{key} VALUE.")


def engine_config(configs: Sequence[Config]) -> Config:
    """Return a config whose engine can serve all of these: the first one's, with the most slots that any needs."""
    slots = max(config.generator.max_num_seqs for config in configs)
    generator = configs[0].generator.model_copy(update={"max_num_seqs": slots})
    return configs[0].model_copy(update={"generator": generator})


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value.model_dump() if hasattr(value, "model_dump") else value
