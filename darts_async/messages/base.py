"""What all messages are made of: ids, bounds, arrays, version spans."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np

SCHEMA_VERSION = 3
"""Raised whenever a message changes shape; peers that disagree refuse each other at READY."""

MAX_CANDIDATES = 1024
"""Candidates of one group, replacements included: the low 10 bits of a candidate id."""

MAX_TOKENS = 1 << 20
"""Tokens of one prompt or one response. A bound against garbage, not a tuning knob."""

Role: TypeAlias = Literal["allocator", "generator", "selector", "learner"]
ROLES: tuple[Role, ...] = ("allocator", "generator", "selector", "learner")

Purpose: TypeAlias = Literal["train", "eval"]
"""What a group is for. Groups of purpose `eval` are scored and reported, never selected from, cancelled, trained on
or counted in the run's ledger."""

LedgerState: TypeAlias = Literal["trained", "rejected", "cancelled_tail", "stale", "failed", "cancelled_shutdown"]
LEDGER_STATES: tuple[LedgerState, ...] = (
    "trained",
    "rejected",
    "cancelled_tail",
    "stale",
    "failed",
    "cancelled_shutdown",
)

NonNegative = Annotated[int, msgspec.Meta(ge=0)]
ShortText = Annotated[str, msgspec.Meta(max_length=256)]
LongText = Annotated[str, msgspec.Meta(max_length=8192)]
CandidateIds = Annotated[tuple[NonNegative, ...], msgspec.Meta(max_length=MAX_CANDIDATES)]
GroupIds = Annotated[tuple[NonNegative, ...], msgspec.Meta(max_length=1 << 16)]


def candidate_id(group_id: int, index: int) -> int:
    """Pack a group's number and a candidate's index in it into one id. Raises `ValueError` out of range."""
    if not 0 <= index < MAX_CANDIDATES or group_id < 0:
        raise ValueError(f"no candidate id for group {group_id}, index {index}")
    return group_id * MAX_CANDIDATES + index


def group_of(candidate: int) -> int:
    """Return the number of the group that a candidate belongs to."""
    return candidate // MAX_CANDIDATES


def index_of(candidate: int) -> int:
    """Return a candidate's index within its group."""
    return candidate % MAX_CANDIDATES


def check_array(name: str, array: np.ndarray, dtype: type[np.generic], length: int | None = None) -> None:
    """Raise `ValueError` unless it is a list of such numbers, of this length if one is given."""
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise ValueError(f"{name} must be a 1-d {np.dtype(dtype)} array, got {array.dtype} {array.shape}")
    if array.size > MAX_CANDIDATES * MAX_TOKENS:
        raise ValueError(f"{name} has {array.size} elements")
    if length is not None and array.size != length:
        raise ValueError(f"{name} has {array.size} elements where {length} were announced")


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, eq=False):
    """Base of everything on the wire. Compared by identity (array fields have no truth value)."""


class VersionSpan(msgspec.Struct, frozen=True, array_like=True):
    """Tokens from `start` (index in the response) up to the next span were sampled by `version` of the policy."""

    version: NonNegative
    start: NonNegative


VersionSpans = Annotated[tuple[VersionSpan, ...], msgspec.Meta(max_length=4096)]


def check_spans(spans: tuple[VersionSpan, ...], num_tokens: int) -> None:
    """Raise `ValueError` unless the spans start at 0, are increasing in start and version, and lie in the response."""
    if num_tokens and (not spans or spans[0].start != 0):
        raise ValueError("version spans must cover the response from its first token")
    for before, after in pairwise(spans):
        if after.start <= before.start or after.version <= before.version:
            raise ValueError(f"version spans must increase: {before} then {after}")
    if spans and spans[-1].start >= max(num_tokens, 1):
        raise ValueError(f"version span {spans[-1]} starts behind a response of {num_tokens} tokens")
