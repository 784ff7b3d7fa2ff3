"""What a run came to, as `summary.json` has it, with the files of its folder at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from darts_async.config.paths import RunPaths
from darts_async.errors import RunFailed

__all__ = ["Evals", "FirstLast", "IdleRatio", "MeanMax", "Percentiles", "Result", "Scores"]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Of the held-out set, under one version."""

    reward: float | None = None
    response_length: float | None = None
    rollouts: int = 0
    policy_version: int = 0


class Evals(msgspec.Struct, frozen=True, kw_only=True):
    """The held-out set's scores before the first step, in between, and after the last one."""

    before: Scores | None = None
    during: tuple[Scores, ...] = ()
    after: Scores | None = None


class FirstLast(msgspec.Struct, frozen=True, kw_only=True):
    """Means over the first and the last 10 % of the steps, of all finished candidates."""

    first: float | None = None
    last: float | None = None


class IdleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Share of its time that a role had nothing to do."""

    generator: float | None = None
    learner: float | None = None


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of a time."""

    p50: float | None = None
    p99: float | None = None


class MeanMax(msgspec.Struct, frozen=True, kw_only=True):
    """Of a number."""

    mean: float | None = None
    max: float | None = None


class _Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `summary.json` that every run has."""

    status: str
    """`done`, `failed` or `interrupted`."""
    reason: str = ""
    """Why it failed."""
    ended_by: str | None = None
    """The limit that ended it: `steps`, `wall_s` or `trained_tokens`."""
    steps: int
    policy_version: int
    wall_s: float
    rollouts: dict[str, int | None] = {}
    """Candidates: `generated`, and how they ended (`trained`, `rejected`, `cancelled_tail`, ...)."""
    tokens: dict[str, int | None] = {}
    """The same of response tokens."""
    tokens_saved_estimate: int | None = None
    """What the cancelled candidates would still have cost."""
    eval: Evals = Evals()
    reward: FirstLast = FirstLast()
    response_length: FirstLast = FirstLast()
    idle_ratio: IdleRatio = IdleRatio()
    cancel_latency_ms: Percentiles = Percentiles()
    weight_update_ms: Percentiles = Percentiles()
    staleness: MeanMax = MeanMax()
    logprob_parity: MeanMax = MeanMax()
    restarts: dict[str, int] = {}
    """How often a role was started anew, by its name."""
    resumes: int = 0
    warnings: list[str] = []


class Result(_Summary, frozen=True, kw_only=True):
    """What a run came to. Numbers that were never measured are None."""

    folder: Path
    """The run folder."""
    summary: dict[str, Any]
    """`summary.json` as it stands in the folder: what the attributes are made of, and what else there is."""

    @classmethod
    def of(cls, folder: str | Path, summary: dict[str, Any]) -> Result:
        """Make it of a summary."""
        known = msgspec.convert(summary, _Summary)
        return cls(folder=Path(folder), summary=summary, **msgspec.structs.asdict(known))

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """Read the result of a run that is over. Raises `RunFailed` when the folder has none."""
        path = RunPaths(Path(folder)).summary
        try:
            return cls.of(Path(folder).absolute(), json.loads(path.read_bytes()))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            failed = RunFailed(f"{path} is not the summary of a run: {error}")
            failed.folder = Path(folder)
            raise failed from None

    @property
    def checkpoint(self) -> Path | None:
        """The policy as it is now, a Hugging Face folder; None when the run wrote none."""
        path = RunPaths(self.folder).checkpoints / f"step_{self.policy_version}"
        return path if path.is_dir() else None

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of `metrics.jsonl`, one for each learner step (for `pandas.DataFrame`, say)."""
        lines = RunPaths(self.folder).metrics.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, one HTML file; return where it is. Default: `report.html` in the run folder."""
        from darts_async.report.write import write_report  # noqa: PLC0415 - loads what draws

        return write_report([self.folder], None if out is None else Path(out).absolute())

    def __repr__(self) -> str:
        reward = "" if self.reward.last is None else f", reward {_arrow(self.reward)}"
        length = "" if self.response_length.last is None else f", length {_arrow(self.response_length)}"
        return f"Result({self.status}, {self.steps} steps in {self.wall_s:.0f} s{reward}{length}, {str(self.folder)!r})"


def _arrow(change: FirstLast) -> str:
    return " -> ".join("?" if value is None else f"{value:.3g}" for value in (change.first, change.last))
