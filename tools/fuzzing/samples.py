"""A valid message of every type that crosses a process boundary, of random content: what mutations start from.

Types without arrays are made from their own annotations, so that a new one is fuzzed without anybody thinking of it;
those with arrays, whose fields depend on each other, are written out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from msgspec import inspect

from darts_async import messages as m
from darts_async.runtime.join_link import FromLauncher, ToLauncher
from darts_async.runtime.outside_link import Answer, Request
from darts_async.runtime.topology import LINKS
from darts_async.transport.codec import Codec

__all__ = ["codecs", "message_types", "sample"]

_MAX_INT = 2**40


def codecs() -> dict[str, Codec[Any]]:
    """Return a codec for every direction of every link, by a name to report."""
    found = {f"{name} to {spec.binder}": Codec[Any](spec.forward) for name, spec in LINKS.items()}
    found |= {f"{name} from {s.binder}": Codec[Any](s.backward) for name, s in LINKS.items() if s.backward is not None}
    found |= {"requests from outside": Codec[Any](Request), "answers to outside": Codec[Any](Answer)}
    return found | {"requests to join": Codec[Any](ToLauncher), "answers to who joins": Codec[Any](FromLauncher)}


def sample(kind: type, rng: random.Random) -> Any:
    """Return a valid message of this type."""
    for _ in range(100):
        try:
            if (make := _WITH_ARRAYS.get(kind)) is not None:
                return make(rng)
            return msgspec.convert(_plain(inspect.type_info(kind), rng), kind)
        except (ValueError, msgspec.ValidationError):
            continue  # fields that do not agree: another throw
    raise LookupError(f"no valid {kind.__name__} in 100 throws: write one out in {__name__}")


def _plain(info: Any, rng: random.Random) -> Any:
    """A value of builtin types that converts to this type."""
    match info:
        case inspect.StructType():
            values = {field.encode_name: _plain(field.type, rng) for field in info.fields}
            if info.array_like:
                return list(values.values())
            return {**values, **({info.tag_field: info.tag} if info.tag_field else {})}
        case inspect.UnionType():
            return _plain(rng.choice(info.types), rng)
        case inspect.Metadata():
            return _plain(info.type, rng)
        case inspect.IntType():
            low = info.ge if info.ge is not None else (0 if info.gt is None else info.gt + 1)
            return rng.randint(low, info.le if info.le is not None else low + rng.choice((3, 1000, _MAX_INT)))
        case inspect.FloatType():
            return rng.uniform(0, 100)
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.StrType() | inspect.BytesType():
            return _text(info, rng)
        case inspect.LiteralType():
            return rng.choice(info.values)
        case inspect.DictType():
            return {_plain(info.key_type, rng): _plain(info.value_type, rng) for _ in range(rng.randint(1, 4))}
        case inspect.VarTupleType() | inspect.ListType():
            return [_plain(info.item_type, rng) for _ in range(rng.randint(0, 4))]
        case inspect.TupleType():
            return [_plain(item, rng) for item in info.item_types]
    raise LookupError(f"no random value for {info}")


def _text(info: inspect.StrType | inspect.BytesType, rng: random.Random) -> str | bytes:
    text = "".join(rng.choices("abc/.-0 \u00e9", k=rng.randint(1, min(info.max_length or 20, 20))))
    if isinstance(info, inspect.BytesType):
        return text.encode()
    return f"ipc://{text}" if info.pattern else text


def _ints(rng: random.Random, count: int, dtype: type[np.generic] = np.int32) -> np.ndarray:
    return np.array([rng.randrange(1000) for _ in range(count)], dtype)


def _floats(rng: random.Random, count: int) -> np.ndarray:
    return np.array([-rng.random() for _ in range(count)], np.float32)


def _spans(rng: random.Random, tokens: int) -> tuple[m.VersionSpan, ...]:
    starts = [0, *sorted(rng.sample(range(1, tokens), min(2, tokens - 1)))]
    return tuple(m.VersionSpan(version, start) for version, start in enumerate(starts))


def _group_plan(rng: random.Random) -> m.GroupPlan:
    group, size = rng.randrange(10**6), rng.randint(1, 6)
    return m.GroupPlan(
        group_id=group,
        prompt_id="p",
        rule=rng.choice(("all", "dual_end", "shortest", "survivor", "x")),
        group_size=size,
        keep_longest=0,
        candidate_ids=tuple(m.candidate_id(group, index) for index in range(size)),
        dispatch_version=rng.randrange(9),
        prompt_tokens=_ints(rng, 5),
    )


def _request(rng: random.Random) -> m.RolloutRequest:
    return m.RolloutRequest(
        candidate_id=rng.randrange(_MAX_INT),
        prompt_tokens=_ints(rng, 5),
        seed=rng.randrange(2**31),
        max_response_tokens=rng.randint(1, 100),
        min_policy_version=rng.randrange(9),
    )


def _trajectory(rng: random.Random) -> m.Trajectory:
    tokens = rng.randint(1, 30)
    return m.Trajectory(
        candidate_id=rng.randrange(_MAX_INT),
        replica=0,
        finish_reason="stop",
        response_tokens=_ints(rng, tokens),
        behaviour_logprobs=_floats(rng, tokens),
        version_spans=_spans(rng, tokens),
    )


def _chunk(rng: random.Random) -> m.TrajectoryChunk:
    start = rng.choice((0, 7))
    return m.TrajectoryChunk(
        candidate_id=rng.randrange(_MAX_INT),
        start=start,
        prompt_tokens=_ints(rng, 0 if start else 4),
        response_tokens=_ints(rng, rng.randint(1, 20)),
    )


def _train_group(rng: random.Random) -> m.TrainGroup:
    size = rng.randint(1, 4)
    lengths = [rng.randint(1, 10) for _ in range(size)]
    others = {"epoch": rng.randrange(9)} if "epoch" in m.TrainGroup.__struct_fields__ else {}
    return m.TrainGroup(
        group_id=rng.randrange(10**6),
        prompt_id="p",
        step=rng.randrange(9),
        prompt_tokens=_ints(rng, 5),
        candidate_ids=tuple(range(size)),
        lengths=np.array(lengths, np.int32),
        response_tokens=_ints(rng, sum(lengths)),
        behaviour_logprobs=_floats(rng, sum(lengths)),
        version_spans=tuple(_spans(rng, length) for length in lengths),
        rewards=_floats(rng, size),
        baseline_rewards=_floats(rng, size + 1),
        baseline_lengths=_ints(rng, size + 1),
        capped=(False,) * size,
        **others,
    )


_WITH_ARRAYS: dict[type, Callable[[random.Random], m.Message]] = {
    m.GroupPlan: _group_plan,
    m.RolloutRequest: _request,
    m.Trajectory: _trajectory,
    m.TrajectoryChunk: _chunk,
    m.TrainGroup: _train_group,
    m.LatencySamples: lambda rng: m.LatencySamples(
        replica=0, concurrency=_ints(rng, 3), per_token_s=np.abs(_floats(rng, 3))
    ),
    m.Progress: lambda rng: m.Progress(replica=0, candidate_ids=_ints(rng, 8, np.int64), num_tokens=_ints(rng, 8)),
}


def message_types() -> frozenset[type]:
    """Every type that some link carries."""
    return frozenset(kind for codec in codecs().values() for kind in codec.types)
