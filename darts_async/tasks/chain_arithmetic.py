"""Chain arithmetic: a start value and labelled one-digit steps, such as `a4b+3c-5d+8`; the answer is the
total.

The number of operands (start value included) is the difficulty and names the stratum: `n2` to `n8`. Every
running total lies in 0..9. The labels let a very small model find its place in the prompt.

Which split a problem may appear in follows from a hash of its text, not from the seed: about a third of all
problems is reserved for evaluation. So no seed, and no demonstration drawn with `random_chain`, can ever
leak a held-out problem into training. Per difficulty the problems come from a stream of their own, so a
larger set contains the smaller one of the same seed.

Never raises on any response text; never reads a clock, a file or global random state.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, Literal, Self

from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt
from darts_async.tasks.params import int_params

__all__ = ["LABELS", "Chain", "ChainArithmetic", "extract_answer", "is_held_out", "random_chain"]

LABELS: Final = "abcdefgh"
NUM_TOTALS: Final = 10
# Up to four operands (7,290 problems) a difficulty can run dry, so its problems are listed; beyond, drawn.
MAX_LISTED_OPERANDS: Final = 4

Split = Literal["train", "held_out"]

# Each parameter with its default, lowest and highest value.
PARAMS: Final = {
    "seed": (0, 0, 2**63 - 1),
    "train_prompts": (64, 1, 4096),
    "held_out_prompts": (128, 1, 4096),
    "min_operands": (2, 2, len(LABELS)),
    "max_operands": (8, 2, len(LABELS)),
}

# A number that stands alone: neither part of a word nor the tail of another number.
_NUMBER = re.compile(r"(?<![\w.])[-+]?[0-9]+(?:\.[0-9]+)?(?!\w)", re.ASCII)
_CHAIN = re.compile(r"a[0-9](?:[b-h][+-][1-9]){1,7}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Chain:
    """One problem, as its running totals: the start value, then the total after each step."""

    totals: tuple[int, ...]

    @classmethod
    def parse(cls, content: str) -> Self:
        """Read a problem back from its text. Raises ValueError when the text is not one."""
        if not _CHAIN.fullmatch(content):
            raise ValueError(f"not a chain: {content!r}")
        steps = [int(content[i + 1 : i + 3]) for i in range(2, len(content), 3)]
        chain = cls(tuple(itertools.accumulate(steps, initial=int(content[1]))))
        if chain.content != content or not all(0 <= total < NUM_TOTALS for total in chain.totals):
            raise ValueError(f"labels out of order, or a total outside 0..9: {content!r}")
        return chain

    @property
    def steps(self) -> tuple[int, ...]:
        """The signed operands after the start value; none is zero."""
        return tuple(after - before for before, after in itertools.pairwise(self.totals))

    @property
    def content(self) -> str:
        """The text of the problem."""
        steps = "".join(f"{label}{step:+d}" for label, step in zip(LABELS[1:], self.steps, strict=False))
        return f"{LABELS[0]}{self.totals[0]}{steps}"

    @property
    def answer(self) -> str:
        """The last total."""
        return str(self.totals[-1])


def is_held_out(chain: Chain) -> bool:
    """Whether the problem is reserved for evaluation (about one in three, by a hash of its text)."""
    return hashlib.blake2b(chain.content.encode(), digest_size=8).digest()[0] % 3 == 0


def random_chain(rng: random.Random, operands: int, split: Split) -> Chain:
    """Draw one problem of a split, uniform over those with that many operands."""
    while True:
        totals = [rng.randrange(NUM_TOTALS)]
        while len(totals) < operands:
            # One of the nine other totals: a step of zero would tell nothing.
            totals.append((totals[-1] + rng.randrange(1, NUM_TOTALS)) % NUM_TOTALS)
        chain = Chain(tuple(totals))
        if is_held_out(chain) == (split == "held_out"):
            return chain


def extract_answer(response: str) -> str | None:
    """The last number after the last `####`, without superfluous sign and zeros; None if there is none."""
    _, marker, tail = response.rpartition("####")
    numbers = _NUMBER.findall(tail) if marker else []
    if not numbers:
        return None
    # Compared as text: int() refuses strings of more than 4,300 digits, which a policy may well write.
    digits = numbers[-1].lstrip("+-").lstrip("0") or "0"
    if digits.startswith("."):
        digits = "0" + digits
    return f"-{digits}" if numbers[-1][0] == "-" and digits != "0" else digits


@dataclass(frozen=True)
class ChainArithmetic:
    """The task. Use `from_params`, which checks the ranges."""

    seed: int = PARAMS["seed"][0]
    num_train: int = PARAMS["train_prompts"][0]
    num_held_out: int = PARAMS["held_out_prompts"][0]
    min_operands: int = PARAMS["min_operands"][0]
    max_operands: int = PARAMS["max_operands"][0]

    name: Final = "chain_arithmetic"

    @classmethod
    def from_params(cls, params: Mapping[str, object]) -> Self:
        """Build the task from the `[task]` section. Raises ConfigError with the key that is wrong."""
        values = int_params(params, PARAMS)
        if values["min_operands"] > values["max_operands"]:
            raise ConfigError(
                key="task.params.min_operands",
                value=values["min_operands"],
                rule=f"must not exceed task.params.max_operands = {values['max_operands']}",
                fix="Lower it, or raise task.params.max_operands.",
            )
        task = cls(
            seed=values["seed"],
            num_train=values["train_prompts"],
            num_held_out=values["held_out_prompts"],
            min_operands=values["min_operands"],
            max_operands=values["max_operands"],
        )
        for key, prompts in (
            ("train_prompts", task.train_prompts()),
            ("held_out_prompts", task.held_out_prompts()),
        ):
            if len(prompts) < values[key]:
                raise ConfigError(
                    key=f"task.params.{key}",
                    value=values[key],
                    rule=f"only {len(prompts)} different problems exist with that few operands",
                    fix=f"Ask for at most {len(prompts)}, or raise task.params.max_operands.",
                )
        return task

    def train_prompts(self) -> Sequence[Prompt]:
        """`train_prompts` problems, the difficulties in turn."""
        return self._train

    def held_out_prompts(self) -> Sequence[Prompt]:
        """`held_out_prompts` problems, the difficulties in turn; disjoint from every training set."""
        return self._held_out

    def reward(self, prompt: Prompt, response: str) -> float:
        """1.0 if the response's final answer is exactly the total, else 0.0."""
        return 1.0 if extract_answer(response) == prompt.answer else 0.0

    @cached_property
    def _train(self) -> tuple[Prompt, ...]:
        return self._draw("train", self.num_train)

    @cached_property
    def _held_out(self) -> tuple[Prompt, ...]:
        return self._draw("held_out", self.num_held_out)

    def _draw(self, split: Split, count: int) -> tuple[Prompt, ...]:
        streams = [_stream(self.seed, split, n) for n in range(self.min_operands, self.max_operands + 1)]
        # zip_longest: a difficulty that runs dry leaves its turn to the others.
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*streams))
        return tuple(itertools.islice((_prompt(chain) for chain in in_turn if chain), count))


def _prompt(chain: Chain) -> Prompt:
    content = chain.content
    stratum = f"n{len(chain.totals)}"
    return Prompt(prompt_id=f"chain-{content}", stratum=stratum, content=content, answer=chain.answer)


def _stream(seed: int, split: Split, operands: int) -> Iterator[Chain]:
    """Different problems of one split and difficulty, in seeded order."""
    rng = random.Random(f"{seed}/{split}/{operands}")  # noqa: S311 - seeded on purpose
    if operands <= MAX_LISTED_OPERANDS:
        listed = list(_listed(split, operands))
        rng.shuffle(listed)
        yield from listed
        return
    seen: set[Chain] = set()
    while True:
        chain = random_chain(rng, operands, split)
        if chain not in seen:
            seen.add(chain)
            yield chain


@cache
def _listed(split: Split, operands: int) -> tuple[Chain, ...]:
    every = (Chain(totals) for totals in itertools.product(range(NUM_TOTALS), repeat=operands))
    return tuple(chain for chain in every if 0 not in chain.steps and is_held_out(chain) == (split == "held_out"))
