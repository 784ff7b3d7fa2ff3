"""What one should know of a run first, in sentences: how it ended, what it came to, and which knob to turn.

Rules over figures, no more: each says what it saw, so that a reader can disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from darts_async.report.charts.chart import shown, title_of
from darts_async.report.data import ReportData, RunData
from darts_async.report.headline import duration, num_restarts, useful_share

__all__ = ["Fact", "facts"]

MAX_FACTS: Final = 60


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence about a run."""

    kind: str
    """`good`, `look` (something to act on), `bad`, or `note`."""
    text: str


def facts(data: ReportData) -> list[Fact]:
    """What happened and what to look at, run by run."""
    found: list[Fact] = []
    for run in data.runs:
        own = [*_outcome(run), *_learning(run), *_flow(run), *_faults(run)]
        found += [Fact(fact.kind, _named(run, fact.text)) for fact in own]
    return found[:MAX_FACTS]


def _named(run: RunData, text: str) -> str:
    return text if not run.letter or text.startswith(title_of(run)) else f"{title_of(run)}: {text}"


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
            why = summary.reason if summary and summary.reason else "it did not say why"
            logs = "" if "logs" in why else f"; its logs are in {run.folder.name}/logs"
            return [Fact("bad", f"{name} failed after {run.num_steps:,} steps: {why}{logs}.")]
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
