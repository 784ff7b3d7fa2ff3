"""Reward and length, over steps, over time, and on the held-out set."""

from __future__ import annotations

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

_REWARDS = {"reward/mean": "all finished", "reward/kept": "trained on"}
_LENGTHS = {
    "response_length/generated": "all finished",
    "response_length/kept": "trained on",
    "response_length/cancelled": "cancelled at",
}
_COMPONENT = "reward/component/"
MAX_COMPONENTS = 8


def reward_over_steps(data: ReportData) -> list[Chart] | NoChart:
    """What the policy earns, by version."""
    return over(
        data,
        _REWARDS,
        chart_id="reward-steps",
        title="Reward over steps",
        y="mean reward",
        reading="Higher is better, and the line should still rise where you stop. A gap between the two lines is what "
        "selection does to the rewards: the learner sees the lower one. If it falls or jumps, lower learner.lr; if it "
        "is flat near 0 or at its maximum, most groups carry no signal: choose other prompts, or set "
        "selection.zero_variance.",
    )


def reward_over_time(data: ReportData) -> list[Chart] | NoChart:
    """What the policy earns, by the clock."""
    return over(
        data,
        _REWARDS,
        along="wall_s",
        chart_id="reward-time",
        title="Reward over wall-clock",
        y="mean reward",
        reading="The comparison that counts between settings: the run that is further to the left at the same height "
        "got there sooner. A run that is better over steps and worse here pays for it in time: see the idle shares.",
    )


def length_over_steps(data: ReportData) -> list[Chart] | NoChart:
    """How long responses are, by version."""
    return over(
        data,
        _LENGTHS,
        chart_id="length-steps",
        title="Response length over steps",
        y="tokens (mean)",
        reading="Trained on below all finished means that selection favours the concise; the wider the gap, the "
        "stronger the pull. Cancelled at is how far the others had come when they were stopped: the nearer to the "
        "lowest line, the less was wasted. If lengths collapse while the reward falls, raise group.keep_longest or "
        "use the rule survivor.",
    )


def length_over_time(data: ReportData) -> list[Chart] | NoChart:
    """How long responses are, by the clock."""
    return over(
        data,
        {name: label for name, label in _LENGTHS.items() if not name.endswith("cancelled")},
        along="wall_s",
        chart_id="length-time",
        title="Response length over wall-clock",
        y="tokens (mean)",
        reading="Shorter responses make later steps faster: the points should lie denser to the right. If they do "
        "not, something else than decoding sets the pace.",
    )


def reward_components(data: ReportData) -> list[Chart] | NoChart:
    """The parts of a reward that has several. Nothing is said where there are none."""
    names = sorted({name for run in data.runs for name in run.series.columns if name.startswith(_COMPONENT)})
    if not names:
        return []
    return over(
        data,
        {name: name.removeprefix(_COMPONENT) for name in names[:MAX_COMPONENTS]},
        chart_id="reward-components",
        title="Parts of the reward",
        y="mean over finished candidates",
        reading="One part that rises while another falls is being traded for it: check the weights in [reward].",
    )


def held_out(data: ReportData) -> list[Chart] | NoChart:
    """The scores that no selection touched."""
    title = "Held-out set"
    traces, words = [], []
    for run in data.runs:
        if not run.held_out:
            continue
        xs: list[float | None] = [float(score.version) for score in run.held_out]
        rewards, lengths = [s.reward for s in run.held_out], [s.response_length for s in run.held_out]
        traces.append(line(xs, numbers(rewards), style(data, run, "reward", 0)))
        traces.append(line(xs, numbers(lengths), style(data, run, "length", 1), yaxis="y2"))
        words.append(
            f"{title_of(run)}: reward from {shown(rewards[0])} to {shown(rewards[-1])}, "
            f"mean length from {shown(lengths[0])} to {shown(lengths[-1])} tokens."
        )
    if not traces:
        return NoChart(
            title, "nothing was scored on it: set eval.prompts (and eval.every_steps for scores on the way)."
        )
    drawn = figure(traces, "policy version", "mean reward", yaxis2=right_axis("tokens (mean)"), margin={"r": 52})
    reading = (
        "Reward (left) and length (right) of fixed prompts, nothing cancelled: the figure to quote. Reward up and "
        "length down is what this is for. Reward that rises above but not here is overfitting to the prompts, or to "
        "what selection lets through."
    )
    return [
        Chart("held-out", title, reading, "Scores of the held-out set. " + " ".join(words), drawn, height_of(drawn))
    ]
