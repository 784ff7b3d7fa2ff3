"""The charts of a report, one function each: from `ReportData` to a figure with its words, or to why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from darts_async.report.charts.allocation import budget_by_spread, budget_over_steps
from darts_async.report.charts.chart import Chart, NoChart
from darts_async.report.charts.lengths import between_prompts, generated_lengths, kept_lengths, within_prompts
from darts_async.report.charts.progress import (
    held_out,
    length_over_steps,
    length_over_time,
    reward_components,
    reward_over_steps,
    reward_over_time,
)
from darts_async.report.charts.queues import queue_age, queue_depth
from darts_async.report.charts.roles import timeline
from darts_async.report.charts.speed import cancels, idle_ratios, throughput, weight_updates
from darts_async.report.charts.staleness import drift_by_age, mismatch, staleness_by_age, staleness_over_steps
from darts_async.report.charts.tokens import token_flow
from darts_async.report.data import ReportData

__all__ = ["SECTIONS", "Chart", "Draw", "NoChart"]

Draw = Callable[[ReportData], list[Chart] | NoChart]

SECTIONS: Final[tuple[tuple[str, tuple[Draw, ...]], ...]] = (
    (
        "Did it learn?",
        (reward_over_steps, reward_over_time, held_out, reward_components, length_over_steps, length_over_time),
    ),
    ("What became of the tokens?", (token_flow,)),
    ("How long are the responses?", (generated_lengths, kept_lengths, between_prompts, within_prompts)),
    ("Did the roles overlap?", (timeline, idle_ratios, throughput, cancels, weight_updates)),
    ("Where does work wait?", (queue_depth, queue_age)),
    ("How old are the tokens?", (staleness_by_age, drift_by_age, staleness_over_steps, mismatch)),
    ("Where did the candidates go?", (budget_over_steps, budget_by_spread)),
)
"""The headings of a report, in order, and what is under each."""
