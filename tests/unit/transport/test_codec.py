"""The wire format by hand, then as properties: every message survives, no bytes get past the contract."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from typing import Any, get_args

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darts_async import messages as m
from darts_async.errors import ProtocolError
from darts_async.transport.codec import Codec

ALL_TYPES: tuple[type[m.Message], ...] = tuple(
    kind
    for kind in vars(m).values()
    if isinstance(kind, type) and issubclass(kind, m.Message) and kind is not m.Message
)


def codec_of(*kinds: Any, **options: Any) -> Codec[Any]:
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union |= kind
    return Codec(union, **options)


EVERYTHING = codec_of(*ALL_TYPES)


class Mask(msgspec.Struct, tag=True, frozen=True):
    """Not a message of ours: the other dtypes a field may have."""

    values: np.ndarray


# --- the wire format, by hand ---


def progress_frames(**changes: Any) -> list[bytes]:
    """Progress of candidates 7 and 2^40 with 3 and 4 tokens, made with another MessagePack library."""
    head = {
        "type": "Progress",
        "replica": 1,
        "candidate_ids": ["<i8", 2, 1],
        "num_tokens": ["<i4", 2, 2],
        **changes,
    }
    return [
        msgpack.packb(head),
        (7).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little"),
        (3).to_bytes(4, "little") + (4).to_bytes(4, "little"),
    ]


def test_a_message_is_a_map_that_refers_to_the_frames_behind_it() -> None:
    message = m.Progress(replica=1, candidate_ids=np.array([7, 1 << 40]), num_tokens=np.array([3, 4], dtype=np.int32))
    frames = [bytes(frame) for frame in Codec[Any](m.ToSelector).encode(message)]
    assert msgpack.unpackb(frames[0]) == msgpack.unpackb(progress_frames()[0])
    assert frames[1:] == progress_frames()[1:]
    back = Codec[Any](m.ToSelector).decode(progress_frames())
    assert (back.replica, back.candidate_ids.tolist(), back.num_tokens.tolist()) == (1, [7, 1 << 40], [3, 4])


def test_no_array_is_copied_on_either_side() -> None:
    tokens = np.arange(1000, dtype=np.int32)
    message = m.RolloutRequest(
        candidate_id=1, prompt_tokens=tokens, seed=1, max_response_tokens=8, min_policy_version=0
    )
    codec = Codec[Any](m.RolloutRequest)
    frames = codec.encode(message)
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), tokens)
    back = codec.decode(frames)
    assert np.shares_memory(back.prompt_tokens, tokens)
    with pytest.raises(ValueError, match="read-only"):
        back.prompt_tokens[0] = 5
    assert codec.last_bytes == len(frames[0]) + 4000


@pytest.mark.parametrize(
    ("frames", "rule"),
    [
        ([], "without frames"),
        ([b""], "truncated"),
        ([b"\xc1", b"", b""], "invalid opcode"),
        ([b"\x91" * 100_000], "Expected `object`"),
        ([b"\x81\xa1x" + b"\x91" * 100_000], "."),
        (progress_frames(type="Nonsense"), "Nonsense.*Invalid value 'Nonsense'"),
        (progress_frames(type="Fault"), "Fault"),  # a type of another link
        (progress_frames(extra=1), r"Progress refused.*unknown field `extra`"),
        (progress_frames(replica=-1), r"`int` >= 0.*\$\.replica"),
        (progress_frames(replica=1.5), r"Expected `int`.*\$\.replica"),
        (progress_frames(candidate_ids=["<i2", 2, 1]), r"dtype '<i2' is not one of.*\$\.candidate_ids"),
        (progress_frames(candidate_ids=["<f4", 4, 1]), "must be a 1-d int64 array, got float32"),
        (progress_frames(candidate_ids=["<i4", 4, 1]), "must be a 1-d int64 array, got int32"),
        (progress_frames(candidate_ids=["<i8", 3, 1]), "2 elements where 3 were announced"),
        (progress_frames(candidate_ids=["<i8", 2.0, 1]), "announced"),
        (progress_frames(candidate_ids=["<i8", 2, 2]), r"frame 2 where frame 1 is next"),
        (progress_frames(num_tokens=["<i4", 2, 1]), r"frame 1 where frame 2 is next"),
        (progress_frames(num_tokens=["<i4", 2, True]), "frame True"),
        (progress_frames(num_tokens=["<i4", 2, -1]), "frame -1"),
        (progress_frames(num_tokens=["<i4", 2]), r"reference \[dtype, length, frame\]"),
        (progress_frames(num_tokens=[["<i4"], 2, 2]), "dtype"),
        (progress_frames(num_tokens=[3, 4]), "reference"),
        (progress_frames(num_tokens=None), "."),
        (progress_frames()[:2], "frame 2 is missing: the message has 2"),
        ([*progress_frames(), b""], "Progress came in 4 frames where it refers to 3"),
        ([progress_frames()[0] + b"\x00", *progress_frames()[1:]], "trailing"),
        ([*progress_frames()[:2], b"1234567"], "multiple of element size"),
        ([*progress_frames()[:2], b"1234"], "1 elements where 2 were announced"),
        ([progress_frames()[0], b"x" * 8, b"1234"], "1 elements where 2"),
        ([b"\x81\xa4type\xa1\xff"], "."),  # not UTF-8
    ],
)
def test_what_breaks_the_contract_is_refused_by_name_and_rule(frames: list[bytes], rule: str) -> None:
    with pytest.raises(ProtocolError, match=rule):
        Codec[Any](m.ToSelector).decode(frames)


def test_the_other_dtypes_travel_too() -> None:
    codec = Codec[Any](Mask)
    for values in (np.array([True, False]), np.array([0, 255], np.uint8), np.array([], np.bool_)):
        back = codec.decode(codec.encode(Mask(values=values))).values
        assert back.dtype == values.dtype and back.tolist() == values.tolist()
    with pytest.raises(ProtocolError, match="neither 0 nor 1"):
        codec.decode([msgpack.packb({"type": "Mask", "values": ["|b1", 2, 1]}), b"\x01\x02"])


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (np.zeros(3), "<f8"),
        (np.zeros(3, np.float16), "<f2"),
        (np.zeros(3, ">i4"), ">i4"),
        (np.zeros((2, 2), np.int32), r"\(2, 2\)"),
        (np.zeros((), np.int32), r"\(\)"),
        (np.zeros(8, np.int32)[::2], r"strides \(8,\)"),
        (np.array([object()]), "O"),
        (np.int64(3), "int64 cannot travel"),
        ({1, 2}, "."),
        (object(), "object cannot travel"),
    ],
)
def test_what_cannot_travel_is_refused_before_it_leaves(values: Any, rule: str) -> None:
    if isinstance(values, set):
        values = [values, object()]
    with pytest.raises(ProtocolError, match=rule):
        Codec[Any](Mask).encode(Mask(values=values))


def test_a_link_carries_its_own_types_only() -> None:
    with pytest.raises(ProtocolError, match="StreamEnd"):
        Codec[Any](m.GroupPlan).encode(m.StreamEnd(role="learner", rank=0))


def test_the_bound_on_bytes_holds_in_both_directions() -> None:
    frames = progress_frames()
    size = sum(map(len, frames))
    fits, tight = Codec[Any](m.Progress, max_bytes=size), Codec[Any](m.Progress, max_bytes=size - 1)
    message = fits.decode(frames)
    assert sum(map(len, fits.encode(message))) == size
    with pytest.raises(ProtocolError, match=f"{size} bytes"):
        tight.decode(frames)
    with pytest.raises(ProtocolError, match=f"{size} bytes"):
        tight.encode(message)


def test_a_refused_message_leaves_the_codec_as_it_was() -> None:
    codec = Codec[Any](m.ToSelector)
    for cut in range(1, 3):
        with pytest.raises(ProtocolError):
            codec.decode(progress_frames()[:cut])
        assert codec.decode(progress_frames()).replica == 1


def test_frames_may_be_any_buffers() -> None:
    frames = progress_frames()
    for wrap in (bytearray, memoryview):
        assert codec_of(m.Progress).decode([wrap(frame) for frame in frames]).num_tokens.tolist() == [3, 4]
    # Views with gaps are not what a socket gives, and are refused rather than copied.
    gaps = memoryview(bytes(16))[::2]
    with pytest.raises(ProtocolError, match="contiguous"):
        codec_of(m.Progress).decode([*frames[:2], gaps])


# --- properties ---

small = st.integers(0, 2**40)
counts = st.integers(0, 12)
text = st.text(max_size=20)
real = st.floats(allow_nan=False)
role = st.sampled_from(m.ROLES)
gauges = st.dictionaries(text, real, max_size=4)
numbers = st.lists(small, max_size=8).map(tuple)
seconds = st.floats(0, allow_nan=False)
staleness = st.none() | st.integers(0, 64)
knob = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | real | text


def array(dtype: Any, size: st.SearchStrategy[int] = counts) -> st.SearchStrategy[np.ndarray]:
    if np.dtype(dtype).kind == "f":
        element: st.SearchStrategy[Any] = st.floats(width=32)
    else:
        limits = np.iinfo(dtype)
        element = st.integers(int(limits.min), int(limits.max))
    return size.flatmap(lambda n: st.lists(element, min_size=n, max_size=n)).map(lambda v: np.array(v, dtype))


@st.composite
def spans(draw: st.DrawFn, length: int) -> tuple[m.VersionSpan, ...]:
    starts = sorted(draw(st.sets(st.integers(1, length - 1), max_size=3))) if length > 1 else []
    version = draw(st.integers(0, 100))
    return tuple(m.VersionSpan(version + 2 * step, start) for step, start in enumerate([0, *starts]))


@st.composite
def group_plans(draw: st.DrawFn) -> m.GroupPlan:
    group = draw(st.integers(0, 2**30))
    indices = draw(st.lists(st.integers(0, m.MAX_CANDIDATES - 1), min_size=1, max_size=9))
    return m.GroupPlan(
        group_id=group,
        draw=draw(small),
        replica=draw(small),
        incarnation=draw(small),
        prompt_id=draw(text),
        purpose=draw(st.sampled_from(["train", "eval"])),
        rule=draw(text),
        group_size=draw(st.integers(1, 1024)),
        keep_longest=draw(small),
        candidate_ids=tuple(m.candidate_id(group, index) for index in indices),
        dispatch_version=draw(small),
        max_staleness=draw(staleness),
        unfinished=draw(st.sampled_from(["keep", "defer", "resume"])),
        prompt_tokens=draw(array(np.int32)),
    )


@st.composite
def progress(draw: st.DrawFn) -> m.Progress:
    size = draw(counts)
    return m.Progress(
        replica=draw(small),
        candidate_ids=draw(array(np.int64, st.just(size))),
        num_tokens=draw(array(np.int32, st.just(size))),
    )


@st.composite
def latency_samples(draw: st.DrawFn) -> m.LatencySamples:
    size = draw(counts)
    return m.LatencySamples(
        replica=draw(small),
        concurrency=draw(array(np.int32, st.just(size))),
        per_token_s=draw(array(np.float32, st.just(size))),
    )


@st.composite
def trajectories(draw: st.DrawFn) -> m.Trajectory:
    length = draw(st.integers(1, 40))
    return m.Trajectory(
        candidate_id=draw(small),
        replica=draw(small),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        response_tokens=draw(array(np.int32, st.just(length))),
        behaviour_logprobs=draw(array(np.float32, st.just(length))),
        version_spans=draw(spans(length)),
    )


@st.composite
def train_groups(draw: st.DrawFn) -> m.TrainGroup:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    total, size, others = sum(lengths), len(lengths), draw(st.integers(0, 9))
    return m.TrainGroup(
        group_id=draw(small),
        prompt_id=draw(text),
        step=draw(small),
        prompt_tokens=draw(array(np.int32)),
        candidate_ids=tuple(draw(st.lists(small, min_size=size, max_size=size))),
        lengths=np.array(lengths, np.int32),
        response_tokens=draw(array(np.int32, st.just(total))),
        behaviour_logprobs=draw(array(np.float32, st.just(total))),
        version_spans=tuple(draw(spans(length)) for length in lengths),
        rewards=draw(array(np.float32, st.just(size))),
        baseline_rewards=draw(array(np.float32, st.just(others))),
        baseline_lengths=draw(array(np.int32, st.just(others))),
        capped=tuple(draw(st.lists(st.booleans(), min_size=size, max_size=size))),
        max_staleness=draw(staleness),
        epoch=draw(small),
    )


@st.composite
def trajectory_chunks(draw: st.DrawFn) -> m.TrajectoryChunk:
    start = draw(small)
    return m.TrajectoryChunk(
        candidate_id=draw(small),
        start=start,
        prompt_tokens=draw(array(np.int32, st.integers(1, 9) if start == 0 else st.just(0))),
        response_tokens=draw(array(np.int32, st.integers(1, 9))),
    )


dispatch_states = st.builds(
    m.DispatchState,
    number=small,
    first_group=small,
    next_draw=small,
    redo=st.lists(st.builds(m.LostDraw, small, st.integers(0, m.MAX_CANDIDATES), text), max_size=5).map(tuple),
    open=st.lists(st.builds(m.OpenGroup, small, small, text), max_size=5).map(tuple),
    trained=small,
    version=small,
    rounds=st.builds(m.RoundsState, small, small, st.booleans(), numbers, numbers),
    ledger_records=small,
    evaluated=st.lists(st.tuples(small, real, real), max_size=3).map(tuple),
)

STRATEGIES: dict[type[m.Message], st.SearchStrategy[m.Message]] = {
    m.GroupPlan: group_plans(),
    m.CandidatePlaced: st.builds(m.CandidatePlaced, candidate_id=small, replica=small, incarnation=small),
    m.PlanAccepted: st.builds(m.PlanAccepted, group_id=small),
    m.ReplaceCandidate: st.builds(m.ReplaceCandidate, group_id=small, failed_id=small, candidate_id=small),
    m.GroupComplete: st.builds(m.GroupComplete, group_id=small),
    m.GroupOutcome: st.builds(
        m.GroupOutcome,
        group_id=small,
        prompt_id=text,
        purpose=st.sampled_from(["train", "eval"]),
        outcome=st.sampled_from(["trained", "rejected", "stale", "evaluated", "cancelled"]),
        reason=text,
        lengths=st.lists(st.builds(m.ObservedLength, small, st.booleans()), max_size=5).map(tuple),
        rewards=st.lists(real, max_size=5).map(tuple),
    ),
    m.RolloutRequest: st.builds(
        m.RolloutRequest,
        candidate_id=small,
        prompt_tokens=array(np.int32, st.integers(1, 12)),
        seed=st.integers(0, 2**63 - 1),
        max_response_tokens=st.integers(1, m.MAX_TOKENS),
        min_policy_version=small,
        incarnation=small,
        allocator=small,
    ),
    m.LatencySamples: latency_samples(),
    m.StepFilled: st.builds(m.StepFilled, step=small),
    m.ParkRollouts: st.builds(
        m.ParkRollouts, candidate_ids=st.lists(small, max_size=8).map(tuple), resume_version=small
    ),
    m.Credits: st.builds(m.Credits, replica=small, incarnation=small, allocator=small, granted_total=small),
    m.Progress: progress(),
    m.Trajectory: trajectories(),
    m.RolloutEnded: st.builds(
        m.RolloutEnded,
        candidate_id=small,
        replica=small,
        reason=st.sampled_from(["cancelled", "failed"]),
        num_tokens=small,
        error=text,
        cancel_latency_s=st.none() | real,
    ),
    m.StreamEnd: st.builds(m.StreamEnd, role=role, rank=small),
    m.GeneratorHello: st.builds(m.GeneratorHello, replica=small),
    m.DispatchState: dispatch_states,
    m.DropBelow: st.builds(m.DropBelow, group_id=small),
    m.LearnerState: st.builds(
        m.LearnerState,
        epoch=st.integers(1, 2**40),
        version=small,
        steps=st.lists(st.builds(m.TrainedStep, small, numbers), max_size=3).map(tuple),
        received=numbers,
        last=st.booleans(),
    ),
    m.StateTaken: st.builds(m.StateTaken, epoch=small, over=numbers),
    m.RoleLost: st.builds(m.RoleLost, role=role, rank=small, incarnation=small),
    m.CancelRollouts: st.builds(
        m.CancelRollouts, candidate_ids=st.lists(small, max_size=8).map(tuple), decided_at_s=real
    ),
    m.TrainGroup: train_groups(),
    m.EvaluationDone: st.builds(m.EvaluationDone, version=small),
    m.StepDone: st.builds(
        m.StepDone, version=small, group_ids=st.lists(small, max_size=8).map(tuple), last=st.booleans()
    ),
    m.GroupSwept: st.builds(m.GroupSwept, group_id=small, staleness=st.integers(-5, 100)),
    m.PolicyUpdate: st.builds(m.PolicyUpdate, version=small, weights=text, last=st.booleans()),
    m.PolicyScored: st.builds(m.PolicyScored, version=small, reward=real, response_length=real),
    m.StreamRollouts: st.builds(m.StreamRollouts, candidate_ids=st.lists(small, max_size=8).map(tuple)),
    m.TrajectoryChunk: trajectory_chunks(),
    m.ChunksDropped: st.builds(m.ChunksDropped, candidate_ids=st.lists(small, max_size=8).map(tuple)),
    m.PolicyApplied: st.builds(m.PolicyApplied, replica=small, version=small, update_ms=real),
    m.AllocatorHello: st.builds(m.AllocatorHello, number=small),
    m.AllocatorStarted: st.builds(m.AllocatorStarted, incarnation=small),
    m.Ready: st.builds(m.Ready, role=role, rank=small, pid=small, schema_version=small),
    m.Begin: st.builds(m.Begin),
    m.Heartbeat: st.builds(
        m.Heartbeat,
        role=role,
        rank=small,
        state=text,
        gauges=gauges,
        progress=small,
        waits=st.lists(st.builds(m.Wait, text, text, seconds), max_size=3).map(tuple),
    ),
    m.StepMetrics: st.builds(m.StepMetrics, step=small, values=gauges),
    m.EvalResult: st.builds(
        m.EvalResult,
        label=st.sampled_from(["before", "during", "after"]),
        policy_version=small,
        reward=real,
        response_length=real,
        num_rollouts=small,
    ),
    m.Finished: st.builds(m.Finished, role=role, rank=small, summary=gauges),
    m.RunComplete: st.builds(m.RunComplete),
    m.Warn: st.builds(m.Warn, role=role, rank=small, text=text),
    m.Fault: st.builds(m.Fault, role=role, rank=small, error=text, curable=st.booleans()),
    m.SetKnobs: st.builds(
        m.SetKnobs,
        number=small,
        changes=st.dictionaries(text, st.builds(m.KnobChange, knob, knob), max_size=4),
        at_s=seconds,
        again=st.booleans(),
    ),
    m.KnobsTaken: st.builds(m.KnobsTaken, role=role, rank=small, number=small, refused=text),
    m.ShowStacks: st.builds(m.ShowStacks, reason=text),
    m.Stop: st.builds(m.Stop, reason=st.sampled_from(["done", "interrupted", "fault"])),
}


def same(left: Any, right: Any) -> bool:
    """Equal type and fields; arrays bit by bit (NaN is a value here)."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, m.Message):
        pairs = ((getattr(left, name), getattr(right, name)) for name in left.__struct_fields__)
        return type(left) is type(right) and all(itertools.starmap(same, pairs))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[name]) for name, value in left.items())
    if isinstance(left, tuple):
        return len(left) == len(right) and all(itertools.starmap(same, zip(left, right, strict=True)))
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return bool(left == right)


def frames_of(message: m.Message) -> list[bytes]:
    return [bytes(frame) for frame in EVERYTHING.encode(message)]


def test_every_message_type_is_tried_here() -> None:
    assert set(STRATEGIES) == set(ALL_TYPES)
    unions = (m.ToSelector, m.FromLearner, m.PlanReply, m.ToSupervisor, m.FromSupervisor, m.PolicyReply)
    assert {kind for union in unions for kind in get_args(union)} <= set(ALL_TYPES)


@pytest.mark.parametrize("kind", ALL_TYPES, ids=lambda kind: kind.__name__)
def test_every_message_survives_the_trip(kind: type[m.Message]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(STRATEGIES[kind])
    def trip(message: m.Message) -> None:
        back = EVERYTHING.decode(frames_of(message))
        assert same(message, back)
        for value in (getattr(back, name) for name in back.__struct_fields__):
            assert not isinstance(value, np.ndarray) or not value.flags.writeable

    trip()


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """A valid message's frames with a few bytes, frames or ends changed."""
    frames = frames_of(draw(st.one_of(list(STRATEGIES.values()))))
    for _ in range(draw(st.integers(1, 4))):
        which = draw(st.integers(0, len(frames) - 1)) if frames else 0
        frame = frames[which] if frames else b""
        place = draw(st.integers(0, max(len(frame) - 1, 0)))
        match draw(st.sampled_from(["byte", "byte", "byte", "cut", "grow", "drop", "repeat", "swap", "insert"])):
            case "byte" if frame:
                frames[which] = frame[:place] + draw(st.binary(min_size=1, max_size=1)) + frame[place + 1 :]
            case "cut" if frames:
                frames[which] = frame[:place]
            case "grow" if frames:
                frames[which] = frame + draw(st.binary(min_size=1, max_size=8))
            case "drop" if frames:
                del frames[which]
            case "repeat" if frames:
                frames.insert(which, frame)
            case "swap" if frames:
                frames[which], frames[0] = frames[0], frames[which]
            case _:
                frames.insert(which, draw(st.binary(max_size=20)))
    return frames


def only_messages_get_through(frames: list[bytes]) -> None:
    try:
        message = EVERYTHING.decode(frames)
    except ProtocolError:
        return
    # Whatever got through is a message that could have been sent, with all of the frames in it.
    assert same(message, EVERYTHING.decode(EVERYTHING.encode(message)))
    assert type(message) in EVERYTHING.types


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_bytes_are_refused_or_a_message(frames: list[bytes]) -> None:
    only_messages_get_through(frames)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_random_bytes_are_refused(frames: list[bytes]) -> None:
    only_messages_get_through(frames)


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(ALL_TYPES), st.data())
def test_well_formed_maps_with_wrong_values_are_refused(kind: type[m.Message], data: st.DataObject) -> None:
    fields = {name: data.draw(nested) for name in kind.__struct_fields__}
    only_messages_get_through([msgpack.packb({"type": kind.__name__, **fields}), b"12345678"])


@pytest.mark.parametrize("kind", ["Stop", "RolloutRequest"])
@pytest.mark.parametrize("field", ["x", "prompt_tokens"])
def test_refusing_a_large_message_builds_nothing_of_it(kind: str, field: str) -> None:
    # Four million objects of four million bytes: they took 2 s to build, for the name in the error message, and would
    # in the place of an array too.
    nested = msgspec.msgpack.encode([[1] * 2000] * 2000)
    pack = msgspec.msgpack.encode
    head = {"type": kind, "candidate_id": 1, "seed": 1, "max_response_tokens": 8, "min_policy_version": 0}
    frames = [bytes([0x80 + len(head) + 1]) + b"".join(map(pack, sum(head.items(), ()))) + pack(field) + nested]
    codec: Codec[Any] = codec_of(m.FromSupervisor, m.FromAllocator)
    began = time.thread_time()
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=f"^{kind} refused"):
        codec.decode(frames)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20 and time.thread_time() - began < 0.5
