"""Chunks of responses, joined: without gaps, a repeat changes nothing, what is forgotten stays so."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.streamed_tokens import StreamedTokens
from darts_async.messages import TrajectoryChunk

PROMPT = [7, 8]


def _chunk(response: list[int], start: int, end: int, candidate: int = 5) -> TrajectoryChunk:
    return TrajectoryChunk(
        candidate_id=candidate,
        start=start,
        prompt_tokens=np.array(PROMPT if start == 0 else [], np.int32),
        response_tokens=np.array(response[start:end], np.int32),
    )


@given(st.data())
def test_repeats_of_any_chunk_at_any_time_change_nothing(data: st.DataObject) -> None:
    response = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
    cuts = sorted({0, len(response), *data.draw(st.sets(st.integers(1, len(response)), max_size=4))})
    chunks = [_chunk(response, *pair) for pair in itertools.pairwise(cuts)]
    streams = StreamedTokens(max_response_tokens=len(response))
    for number, chunk in enumerate(chunks):
        assert streams.add(chunk)
        for again in data.draw(st.lists(st.sampled_from(chunks[: number + 1]), max_size=3)):
            assert streams.add(again)
    (joined,) = streams
    assert joined.tokens.tolist() == [*PROMPT, *response] and joined.num_tokens == len(response)


def test_a_gap_or_other_tokens_are_no_repeat() -> None:
    response = [1, 2, 3, 4, 5, 6]
    streams = StreamedTokens(max_response_tokens=6)
    assert not streams.add(_chunk(response, 2, 4))  # its beginning is missing
    assert streams.add(_chunk(response, 0, 3))
    assert not streams.add(_chunk(response, 4, 6))
    assert not streams.add(_chunk([9, 9, 9], 0, 3))
    assert not streams.add(_chunk(response, 0, 5))  # half of it is new
    assert streams.add(_chunk(response, 3, 6))
    assert not streams.add(_chunk([*response, 7], 6, 7))  # longer than a response can be


def test_chunks_of_what_is_over_are_for_nobody() -> None:
    streams = StreamedTokens(max_response_tokens=6)
    assert streams.add(_chunk([1, 2], 0, 2))
    assert streams.forget(5) is not None
    assert streams.add(_chunk([1, 2], 0, 2)) and streams.add(_chunk([1, 2, 3], 2, 3))
    assert len(streams) == 0
