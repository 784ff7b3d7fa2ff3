"""What samples of held-out prompts come to: pass@1 with its standard error, lengths, the share at the cap. Pure.

A sample that failed (the engine refused it, or its reward did) counts for nothing and is counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["HeldOut", "ScoredSample", "by_stratum", "summarise"]


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One response to a held-out prompt."""

    prompt_id: str
    stratum: str
    reward: float | None
    """None when it failed."""
    length: int = 0
    """Tokens, EOS included."""
    capped: bool = False


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Figures over prompts that have at least one scored sample. None where there is nothing to measure."""

    pass_at_1: float | None
    """Mean over prompts of the mean reward of their samples (with rewards of 0 and 1, the share solved at one try)."""
    standard_error: float | None
    """Of that mean, over prompts; from two prompts on."""
    response_length: float | None
    """Mean over samples, in tokens."""
    capped_share: float | None
    """Share of the samples that ended at the cap."""
    prompts: int
    samples: int
    failed: int


def summarise(samples: Iterable[ScoredSample]) -> HeldOut:
    """Sum up. The order of the samples does not matter."""
    rewards: dict[str, list[float]] = defaultdict(list)
    lengths: list[int] = []
    capped = failed = 0
    for sample in samples:
        if sample.reward is None:
            failed += 1
            continue
        rewards[sample.prompt_id].append(sample.reward)
        lengths.append(sample.length)
        capped += sample.capped
    if not lengths:
        return HeldOut(None, None, None, None, 0, 0, failed)
    means = np.array([math.fsum(rewards[prompt]) / len(rewards[prompt]) for prompt in sorted(rewards)])
    error = float(means.std(ddof=1)) / math.sqrt(means.size) if means.size > 1 else None
    return HeldOut(
        pass_at_1=float(means.mean()),
        standard_error=error,
        response_length=float(np.mean(lengths)),
        capped_share=capped / len(lengths),
        prompts=means.size,
        samples=len(lengths),
        failed=failed,
    )


def by_stratum(samples: Iterable[ScoredSample]) -> dict[str, HeldOut]:
    """The same for each difficulty class, in the order of their names."""
    parts: dict[str, list[ScoredSample]] = defaultdict(list)
    for sample in samples:
        parts[sample.stratum].append(sample)
    return {stratum: summarise(parts[stratum]) for stratum in sorted(parts)}
