"""What a policy does on the held-out prompts: how often it is right, and how its response lengths spread.

Works on any folder that holds a causal language model with a chat template. Numbers are computed by plain
functions on (length, right, capped) triples; the policy is sampled at temperature 1 and once more greedily.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from transformers import AutoModelForCausalLM

from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer
from quickstart_policy.sample import sample

__all__ = ["Measurement", "Response", "measure"]

EVALUATION_SEED: Final = 1234


class Response(NamedTuple):
    """What is kept of one sampled response."""

    length: int
    right: bool
    capped: bool


class Row(NamedTuple):
    """One line of the table: all responses, or those of one difficulty."""

    stratum: str
    prompts: int
    accuracy: float
    mean: float
    p50: float
    p90: float
    p99: float
    capped: float
    mean_right: float
    mean_wrong: float
    spread: float
    """Median over the prompts of the longest response over the mean one."""
    pattern_1: int
    """Prompts whose right answers are on average shorter than their wrong ones."""
    pattern_2: int
    """Prompts whose right answers are on average longer."""


class Measurement(NamedTuple):
    """The table and what belongs to it."""

    rows: list[Row]
    accuracy_greedy: float
    max_tokens: int
    samples: int
    longest_prompt: int

    @property
    def overall(self) -> Row:
        """The line over all prompts."""
        return self.rows[0]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells, for a terminal and for the model card alike."""
        header = ["level", "n", "right", "mean", "p50", "p90", "p99", "capped", "right/wrong", "max/mean", "I/II"]
        return header, [
            [
                row.stratum,
                str(row.prompts),
                f"{row.accuracy:.3f}",
                *(f"{value:.0f}" for value in row[3:7]),
                f"{row.capped:.1%}",
                f"{row.mean_right:.0f}/{row.mean_wrong:.0f}",
                f"{row.spread:.1f}",
                f"{row.pattern_1}/{row.pattern_2}",
            ]
            for row in self.rows
        ]


def measure(folder: Path, *, prompts: int = 128, samples: int = 16, max_tokens: int = 512) -> Measurement:
    """Sample the policy in `folder` on held-out prompts and tabulate."""
    task = load_task("chain_arithmetic", {"held_out_prompts": prompts})
    tokenizer = ChatTokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    questions = task.held_out_prompts()
    rendered = [tokenizer.render(question.content) for question in questions]

    def responses(count: int, temperature: float) -> list[list[Response]]:
        sampled = sample(
            model,
            rendered,
            tokenizer.eos_token_ids,
            samples=count,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=EVALUATION_SEED,
        )
        return [
            [
                Response(
                    length=len(ids),
                    right=task.reward(question, tokenizer.decode(ids)) > 0,
                    capped=ids[-1] not in tokenizer.eos_token_ids,
                )
                for ids in group
            ]
            for question, group in zip(questions, sampled, strict=True)
        ]

    groups = responses(samples, 1.0)
    strata = [question.stratum for question in questions]
    rows = [tabulate("all", groups)]
    rows += [
        tabulate(stratum, [group for group, own in zip(groups, strata, strict=True) if own == stratum])
        for stratum in sorted(Counter(strata))
    ]
    greedy = [response.right for group in responses(1, 0.0) for response in group]
    return Measurement(
        rows=rows,
        accuracy_greedy=_mean(greedy),
        max_tokens=max_tokens,
        samples=samples,
        longest_prompt=max(map(len, rendered)),
    )


def tabulate(stratum: str, groups: Sequence[Sequence[Response]]) -> Row:
    """One line of the table from the responses of several prompts, one group a prompt."""
    flat = [response for group in groups for response in group]
    lengths = np.array([response.length for response in flat], dtype=np.float64)
    p50, p90, p99 = np.percentile(lengths, [50, 90, 99])
    gaps = [_right_minus_wrong(group) for group in groups]
    return Row(
        stratum=stratum,
        prompts=len(groups),
        accuracy=_mean(response.right for response in flat),
        mean=float(lengths.mean()),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        capped=_mean(response.capped for response in flat),
        mean_right=_mean(response.length for response in flat if response.right),
        mean_wrong=_mean(response.length for response in flat if not response.right),
        spread=float(np.median([max(r.length for r in g) / _mean(r.length for r in g) for g in groups])),
        pattern_1=sum(gap < 0 for gap in gaps),
        pattern_2=sum(gap > 0 for gap in gaps),
    )


def _right_minus_wrong(group: Sequence[Response]) -> float:
    """Mean length of the right responses minus that of the wrong ones; NaN when one kind is missing."""
    right = _mean(response.length for response in group if response.right)
    return right - _mean(response.length for response in group if not response.right)


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected) if collected else float("nan")
