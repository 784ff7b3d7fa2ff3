"""`reasoning_gym`: any procedural data set of reasoning-gym, or a weighted mixture, scored by its own verifiers.

The problems are generated once, into a book that is kept: some data sets make nine a second, and what is drawn may
depend on the process. Beside a problem stands the entry that its verifier wants. Without `partial` only a full score
counts: many verifiers give some credit to whatever contains the answer.

Never raises on any response: a verifier that fails on junk means 0.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt
from darts_async.tasks.book import Book, BookPrompts
from darts_async.tasks.book_cache import open_book
from darts_async.tasks.columns import BadRow, Columns, parse_template
from darts_async.tasks.entries import packed, unpacked
from darts_async.tasks.files import Row
from darts_async.tasks.own_data import Source, write_book
from darts_async.tasks.params import read_params
from darts_async.tasks.rewards.answers import final_answer
from darts_async.tasks.tables import need

__all__ = ["ReasoningGym"]

Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
FULL_SCORE: Final = 0.999
_TAKEN: Final = frozenset({"size", "seed"})
"""Parameters of every data set that the task sets itself."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One data set of a mixture."""

    name: str
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    config: dict[str, Any] = {}


class Params(msgspec.Struct, frozen=True, kw_only=True):
    """`[task.params]` of `reasoning_gym`."""

    dataset: str = ""
    """Name of a data set, such as `chain_sum`."""
    config: dict[str, Any] = {}
    """Its own parameters, such as `{ min_terms = 2, max_digits = 1 }`."""
    datasets: list[Part] = []
    """In the place of `dataset`: several, each with `name`, `weight` and `config`."""
    size: Count = 500
    """Problems to train on (fewer where some come twice)."""
    held_out: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 64
    """Problems held out."""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    """Which problems are drawn."""
    partial: bool = False
    """Take the verifier's score as it is, between 0 and 1. False: 1 for a full score, else 0."""
    extract: Literal["tag", "marker", "response"] = "tag"
    """What the verifier gets: what stands in the last `<answer>...</answer>`, or behind the last `####`, or all."""
    template: str = "{prompt}\n\nGive the final answer as <answer>...</answer>."
    """The user's message; `{prompt}` stands for the question."""
    system: str = ""
    """System prompt."""


class ReasoningGym:
    """The task. Use `from_params`, which checks them."""

    name: Final = "reasoning_gym"

    def __init__(self, params: Params) -> None:
        self._params = params
        self._parts = params.datasets or [Part(params.dataset, 1.0, params.config)]
        self._columns = Columns(
            prompt="question",
            answer="answer",
            stratum="stratum",
            keep=("entry",),
            system=params.system,
            template=parse_template("task.params.template", params.template),
        )
        made_from = {"task": self.name, "version": version("reasoning-gym"), **msgspec.to_builtins(params)}
        for name in ("partial", "extract"):
            made_from.pop(name)
        self._book: Book = open_book(made_from, [], self._write, keep=True)
        self.notes = self._book.info.notes

    @classmethod
    def from_params(cls, params: Mapping[str, object]) -> ReasoningGym:
        """Build the task from `[task.params]`. Raises ConfigError with the key that is wrong."""
        given = read_params("task.params", params, Params)
        need("reasoning_gym", "task.name", "reasoning_gym")
        if bool(given.dataset) == bool(given.datasets):
            raise ConfigError(
                "task.params.dataset",
                given.dataset,
                "one data set or a list of them is needed, and not both",
                'Set `dataset = "chain_sum"`, or [[task.params.datasets]] with `name` and `weight`.',
            )
        names = [part.name for part in given.datasets]
        if len(set(names)) < len(names):
            raise ConfigError("task.params.datasets", names, "a data set is there twice", "Name each one once.")
        return cls(given)

    def train_prompts(self) -> BookPrompts:
        """The generated problems."""
        return self._book.prompts(held_out=False)

    def held_out_prompts(self) -> BookPrompts:
        """Further ones, of the same distribution; none of them is trained on."""
        return self._book.prompts(held_out=True)

    def find(self, prompt_id: str) -> Prompt:
        """Return a prompt by its id. Raises `KeyError`."""
        return self._book.prompt(self._book.number_of(prompt_id))

    def prepare(self) -> None:
        """Load the verifiers, which takes seconds."""
        _ = self._verifiers

    def reward(self, prompt: Prompt, response: str) -> float:
        """Score a response with the data set's own verifier."""
        extract = self._params.extract
        marker, tag = ("####" if extract == "marker" else ""), ("answer" if extract == "tag" else "")
        answer = final_answer(response, marker=marker, tag=tag)
        if answer is None:
            return 0.0
        try:
            entry = unpacked(prompt.extra["entry"])
            score = float(self._dataset_of(entry).score_answer(answer=answer, entry=entry))
        except Exception:  # noqa: BLE001 - verifiers raise on junk
            return 0.0
        if self._params.partial:
            return min(max(score, 0.0), 1.0)
        return float(score >= FULL_SCORE)

    def _dataset_of(self, entry: Mapping[str, Any]) -> Any:
        return self._verifiers[entry["metadata"]["source_dataset"]]

    @cached_property
    def _verifiers(self) -> dict[str, Any]:
        return {part.name: self._made(part, index) for index, part in enumerate(self._parts)}

    def _made(self, part: Part, index: int) -> Any:
        known, create_dataset = _library()
        key = f"task.params.datasets[{index}]" if self._params.datasets else "task.params"
        if part.name not in known or part.name == "composite":
            near = difflib.get_close_matches(part.name, known, n=1)
            name_key = f"{key}.name" if self._params.datasets else "task.params.dataset"
            raise ConfigError(
                name_key,
                part.name,
                f"reasoning-gym has no such data set (it has {len(known) - 1})",
                f"Did you mean {near[0]!r}?" if near else "Its README lists them.",
            )
        taken = _TAKEN & part.config.keys()
        if taken:
            raise ConfigError(
                f"{key}.config.{min(taken)}",
                part.config[min(taken)],
                "is the task's own",
                f"Set task.params.{min(taken)}.",
            )
        params = self._params
        try:
            return create_dataset(
                part.name, **part.config, size=params.size + params.held_out, seed=params.seed + index
            )
        except (TypeError, ValueError, AssertionError, KeyError) as error:
            names = [field.name for field in dataclasses.fields(known[part.name][1]) if field.name not in _TAKEN]
            rule = f"`{part.name}` does not take these parameters ({error})"
            raise ConfigError(f"{key}.config", part.config, rule, f"It has: {', '.join(names) or 'none'}.") from None

    def _write(self, folder: Path) -> None:
        params = self._params
        verifiers = self._verifiers
        sources = [
            Source(lambda: self._generate(verifiers, 0, params.size), held_out=False, name="problem ", unit=""),
            Source(
                lambda: self._generate(verifiers, params.size, params.size + params.held_out),
                held_out=True,
                name="held-out problem ",
                unit="",
            ),
        ]
        write_book(folder, sources, self._columns.item, 0.0, None)

    def _generate(self, verifiers: Mapping[str, Any], begin: int, end: int) -> Iterator[tuple[int, Row]]:
        import random  # noqa: PLC0415

        names = [part.name for part in self._parts]
        weights = [part.weight for part in self._parts]
        for number in range(begin, end):
            rng = random.Random(f"{self._params.seed}/{number}")  # noqa: S311 - seeded on purpose
            name = rng.choices(names, weights)[0]
            try:
                entry = dict(verifiers[name][number])
            except Exception as error:  # noqa: BLE001 - a generator that finds nothing
                yield number, BadRow(f"`{name}` raised {type(error).__name__}: {error}")
                continue
            entry["metadata"] = {**entry.get("metadata", {}), "source_dataset": name}
            answer = entry.get("answer")
            try:
                kept = packed(entry)
            except TypeError as error:
                yield number, BadRow(f"`{name}`: {error}")
                continue
            yield (
                number,
                {
                    "question": entry.get("question"),
                    "answer": answer if isinstance(answer, str) else "",
                    "stratum": name,
                    "entry": kept,
                },
            )


def _library() -> tuple[Mapping[str, Any], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that it imports, when they are compiled
        from reasoning_gym.factory import DATASETS, create_dataset  # type: ignore[import-untyped]  # noqa: PLC0415

    return DATASETS, create_dataset
