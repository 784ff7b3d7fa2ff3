"""What `doctor` says of samples that a running engine has made: rows of its table. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from darts_async.algorithms.parity import Parity, TemperatureFit, likely_cause
from darts_async.runtime.job_events import Check

if TYPE_CHECKING:
    from darts_async.messages import Trajectory

__all__ = ["ends_check", "parity_check"]


def parity_check(name: str, parity: Parity, limit: float, temperature: float, fit: TemperatureFit | None) -> Check:
    """Log-probs of engine and learner, side by side. fit: where `parity` is above `limit`."""
    figures = (
        f"mean |difference| {parity.mean:.1e} (limit {limit:g}), max {parity.max:.1e}, k3 KL {parity.k3:.1e} over "
        f"{parity.tokens} tokens of {parity.responses} responses; {parity.by_position()}"
    )
    if parity.within(limit):
        return Check(name, "pass", figures)
    if fit is not None and math.isfinite(fit.mean):
        figures += f"; at the best temperature, {fit.temperature:.3g}: {fit.mean:.1e}"
    return Check(name, "fail", figures, f"Likely: {likely_cause(parity, limit, temperature, fit)}.")


def ends_check(trajectories: Sequence[Trajectory], failures: Iterable[str], eos_ids: frozenset[int], cap: int) -> Check:
    """Whether samples end as the model folder says. eos_ids: its ends. cap: most response tokens that were allowed."""
    name = "sampled responses"
    failed = list(failures)
    total = len(trajectories) + len(failed)
    if failed:
        first = f"{len(failed)} of {total} samples failed: {failed[0]}"
        return Check(name, "fail", first, "The engine refuses what a run would ask of it; its log says why.")
    stopped = [t for t in trajectories if t.finish_reason == "stop"]
    wrong = [int(t.response_tokens[-1]) for t in stopped if int(t.response_tokens[-1]) not in eos_ids]
    figures = f"{len(stopped)} of {total} ended by themselves, the others at {cap} tokens"
    listed = ", ".join(map(str, sorted(eos_ids)))
    if wrong:
        ends = ", ".join(map(str, sorted(set(wrong))))
        return Check(
            name,
            "fail",
            f"{figures}; {len(wrong)} of them end with token {ends}, the model folder names {listed}",
            "Engine and model folder name different ends of a response: mend eos_token (tokenizer_config.json) and "
            "eos_token_id (generation_config.json).",
        )
    inside = sum(bool(set(t.response_tokens[:-1].tolist()) & eos_ids) for t in trajectories)
    if inside:
        return Check(
            name,
            "fail",
            f"{figures}; {inside} go on after token {listed}",
            "The engine does not stop at the end that the model folder names: look for ignore_eos or min_tokens, and "
            "compare eos_token with generation_config.json.",
        )
    if not stopped:
        return Check(
            name,
            "warn",
            figures,
            "None ended by itself: the cap is too low, or the model ends with another token than the folder names.",
        )
    return Check(name, "pass", f"{figures}; all with token {listed}")
