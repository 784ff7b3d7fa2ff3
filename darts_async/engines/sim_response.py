"""What the simulated engine will answer: a pure function of its parameters, the prompt and the seed.

Invariant: nothing here depends on time, load, weights or the order of requests, so a run with the simulated engine can
be repeated candidate for candidate.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from darts_async.errors import ConfigError
from darts_async.messages import RolloutRequest

NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class SimParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`generator.engine_args` of the simulated engine."""

    token_s: NotNegative = 0.001
    """Seconds that every running candidate takes for a token."""
    mean_tokens: Annotated[float, msgspec.Meta(ge=1)] = 60.0
    """Mean response length over all prompts, before the cap."""
    sigma: NotNegative = 0.8
    """Spread (standard deviation of the logarithm) of lengths within a prompt."""
    prompt_sigma: NotNegative = 0.4
    """Spread of the prompts' own mean lengths."""
    vocab_size: Annotated[int, msgspec.Meta(ge=2)] = 256
    """Tokens are drawn evenly from below this."""
    eos_token_id: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Ends a response; occurs nowhere else in it."""
    fail_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of candidates that fail half-way."""
    update_s: NotNegative = 0.0
    """Seconds that a weight update stops all candidates."""
    dies_after_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The engine dies after so many tokens in all; 0: never."""

    @classmethod
    def parse(cls, arguments: dict[str, Any]) -> SimParams:
        """Read `generator.engine_args`. Raises `ConfigError` for unknown keys and values out of range."""
        try:
            params = msgspec.convert(arguments, cls)
        except msgspec.ValidationError as error:
            fix = f"The simulated engine takes {', '.join(cls.__struct_fields__)}."
            raise ConfigError("generator.engine_args", arguments, str(error), fix) from error
        if params.eos_token_id >= params.vocab_size:
            rule = "eos_token_id must be below vocab_size"
            raise ConfigError("generator.engine_args", arguments, rule, "Raise vocab_size.")
        return params


@dataclass(frozen=True, slots=True)
class SimResponse:
    """A whole response, known in advance."""

    tokens: np.ndarray
    """int32 [length], EOS included unless capped."""
    logprobs: np.ndarray
    """float32 [length]."""
    capped: bool
    fails_at: int | None
    """Number of tokens after which the candidate fails, if it does."""


def sample_response(params: SimParams, request: RolloutRequest) -> SimResponse:
    """Draw a response: log-normal length around the prompt's own mean, tokens evenly from the vocabulary."""
    prompt = hashlib.blake2b(request.prompt_tokens.astype("<i4").tobytes(), digest_size=8).digest()
    of_prompt = np.random.default_rng([int.from_bytes(prompt, "little")])
    mean = params.mean_tokens * _log_normal(of_prompt, params.prompt_sigma)
    chance = np.random.default_rng([int.from_bytes(prompt, "little"), request.seed])
    natural = max(1, round(mean * _log_normal(chance, params.sigma)))
    length = min(natural, request.max_response_tokens)
    capped = natural > request.max_response_tokens
    fails = bool(chance.random() < params.fail_share)
    tokens = chance.integers(0, params.vocab_size - 1, length, dtype=np.int32)
    tokens[tokens >= params.eos_token_id] += 1  # even over everything but EOS
    if not capped:
        tokens[-1] = params.eos_token_id
    logprobs = -chance.exponential(0.5, length).astype(np.float32)
    return SimResponse(tokens, logprobs, capped, max(1, length // 2) if fails else None)


def _log_normal(chance: np.random.Generator, sigma: float) -> float:
    """One draw with mean 1."""
    return math.exp(sigma * float(chance.standard_normal()) - sigma * sigma / 2)
