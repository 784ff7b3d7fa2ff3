"""Reward functions that ship with the package, and how somebody's own are loaded.

A reward function takes a `Prompt` and the text of a response and returns a number, or None where it does not apply. A
further one is an entry in the registry. Built-in ones never raise, whatever the policy writes.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from darts_async.config.import_path import described, is_import_path, load_object
from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt
from darts_async.tasks.params import read_params
from darts_async.tasks.rewards.answers import Contains, ExactMatch, Number
from darts_async.tasks.rewards.forms import Format, Length, Repetition, ThinkFormat
from darts_async.tasks.rewards.maths import Maths

__all__ = ["BUILT_IN", "AnyReward", "Reward", "construct", "load_builtin", "load_reward"]

Reward: TypeAlias = Callable[[Prompt, str], float]
AnyReward: TypeAlias = Callable[[Prompt, str], Any]
"""Somebody's own: what it returns is looked at when it has."""

BUILT_IN: Final[Mapping[str, type[msgspec.Struct]]] = {
    "contains": Contains,
    "exact_match": ExactMatch,
    "format": Format,
    "length": Length,
    "maths": Maths,
    "number": Number,
    "repetition": Repetition,
    "think_format": ThinkFormat,
}
"""Name to its parameters, which are called with a prompt and a response."""


def load_builtin(key: str, name: str, params: Mapping[str, object], params_key: str = "") -> Reward:
    """Return a built-in reward function. Raises `ConfigError` for another name or parameters it does not have."""
    if name not in BUILT_IN:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise ConfigError(
            key,
            name,
            f"there is no such reward function (known: {', '.join(sorted(BUILT_IN))})",
            f"Did you mean {near[0]!r}?" if near else "Use one of those, or the import path of your own.",
        )
    made: Any = read_params(params_key or key, params, BUILT_IN[name])
    reward: Reward = made
    return reward


def load_reward(key: str, name: str, params: Mapping[str, object], params_key: str) -> AnyReward:
    """Return a built-in function, or somebody's own by import path. Raises `ConfigError`.

    An own one is a function `(prompt, response, **params)`, or a class that is made with the parameters and called
    with prompt and response.
    """
    if not is_import_path(name):
        return load_builtin(key, name, params, params_key)
    found = load_object(key, name)
    if isinstance(found, type):
        made = construct(key, name, found, params, params_key)
        _check_call(key, name, made, {}, params_key)
        called: AnyReward = made
        return called
    _check_call(key, name, found, params, params_key)
    if not params:
        return found

    def reward(prompt: Prompt, response: str) -> Any:
        return found(prompt, response, **params)

    return reward


def construct(key: str, name: str, found: Callable[..., Any], params: Mapping[str, object], params_key: str) -> Any:
    """Call a class or function with parameters by name. Raises `ConfigError` when it does not take them, or raises."""
    try:
        inspect.signature(found).bind(**params)
    except TypeError as error:
        rule = f"`{name}` does not take these parameters ({error})"
        raise ConfigError(params_key, dict(params), rule, "Mend the names, or its signature.") from None
    except ValueError:
        pass  # written in C, without a signature
    try:
        return found(**params)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(key, name, f"raised {described(error)}", "Mend it.") from error


def _check_call(key: str, name: str, found: Any, params: Mapping[str, object], params_key: str) -> None:
    if not callable(found):
        raise ConfigError(key, name, "cannot be called", "Define `__call__(self, prompt, response)`.")
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    try:
        signature.bind("prompt", "response")
    except TypeError as error:
        if not params:
            rule = f"cannot be called with a prompt and a response: {error}"
            raise ConfigError(key, name, rule, "Define it as (prompt, response).") from None
    try:
        signature.bind("prompt", "response", **params)
    except TypeError as error:
        rule = f"`{name}` does not take these parameters ({error})"
        raise ConfigError(params_key, dict(params), rule, "Mend the names, or its signature.") from None
