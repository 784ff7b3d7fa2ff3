"""How busy the roles are, how fast engines decode, and how long a cancel or new weights take."""

from __future__ import annotations

import numpy as np

from darts_async.report.charts.chart import (
    Chart,
    NoChart,
    figure,
    height_of,
    line,
    numbers,
    right_axis,
    shown,
    style,
    title_of,
)
from darts_async.report.charts.series import over
from darts_async.report.data import ReportData


def idle_ratios(data: ReportData) -> list[Chart] | NoChart:
    """Who waits."""
    return over(
        data,
        {"generator/idle_ratio": "generators", "learner/idle_ratio": "learner"},
        chart_id="idle",
        title="Idle share of generators and learner",
        y="share of time",
        reading="Both low is what asynchrony is for. Only the learner high: generation limits (more replicas, smaller "
        "allocation.budget, rule shortest or survivor). Only the generators high: training limits, or too little is in "
        "flight (queues.in_flight_groups, pipeline.max_staleness). Both high: they wait for each other; raise the "
        "staleness bound.",
        yaxis={"range": [0, 1.02]},
    )


def throughput(data: ReportData) -> list[Chart] | NoChart:
    """Tokens a second."""
    return over(
        data,
        {"generator/tokens_per_s": "decoded"},
        along="wall_s",
        chart_id="throughput",
        title="Decoding speed",
        y="tokens per second",
        reading="What the engines decode together. It falls when fewer candidates run at a time: look at queue depths "
        "for what was missing. Higher is not better by itself: the token flow says how much of it was of use.",
    )


def cancels(data: ReportData) -> list[Chart] | NoChart:
    """How many candidates are cancelled, and how fast."""
    title = "Cancels"
    traces, words = [], []
    for run in data.runs:
        xs = numbers(run.series.step)
        count, latency = run.series.column("cancel/rollouts_in_step"), run.series.column("cancel/latency_p99_ms")
        if count is None or not np.nansum(count):
            continue
        traces.append(line(xs, numbers(count), style(data, run, "cancelled in a step", 0)))
        total = run.series.last.get("cancel/rollouts")
        words.append(f"{title_of(run)}: {shown(total)} candidates cancelled")
        if latency is not None and np.isfinite(latency).any():
            traces.append(line(xs, numbers(latency), style(data, run, "latency p99, ms", 1), yaxis="y2"))
            words[-1] += f", 99th percentile of the latency up to {shown(float(np.nanmax(latency)))} ms"
        words[-1] += "."
    if not traces:
        steps = any(run.series.num_steps for run in data.runs)
        return NoChart(title, "no candidate was cancelled in a step." if steps else "no step was completed.")
    drawn = figure(
        traces,
        "learner step",
        "candidates",
        yaxis2=right_axis("ms"),
        margin={"r": 52},
    )
    reading = (
        "Candidates that the engine was told to stop (left), and how long it took from the decision until they had "
        "stopped (right). The latency should stay at a few milliseconds: a second of it costs as many tokens as a "
        "second of decoding. If it grows, look at loop lag and at the generators' stream_interval."
    )
    return [Chart("cancels", title, reading, "Cancels over steps. " + " ".join(words), drawn, height_of(drawn))]


def weight_updates(data: ReportData) -> list[Chart] | NoChart:
    """How long it takes to publish weights."""
    words = [
        f"{title_of(run)}: engines were held up {shown(update.p50)} ms by an update in the median, "
        f"{shown(update.p99)} ms at the 99th percentile."
        for run in data.runs
        if len(data.runs) == 1 and run.summary is not None and (update := run.summary.weight_update_ms).p50 is not None
    ]
    return over(
        data,
        {"learner/publish_ms": "publishing"},
        chart_id="updates",
        title="Weight updates",
        y="ms",
        reading=" ".join(
            (
                "How long the learner takes to hand out a new version; it should be small beside a step.",
                *words,
                "Engines that stand still for long make in-flight updates costly: fewer, larger steps.",
            )
        ),
    )
