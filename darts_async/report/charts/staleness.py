"""How far behind the policy the tokens were that it was trained on, and what that did."""

from __future__ import annotations

from darts_async.report.charts.chart import (
    Chart,
    Figure,
    NoChart,
    figure,
    height_of,
    line,
    numbers,
    shown,
    style,
    title_of,
)
from darts_async.report.charts.series import over
from darts_async.report.data import ReportData

ALL_TICKS = 12
_PATTERNS = ("", "/", "x", ".", "\\", "+", "-", "|")


def staleness_by_age(data: ReportData) -> list[Chart] | NoChart:
    """How old the trained tokens were."""
    title = "Trained tokens by age"
    traces: list[Figure] = []
    words = []
    for number, run in enumerate(data.runs):
        total = sum(age.tokens for age in run.series.ages.values())
        if not total:
            continue
        ages = sorted(run.series.ages)
        shares = [100 * run.series.ages[age].tokens / total for age in ages]
        traces.append(
            {
                "type": "bar",
                "name": run.letter or "tokens",
                "x": ages,
                "y": numbers(shares),
                "marker": {"color": f"@s{number}", "pattern": {"shape": _PATTERNS[number], "size": 5}},
            }
        )
        parts = (f"{share:.1f}% of age {age}" for age, share in zip(ages, shares, strict=True))
        words.append(f"{title_of(run)}: {', '.join(parts)}.")
    if not traces:
        return NoChart(title, "no step has reported the age of its tokens.")
    reading = (
        "Age: how many updates the policy was ahead of the one that sampled a token. All at 0 is on policy. The more "
        "to the right, the more off policy: pipeline.max_staleness bounds it, queues.ready_groups and "
        "queues.in_flight_groups move it."
    )
    drawn = figure(traces, "age, policy versions", "share of trained tokens, %", xaxis=_whole(data))
    return [Chart("age", title, reading, " ".join(words), drawn, height_of(drawn))]


def drift_by_age(data: ReportData) -> list[Chart] | NoChart:
    """What age does to the ratios."""
    title = "Drift by age"
    traces, words = [], []
    for run in data.runs:
        known = {age: sums for age, sums in sorted(run.series.ages.items()) if sums.tokens}
        means = [sums.log_ratio_abs / sums.tokens for sums in known.values()]
        if not any(means):
            continue
        xs: list[float | None] = [float(age) for age in known]
        traces.append(line(xs, numbers(means), style(data, run, "drift" if not run.letter else "", 0)))
        words.append(
            f"{title_of(run)}: " + ", ".join(f"{shown(m)} at age {a}" for a, m in zip(known, means, strict=True))
        )
    if not traces:
        return NoChart(title, "no step has reported the ratios of its tokens by age.")
    reading = (
        "Mean absolute log-ratio between the policy that is trained and the one that sampled. At age 0 it should be "
        "nearly nothing (else engine and learner disagree: darts-async doctor). If it climbs steeply, lower "
        "pipeline.max_staleness or learner.lr, or choose another learner.correction."
    )
    drawn = figure(traces, "age, policy versions", "|log ratio| (mean)", xaxis=_whole(data))
    return [Chart("drift", title, reading, f"{title}. " + "; ".join(words) + ".", drawn, height_of(drawn))]


def _whole(data: ReportData) -> Figure:
    """Whole ages on the axis: every one of them, while they are few."""
    oldest = max((max(run.series.ages, default=0) for run in data.runs), default=0)
    return {"tickformat": "d", **({"dtick": 1} if oldest <= ALL_TICKS else {})}


def staleness_over_steps(data: ReportData) -> list[Chart] | NoChart:
    """Mean and maximum by step."""
    return over(
        data,
        {"staleness/mean": "mean over tokens", "staleness/max": "oldest group"},
        chart_id="staleness-steps",
        title="Staleness over steps",
        y="policy versions",
        reading="The oldest group must never be above pipeline.max_staleness. A mean that creeps up to it means that "
        "the learner is the slow one; a mean near 0 in async mode means that generation is, and a larger bound would "
        "change nothing.",
    )


def mismatch(data: ReportData) -> list[Chart] | NoChart:
    """Whether engine and learner agree."""
    return over(
        data,
        {"mismatch_kl": "mismatch KL"},
        chart_id="mismatch",
        title="Mismatch of sampling and training policy",
        y="KL (log scale)",
        reading="How far the sampled tokens are from the policy trained on them. It grows with age and step size; a "
        "level that climbs by orders of magnitude comes before a collapse: lower learner.lr or the staleness bound, "
        "or mask with learner.correction.",
        yaxis={"type": "log", "exponentformat": "power", "rangemode": "normal", "nticks": 6},
    )
