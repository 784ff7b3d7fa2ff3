"""The figures at the top of a report, and what one should know first, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from darts_async.report.charts.chart import shown, title_of
from darts_async.report.charts.tokens import tokens_by_state
from darts_async.report.data import ReportData, RunData

__all__ = ["Fact", "Row", "facts", "headline"]

MAX_FACTS: Final = 60


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of every run."""

    label: str
    values: tuple[str, ...]
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence about a run."""

    kind: str
    """`good`, `look` (something to act on), `bad`, or `note`."""
    text: str


def headline(data: ReportData) -> list[Row]:
    """One row a figure; a figure that no run has is left out."""
    rows = [
        ("Status", "", [_status(run) for run in data.runs]),
        ("Steps", "", [shown(run.num_steps) for run in data.runs]),
        ("Wall time", "", [duration(run.wall_s) for run in data.runs]),
        ("Reward, held out", "before → after training", [_held_out(run, "reward") for run in data.runs]),
        ("Length, held out", "tokens, before → after", [_held_out(run, "response_length") for run in data.runs]),
        ("Reward, in training", "first → last steps", [_ends(run, "reward") for run in data.runs]),
        ("Length, in training", "tokens, first → last steps", [_ends(run, "response_length") for run in data.runs]),
        ("Tokens trained on", "of all generated", [_useful(run) for run in data.runs]),
        ("Trained tokens/s", "from the first step on", [_rate(run) for run in data.runs]),
        ("Saved by cancels", "tokens, estimate", [_saved(run) for run in data.runs]),
        ("Idle: generators / learner", "share of time", [_idle(run) for run in data.runs]),
        ("Staleness", "mean / max", [_staleness(run) for run in data.runs]),
        ("Cancel latency", "p50 / p99", [_latency(run, "cancel_latency_ms") for run in data.runs]),
        ("Weight update", "p50 / p99", [_latency(run, "weight_update_ms") for run in data.runs]),
        ("Restarts / resumes", "", [_restarts(run) for run in data.runs]),
        ("Warnings", "", [str(len(run.summary.warnings)) if run.summary else "" for run in data.runs]),
    ]
    return [Row(label, tuple(value or "—" for value in values), hint) for label, hint, values in rows if any(values)]


def facts(data: ReportData) -> list[Fact]:
    """What happened and what to look at, run by run."""
    found: list[Fact] = []
    for run in data.runs:
        own = [*_outcome(run), *_learning(run), *_flow(run), *_faults(run)]
        found += [Fact(fact.kind, _named(run, fact.text)) for fact in own]
    return found[:MAX_FACTS]


def _named(run: RunData, text: str) -> str:
    return text if not run.letter or text.startswith(title_of(run)) else f"{title_of(run)}: {text}"


def duration(seconds: float) -> str:
    """Time as people say it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


# --- rows -------------------------------------------------------------------------------------------------------------


def _status(run: RunData) -> str:
    return {"cut off": "cut off, not ended in order", "running": "running now"}.get(run.state, run.state)


def _held_out(run: RunData, name: str) -> str:
    values = [getattr(score, name) for score in run.held_out]
    return _arrow(values)


def _ends(run: RunData, name: str) -> str:
    if run.summary is not None:
        ends = getattr(run.summary, name)
        if ends.first is not None and ends.last is not None:
            return _arrow([ends.first, ends.last])
    column = run.series.column({"reward": "reward/mean", "response_length": "response_length/generated"}[name])
    return "" if column is None else _arrow([value for value in column.tolist() if math.isfinite(value)])


def _arrow(values: Sequence[float]) -> str:
    if not values:
        return ""
    return shown(values[0]) if len(values) == 1 else f"{shown(values[0])} → {shown(values[-1])}"


def useful_share(run: RunData) -> float | None:
    """Trained tokens over generated ones."""
    tokens = tokens_by_state(run)
    total = sum(tokens.values())
    return tokens["trained"] / total if total else None


def _useful(run: RunData) -> str:
    share = useful_share(run)
    return "" if share is None else f"{100 * share:.1f}% of {sum(tokens_by_state(run).values()):,.0f}"


def _rate(run: RunData) -> str:
    trained = tokens_by_state(run)["trained"]
    seconds = float(run.series.wall_s[-1]) - run.series.began_s if run.series.num_steps else 0.0
    return shown(trained / seconds) if trained and seconds > 0 else ""


def _saved(run: RunData) -> str:
    saved = run.summary.tokens_saved_estimate if run.summary else run.series.last.get("cancel/tokens_saved")
    return "" if saved is None else f"{saved:,.0f}"


def _idle(run: RunData) -> str:
    if run.summary is None or (run.summary.idle_ratio.generator is None and run.summary.idle_ratio.learner is None):
        return ""
    idle = run.summary.idle_ratio
    return " / ".join("—" if share is None else f"{100 * share:.0f}%" for share in (idle.generator, idle.learner))


def _staleness(run: RunData) -> str:
    if run.summary is None or run.summary.staleness.mean is None:
        return ""
    return f"{shown(run.summary.staleness.mean)} / {shown(run.summary.staleness.max)}"


def _latency(run: RunData, name: str) -> str:
    if run.summary is None:
        return ""
    found = getattr(run.summary, name)
    return "" if found.p50 is None else f"{shown(found.p50)} / {shown(found.p99)} ms"


def _restarts(run: RunData) -> str:
    restarts, resumes = num_restarts(run), max(len(run.starts) - 1, 0)
    return f"{restarts} / {resumes}"


def num_restarts(run: RunData) -> int:
    """Starts of roles that were lost, over all starts of the run."""
    return sum(sum(start.restarts.values()) for start in run.starts)


# --- sentences --------------------------------------------------------------------------------------------------------


def _outcome(run: RunData) -> list[Fact]:
    name, summary = title_of(run), run.summary
    match run.state:
        case "done":
            by = {"wall_s": ", at its time limit", "trained_tokens": ", at its token limit"}
            limit = by.get(summary.ended_by or "", "") if summary else ""
            return [Fact("good", f"{name} is done: {run.num_steps:,} steps in {duration(run.wall_s)}{limit}.")]
        case "running":
            return [Fact("note", f"{name} goes on: this is how it stood after {run.num_steps:,} steps.")]
        case "failed":
            reason = f": {summary.reason}" if summary and summary.reason else ""
            return [
                Fact(
                    "bad",
                    f"{name} failed after {run.num_steps:,} steps{reason}. Its logs are in {run.folder.name}/logs.",
                )
            ]
        case "interrupted":
            how = f"darts-async up --resume {run.folder.name}"
            return [Fact("note", f"{name} was interrupted after {run.num_steps:,} steps; {how} goes on with it.")]
        case "cut off":
            how = f"darts-async up --resume {run.folder.name}"
            return [Fact("bad", f"{name} was cut off after {run.num_steps:,} steps; {how} goes on with it.")]
        case "not begun":
            return [Fact("bad", f"{name} never began to sample: look at {run.folder.name}/logs.")]


def _learning(run: RunData) -> list[Fact]:
    found = []
    if len(run.held_out) > 1:
        first, last = run.held_out[0], run.held_out[-1]
        better = last.reward > first.reward
        text = (
            f"Held-out reward went from {shown(first.reward)} to {shown(last.reward)}, mean length from "
            f"{shown(first.response_length)} to {shown(last.response_length)} tokens."
        )
        found.append(Fact("good" if better else "look", text))
    column = run.series.column("selection/zero_variance_share")
    if column is not None and column.size:
        share = float(_tail_mean(column.tolist()))
        if share > 0.5:
            text = (
                f"{100 * share:.0f}% of the last groups have the same reward throughout and teach nothing: harder (or "
                "easier) prompts, or selection.zero_variance = drop."
            )
            found.append(Fact("look", text))
    if run.summary and run.summary.skipped_steps:
        found.append(
            Fact("bad", f"{shown(run.summary.skipped_steps)} steps were skipped: loss or gradient not finite.")
        )
    return found


def _flow(run: RunData) -> list[Fact]:
    found = []
    share = useful_share(run)
    if share is not None:
        kind = "look" if share < 0.6 else "good"
        advice = ": allocation.budget is the knob" if kind == "look" else ""
        found.append(Fact(kind, f"{100 * share:.0f}% of the generated tokens were trained on{advice}."))
    if run.summary is not None:
        learner, generator = run.summary.idle_ratio.learner, run.summary.idle_ratio.generator
        if learner is not None and learner > 0.3 and learner >= (generator or 0.0):
            text = (
                f"The learner waited {100 * learner:.0f}% of the time: generation limits. More replicas, a smaller "
                "allocation.budget, or a rule that cancels."
            )
            found.append(Fact("look", text))
        elif generator is not None and generator > 0.3:
            limits = "the learner limits" if learner is not None and learner < 0.1 else "too little is in flight"
            knobs = (
                "speed it up (learner.micro_batch_tokens, learner.processes), or spend idle engines on more candidates "
                "(allocation.budget)"
                if limits == "the learner limits"
                else "raise queues.in_flight_groups or pipeline.max_staleness"
            )
            found.append(
                Fact("look", f"The generators were idle {100 * generator:.0f}% of the time: {limits}; {knobs}.")
            )
    story = run.story
    finished = sum(story.rollouts[state] for state in ("trained", "rejected", "stale")) if story else 0
    if story is not None and finished and story.num_capped / finished > 0.05:
        text = (
            f"{100 * story.num_capped / finished:.0f}% of the finished responses were cut at "
            "model.max_response_tokens: raise it."
        )
        found.append(Fact("look", text))
    return found


def _faults(run: RunData) -> list[Fact]:
    found = []
    if restarts := num_restarts(run):
        found.append(Fact("look", f"Roles were started anew {restarts} times."))
    story = run.story
    if story is not None:
        if story.failures:
            reasons = ", ".join(f"{count} {reason}" for reason, count in story.failures.most_common(3))
            found.append(Fact("look", f"{story.rollouts['failed']:,} candidates failed: {reasons}."))
        if story.rollouts["stale"]:
            text = f"{story.rollouts['stale']:,} candidates were refused as stale; that points to a fault or a restart."
            found.append(Fact("look", text))
        found += [Fact("note", f"At version {version}: {text}.") for version, text in story.events[:10]]
        if story.num_events > 10:
            found.append(Fact("note", f"And {story.num_events - 10} more such events."))
    if run.summary and run.summary.selection.starvation.prompts:
        text = f"{shown(run.summary.selection.starvation.prompts)} prompts were sampled again and again, never trained."
        found.append(Fact("look", text))
    return found


def _tail_mean(values: list[float]) -> float:
    tail = [value for value in values[-max(1, len(values) // 5) :] if math.isfinite(value)]
    return sum(tail) / len(tail) if tail else 0.0
