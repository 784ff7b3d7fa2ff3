"""Which response a simulated policy gives to a prompt: how long, and whether it is correct. Pure, seeded, cheap.

The model: prompt p has a median length `m_p` (log-normal over prompts), a spread `s_p` (log-normal too), log-odds of a
correct answer `a_p` (normal) and a pattern. A response has a normal score z and

    ln length = ln m_p + s_p z + shift        (or from the longer log-normal, with probability tail_share)
    log-odds  = a_p -/+ length_effect z + lift

with minus in prompts of Pattern I (short is better) and plus in Pattern II. `shift` and `lift` are the policy's, by
version: what training has changed. The assumption there is the breeder's equation: a step moves the mean of
log-lengths by `shaping` times the selection differential, and raises the log-odds by `learning`. Both are crude, and
switched off by default; what a twin says about one step does not depend on them.

Invariant: a response is a function of prompt, seed and version, so it is the same wherever and whenever it is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Final

from darts_async.algorithms.seeding import stable_hash
from darts_async.twin.policy import Drawn
from darts_async.twin.profile import WorkloadProfile

__all__ = ["Workload"]

_NORMAL: Final = NormalDist()
_WORD: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class _Prompt:
    log_median: float
    sigma: float
    log_odds: float
    effect: float
    """Signed: of z on the log-odds."""


class Workload:
    """The prompts of a profile and the policy that answers them. Implements `Policy`."""

    def __init__(self, profile: WorkloadProfile, seed: int) -> None:
        self._profile = profile
        self._seed = seed
        self._shift = [0.0]
        """Of the mean log-length, by version."""
        self._prompt = lru_cache(maxsize=1 << 18)(self._make_prompt)

    def draw(self, prompt: int, seed: int, version: int) -> Drawn:
        """Return the response that a version of the policy gives to a prompt with a seed."""
        profile, of_prompt = self._profile, self._prompt(prompt)
        digest = blake2b(f"{prompt} {seed} {self._seed}".encode(), digest_size=24).digest()
        z = _NORMAL.inv_cdf(_uniform(digest[:8]))
        log_length = of_prompt.log_median + of_prompt.sigma * z + self.shift(version)
        tail, chance = _uniform(digest[8:16]), _uniform(digest[16:])
        if tail < profile.tail_share:
            log_length += math.log(profile.tail_factor)
            z += math.log(profile.tail_factor) / max(of_prompt.sigma, 1e-9)
        log_odds = of_prompt.log_odds + of_prompt.effect * min(max(z, -4.0), 4.0) + profile.learning * version
        length = max(1, round(math.exp(min(log_length, 20.0))))
        return Drawn(length, chance < 1.0 / (1.0 + math.exp(-log_odds)))

    def shift(self, version: int) -> float:
        """Return what training has added to the mean log-length by a version."""
        return self._shift[min(version, len(self._shift) - 1)]

    def trained(self, version: int, responses: Iterable[tuple[int, Sequence[int]]]) -> None:
        """A step made `version` from these: prompts with the lengths of the responses that were trained on."""
        before = self._shift[-1]
        differentials = [
            math.log(max(1, length)) - self._expected(prompt, before)
            for prompt, lengths in responses
            for length in lengths
        ]
        mean = sum(differentials) / len(differentials) if differentials else 0.0
        if version == len(self._shift):
            self._shift.append(before + self._profile.shaping * mean)

    def _expected(self, prompt: int, shift: float) -> float:
        tail = self._profile.tail_share * math.log(self._profile.tail_factor)
        return self._prompt(prompt).log_median + tail + shift

    def _make_prompt(self, prompt: int) -> _Prompt:
        profile = self._profile
        of_length, of_sigma, of_odds, pattern = (
            _uniform(stable_hash("prompt", self._seed, prompt, what).to_bytes(8, "little"), half=True)
            for what in ("length", "sigma", "odds", "pattern")
        )
        accuracy = min(max(profile.accuracy, 1e-6), 1 - 1e-6)
        return _Prompt(
            log_median=math.log(profile.median_tokens) + profile.prompt_sigma * _NORMAL.inv_cdf(of_length),
            sigma=profile.sigma * math.exp(profile.sigma_spread * _NORMAL.inv_cdf(of_sigma)),
            log_odds=math.log(accuracy / (1 - accuracy)) + profile.accuracy_spread * _NORMAL.inv_cdf(of_odds),
            effect=-profile.length_effect if pattern < profile.pattern_one else profile.length_effect,
        )


def _uniform(word: bytes, *, half: bool = False) -> float:
    """A number in (0, 1) from 8 bytes; half: the highest bit is not used (`stable_hash` leaves it 0)."""
    return (int.from_bytes(word, "little") + 0.5) / (_WORD >> 1 if half else _WORD)
