"""What a response is worth: the task's own verifier, or a weighted sum of reward functions.

Runs within a reward worker. Functions may be plain or async; the async ones of a response run at the same time.
Invariant: a score is a finite number and has a value for each function that applies, or an exception says which
function failed and, where the fault is in somebody's own code, in which line.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec

from darts_async.config.import_path import described
from darts_async.config.reward_rules import OWN_VERIFIER
from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt, Response, Task

if TYPE_CHECKING:
    import asyncio

    from darts_async.tasks.rewards import AnyReward

__all__ = ["RewardError", "RewardFunction", "Scored", "Scoring"]

_NOTHING: Final[Mapping[str, float]] = {}


class RewardFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A table of `[[reward.functions]]`, as a worker gets it."""

    name: str
    label: str
    weight: float = 1.0
    params: dict[str, Any] = {}


class Scored(NamedTuple):
    """What a response got."""

    reward: float
    components: Mapping[str, float] = _NOTHING
    """Label of each reward function that applied to its value, before weighting."""


class RewardError(Exception):
    """A function raised, or returned what is no score."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        """`raised` or `not_finite`."""


@dataclass(frozen=True, slots=True)
class _Part:
    label: str
    weight: float
    function: AnyReward


class Scoring:
    """The reward of a run. Use as a context manager: async functions share one event loop for as long as it lives."""

    def __init__(self, task: Task, functions: Sequence[RewardFunction]) -> None:
        """Load the functions. Raises `ConfigError` for one that cannot be loaded, or a task without any."""
        self._parts = tuple(
            _Part(one.label, one.weight, self._load(task, one, index)) for index, one in enumerate(functions)
        )
        self._whole = None if functions else _Part("", 1.0, _own_verifier(task))
        self._runner: asyncio.Runner | None = None

    def prepare(self) -> None:
        """Have everything loaded that takes a while: the first score has a deadline, too."""
        for part in self._parts if self._whole is None else (self._whole,):
            # Of a method, such as a task's verifier, it is the object's.
            prepare = getattr(getattr(part.function, "__self__", part.function), "prepare", None)
            if callable(prepare):
                prepare()

    def close(self) -> None:
        """End the event loop, if there is one."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, prompt: Prompt, text: str, num_tokens: int) -> Scored:
        """Score a response. Raises `RewardError`."""
        response = Response(text, num_tokens)
        if self._whole is not None:
            (value,) = self._values((self._whole,), prompt, response)
            if value is None:
                raise RewardError("raised", "the task's reward is None")
            return Scored(value)
        values = self._values(self._parts, prompt, response)
        applied = {part.label: value for part, value in zip(self._parts, values, strict=True) if value is not None}
        if not applied:
            raise RewardError("raised", "no reward function applies to this prompt: each returned None")
        reward = sum(part.weight * applied[part.label] for part in self._parts if part.label in applied)
        if not math.isfinite(reward):
            raise RewardError("not_finite", f"the weighted sum of the reward functions is {reward}")
        return Scored(reward, applied)

    def _values(self, parts: Sequence[_Part], prompt: Prompt, response: Response) -> list[float | None]:
        results: list[Any] = []
        waiting: dict[int, Awaitable[Any]] = {}
        for index, part in enumerate(parts):
            try:
                result = part.function(prompt, response)
            except Exception as error:
                for begun in waiting.values():
                    if inspect.iscoroutine(begun):
                        begun.close()
                raise RewardError("raised", _named(part, described(error))) from error
            results.append(result)
            if inspect.isawaitable(result):
                waiting[index] = result
        if waiting:
            answers = self._run(list(waiting.values()))
            for index, answer in zip(waiting, answers, strict=True):
                if isinstance(answer, BaseException):
                    raise RewardError("raised", _named(parts[index], described(answer))) from answer
                results[index] = answer
        return [_number(part, result) for part, result in zip(parts, results, strict=True)]

    def _run(self, waiting: Sequence[Awaitable[Any]]) -> list[Any]:
        if self._runner is None:
            import asyncio  # noqa: PLC0415 - a worker without async functions starts faster

            self._runner = asyncio.Runner()
        return self._runner.run(_all(waiting))

    @staticmethod
    def _load(task: Task, function: RewardFunction, index: int) -> AnyReward:
        key = f"reward.functions[{index}]"
        if function.name != OWN_VERIFIER:
            from darts_async.tasks.rewards import load_reward  # noqa: PLC0415 - a worker without any starts faster

            return load_reward(f"{key}.name", function.name, function.params, f"{key}.params")
        if function.params:
            raise ConfigError(
                f"{key}.params", function.params, "the task's own verifier takes none here", "Set task.params."
            )
        return _own_verifier(task)


def _own_verifier(task: Task) -> AnyReward:
    if not getattr(task, "has_reward", True):
        raise ConfigError(
            "reward.functions",
            [],
            f"`{task.name}` has no method `reward(self, prompt, response)`, so nothing scores responses",
            'Add it, or a table [[reward.functions]] with name = "exact_match" or the path of your own function.',
        )
    return task.reward


async def _all(waiting: Sequence[Awaitable[Any]]) -> list[Any]:
    import asyncio  # noqa: PLC0415 - as above

    return await asyncio.gather(*waiting, return_exceptions=True)


def _number(part: _Part, value: Any) -> float | None:
    if value is None:
        return None
    try:
        # Numbers of numpy and torch have this, too; texts do not.
        number = float(value) if hasattr(value, "__float__") else None
    except Exception as error:
        raise RewardError("raised", _named(part, described(error))) from error
    if number is None:
        raise RewardError("raised", _named(part, f"returned a {type(value).__name__}, not a number"))
    if not math.isfinite(number):
        raise RewardError("not_finite", _named(part, f"the reward is {number}"))
    return number


def _named(part: _Part, text: str) -> str:
    return f"reward function `{part.label}`: {text}" if part.label else text
