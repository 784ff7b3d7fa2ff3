"""The engine model beside a naive one that walks step by step, and what it says where pencil and paper suffice."""

import asyncio
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.clock import now_s
from darts_async.config import load_config
from darts_async.engines.base import RolloutEngine
from darts_async.errors import EngineDead
from darts_async.messages import RolloutRequest
from darts_async.twin import virtual_time
from darts_async.twin.engine import TwinEngine
from darts_async.twin.machine import Machine
from darts_async.twin.policy import Drawn
from darts_async.twin.profile import EngineProfile, WorkloadProfile
from darts_async.twin.workload import Workload

CONFIG = load_config(None, [("generator.engine", "sim"), ("generator.stream_interval", "4")])


class Told(Workload):
    """A workload whose responses are as long as the seed says."""

    def __init__(self) -> None:
        super().__init__(WorkloadProfile(), 0)

    def draw(self, prompt: int, seed: int, version: int) -> Drawn:
        return Drawn(seed, prompt == 1)


@dataclass
class End:
    """What came of a request."""

    at_s: float
    tokens: int
    reason: str | None
    spans: tuple[tuple[int, int], ...]
    first: int
    outputs: int


def engine_of(profile: EngineProfile, *, max_running: int = 64, machine: Machine | None = None) -> TwinEngine:
    config = CONFIG.model_copy(update={"generator": CONFIG.generator.model_copy(update={"max_num_seqs": max_running})})
    return TwinEngine(config, profile, Told(), machine or Machine())


_ids = count()


async def sample(engine: RolloutEngine, length: int, *, cap: int = 10_000, prompt: int = 1, at_s: float = 0.0) -> End:
    await asyncio.sleep(at_s)
    request = RolloutRequest(
        candidate_id=next(_ids),
        prompt_tokens=np.array([prompt, 0, 0, 0, 0], dtype=np.int32),
        seed=length,
        max_response_tokens=cap,
        min_policy_version=0,
    )
    tokens: list[int] = []
    outputs = 0
    async for output in engine.generate(request):
        outputs += 1
        tokens += output.token_ids
        assert len(output.logprobs) == len(output.token_ids)
        if output.finish_reason is not None:
            spans = tuple((span.version, span.start) for span in output.version_spans)
            return End(now_s(), len(tokens), output.finish_reason, spans, tokens[0] if tokens else -1, outputs)
    raise AssertionError("the stream ended without a reason")


def play(profile: EngineProfile, lengths: list[int], *, max_running: int = 64) -> list[End]:
    async def main() -> list[End]:
        engine = engine_of(profile, max_running=max_running)
        await engine.start()
        ends = await asyncio.gather(*(sample(engine, length) for length in lengths))
        assert engine.num_unfinished == 0
        return list(ends)

    return virtual_time.run(main)


def test_one_response_takes_its_tokens():
    (end,) = play(EngineProfile(token_s=((1, 0.01),)), [100])
    assert end.at_s == pytest.approx(1.0)
    assert (end.tokens, end.reason, end.spans, end.first) == (100, "stop", ((0, 0),), 1)
    assert end.outputs == 25


def test_prefill_and_request_come_first():
    (end,) = play(EngineProfile(token_s=((1, 0.01),), prefill_token_s=0.1, request_s=0.25), [10])
    assert end.at_s == pytest.approx(0.25 + 5 * 0.1 + 0.1)


def test_a_start_delays_nobody_else():
    first, second = play(EngineProfile(token_s=((1, 0.01),), start_s=0.3), [10, 50])
    assert (first.at_s, second.at_s) == pytest.approx((0.4, 0.8))


def test_a_step_is_as_long_as_the_number_that_decodes_says():
    short, long = play(EngineProfile(token_s=((1, 0.01), (2, 0.03))), [10, 20])
    assert short.at_s == pytest.approx(10 * 0.03)
    assert long.at_s == pytest.approx(10 * 0.03 + 10 * 0.01)


def test_who_does_not_fit_waits_for_a_place():
    first, second, third = play(EngineProfile(token_s=((1, 0.01),)), [10, 30, 5], max_running=2)
    assert (first.at_s, second.at_s, third.at_s) == pytest.approx((0.1, 0.3, 0.15))


def test_a_full_cache_sends_the_last_one_back_until_there_is_room():
    # 5 + 5 prompt tokens; together they may grow to 30: after 10 steps each the second one has to go.
    first, second = play(EngineProfile(token_s=((1, 0.01),), kv_tokens=30), [15, 15])
    assert first.at_s == pytest.approx(0.15)
    assert second.at_s == pytest.approx(0.15 + 5 * 0.01)
    assert second.tokens == 15


def test_slower_while_the_learner_computes():
    async def main() -> float:
        machine = Machine()
        engine = engine_of(EngineProfile(token_s=((1, 0.01),), beside_learner=3.0), machine=machine)
        await engine.start()
        running = asyncio.create_task(sample(engine, 100))
        await asyncio.sleep(0.2)
        machine.learner(+1)
        await asyncio.sleep(0.6)
        machine.learner(-1)
        return (await running).at_s

    assert virtual_time.run(main) == pytest.approx(0.2 + 0.6 + (100 - 20 - 20) * 0.01)


def test_a_swap_stands_still_and_the_spans_say_where():
    async def main() -> tuple[End, End]:
        engine = engine_of(EngineProfile(token_s=((1, 0.01),), update_s=0.5))
        await engine.start()
        before = asyncio.create_task(sample(engine, 50))
        await asyncio.sleep(0.205)
        await engine.update_weights(3, "")
        await engine.update_weights(2, "")  # older: nothing
        assert engine.version == 3
        return await before, await sample(engine, 10)

    end, after = virtual_time.run(main)
    assert end.at_s == pytest.approx(0.5 + 0.5)
    assert end.spans == ((0, 0), (3, 20))
    assert after.spans == ((3, 0),)


def test_an_abort_ends_with_the_tokens_so_far():
    async def main() -> End:
        engine = engine_of(EngineProfile(token_s=((1, 0.01),), abort_s=0.02))
        await engine.start()
        first = next(_ids) + 1
        running = asyncio.create_task(sample(engine, 1000))
        other = asyncio.create_task(sample(engine, 100))
        await asyncio.sleep(0.103)
        await engine.abort([first, 10**9])
        end = await running
        assert (await other).at_s == pytest.approx(1.0)
        return end

    end = virtual_time.run(main)
    assert (end.reason, end.tokens, end.at_s) == ("abort", 12, pytest.approx(0.123))


def test_the_cap_and_the_flag_of_correctness():
    async def main() -> tuple[End, End]:
        engine = engine_of(EngineProfile(token_s=((1, 0.01),)))
        await engine.start()
        return await sample(engine, 50, cap=20), await sample(engine, 5, prompt=0)

    capped, wrong = virtual_time.run(main)
    assert (capped.tokens, capped.reason, capped.first) == (20, "length", 1)
    assert (wrong.tokens, wrong.reason, wrong.first) == (5, "stop", 0)


def test_closing_ends_everything():
    async def main() -> None:
        engine = engine_of(EngineProfile(token_s=((1, 0.01),)))
        await engine.start()
        running = asyncio.create_task(sample(engine, 1000))
        await asyncio.sleep(0.1)
        await engine.close()
        with pytest.raises(EngineDead):
            await running
        with pytest.raises(EngineDead):
            await sample(engine, 1)

    virtual_time.run(main)


def naive(lengths: list[int], token_s: tuple[float, float], max_running: int) -> list[float]:
    """Step by step, everybody there from the start: when each one ends. token_s: of one, and of each one more."""
    ends = [0.0] * len(lengths)
    waiting = list(range(len(lengths)))
    running: dict[int, int] = {}
    now = 0.0
    while waiting or running:
        while waiting and len(running) < max_running:
            index = waiting.pop(0)
            running[index] = lengths[index]
        now += token_s[0] + token_s[1] * (len(running) - 1)
        for index in list(running):
            running[index] -= 1
            if not running[index]:
                del running[index]
                ends[index] = now
    return ends


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 8))
def test_agrees_with_walking_step_by_step(lengths: list[int], max_running: int):
    profile = EngineProfile(token_s=((1, 0.01), (8, 0.01 + 7 * 0.002)))
    ends = play(profile, lengths, max_running=max_running)
    assert [end.tokens for end in ends] == lengths
    expected = naive(lengths, (0.01, 0.002), max_running)
    assert [end.at_s for end in ends] == pytest.approx(expected, rel=1e-6)
