"""The noisy teacher: demonstrations of chain arithmetic in four styles, slips included.

The styles give the policy what the quickstart needs: it is right about half of the time, and its response
lengths have a long tail within a prompt.

| style | what it writes | typical fate |
|---|---|---|
| concise | one step a line | short, right when the chain is short |
| shortcut | two or three steps a line | short, wrong more often |
| check | repeats the pass until two agree, then more for nothing | long, mostly right |
| lost | random steps after "wait" or "hmm" | long or very long, mostly wrong |

`lost` goes with easy problems (there, wrong is longer than right: Pattern I) and `check` with hard ones
(there, right is longer than wrong: Pattern II).

Never draws a held-out problem. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from darts_async.tasks.chain_arithmetic import LABELS, Chain, random_chain

__all__ = ["Demonstration", "demonstrate", "demonstrate_clean"]

MAX_CHARS: Final = 560
"""Texts are cut here, without an end of text: from such texts the policy learns to run into its cap."""

# Fewer further passes than these of `check` shorten the tail; more of them run right answers into the cap, which
# makes them wrong, and Pattern II fades (measured: with 9 it held for 23 of 54 hard prompts, with 6 for 35).
MEAN_FURTHER_PASSES: Final = (1.0, 7.0)
"""Either mean, with equal odds."""

SLIP_SHORTCUT: Final = 0.20
SLIP_CHECK: Final = 0.01
SLIP_LOST: Final = 0.30


@dataclass(frozen=True, slots=True)
class Band:
    """Teacher settings for a range of difficulties: the style mix and the slip rate of a plain step."""

    concise: float
    shortcut: float
    check: float
    lost: float
    slip: float


EASY: Final = Band(0.74, 0.02, 0.02, 0.22, slip=0.05)
MIDDLE: Final = Band(0.57, 0.20, 0.12, 0.11, slip=0.07)
HARD: Final = Band(0.36, 0.38, 0.24, 0.02, slip=0.10)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and one way to answer it; `ended` is False when the text was cut."""

    content: str
    response: str
    ended: bool


def demonstrate(rng: random.Random, operands: int) -> Demonstration:
    """One demonstration of the full mix."""
    chain = random_chain(rng, operands, "train")
    band = EASY if operands <= 3 else MIDDLE if operands <= 5 else HARD
    styles: list[Callable[[random.Random, Chain, Band], str]] = [_concise, _shortcut, _check, _lost]
    style = rng.choices(styles, [band.concise, band.shortcut, band.check, band.lost])[0]
    text = style(rng, chain, band)
    return Demonstration(chain.content, text[:MAX_CHARS], ended=len(text) <= MAX_CHARS)


def demonstrate_clean(rng: random.Random, max_operands: int) -> Demonstration:
    """One demonstration without slips, concise or shortcut: what arithmetic is learned from first."""
    chain = random_chain(rng, rng.randint(2, max_operands), "train")
    steps_a_line = 1 if rng.random() < 0.7 else 3
    lines, total = _pass(rng, chain, 0.0, steps_a_line)
    return Demonstration(chain.content, lines + _final(total), ended=True)


def _concise(rng: random.Random, chain: Chain, band: Band) -> str:
    lines, total = _pass(rng, chain, band.slip)
    return lines + _final(total)


def _shortcut(rng: random.Random, chain: Chain, _band: Band) -> str:
    lines, total = _pass(rng, chain, SLIP_SHORTCUT, max_steps_a_line=3)
    return lines + _final(total)


def _check(rng: random.Random, chain: Chain, band: Band) -> str:
    text, previous = _pass(rng, chain, band.slip)
    agreed = False
    further = _geometric(rng, rng.choice(MEAN_FURTHER_PASSES))
    while len(text) <= MAX_CHARS:
        lines, total = _pass(rng, chain, SLIP_CHECK)
        text += "check\n" + lines
        agreed = agreed or total == previous
        previous = total
        if agreed:
            if further == 0:
                break
            further -= 1
    return text + _final(previous)


def _lost(rng: random.Random, chain: Chain, band: Band) -> str:
    text, total = _pass(rng, chain, band.slip)
    word, mean = ("wait", 25.0) if rng.random() < 0.7 else ("hmm", 2.0)
    for _ in range(1 + _geometric(rng, mean)):
        index = rng.randrange(len(chain.steps))
        total = _slip(rng, (total + chain.steps[index]) % 10, SLIP_LOST)
        text += f"{word}\n{_step(chain, index)}={total}\n"
    return text + _final(total)


def _pass(rng: random.Random, chain: Chain, slip: float, max_steps_a_line: int = 1) -> tuple[str, int]:
    """One pass over the steps. It restates the start value, so a line needs only the one before it."""
    total = chain.totals[0]
    text = f"{LABELS[0]}{total}\n"
    index = 0
    while index < len(chain.steps):
        width = 1 if max_steps_a_line == 1 else rng.randint(2, max_steps_a_line)
        line = range(index, min(index + width, len(chain.steps)))
        # After a slip a total may leave 0..9; wrapping keeps it one digit, and wrong it is anyway.
        total = _slip(rng, (total + sum(chain.steps[i] for i in line)) % 10, slip)
        text += "".join(_step(chain, i) for i in line) + f"={total}\n"
        index = line.stop
    return text, total


def _step(chain: Chain, index: int) -> str:
    return f"{LABELS[index + 1]}{chain.steps[index]:+d}"


def _final(total: int) -> str:
    return f"####{total}"


def _slip(rng: random.Random, total: int, probability: float) -> int:
    return (total + rng.randrange(1, 10)) % 10 if rng.random() < probability else total


def _geometric(rng: random.Random, mean: float) -> int:
    """A geometric count from 0 on with that mean."""
    return int(math.log(1.0 - rng.random()) / math.log(mean / (1.0 + mean)))
