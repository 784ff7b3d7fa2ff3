"""The simulated engine: responses fixed in advance, limits and swaps as a real engine has them."""

from __future__ import annotations

import asyncio
import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.config import Config
from darts_async.engines import make_rollout_engine
from darts_async.engines.base import EngineOutput, RolloutEngine
from darts_async.engines.sim_engine import SimEngine
from darts_async.engines.sim_response import SimParams, sample_response
from darts_async.errors import ConfigError, EngineDead, RolloutError
from darts_async.messages import RolloutRequest, VersionSpan, check_spans


def make_engine(args: dict[str, Any] | None = None, *, slots: int = 64, interval: int = 4) -> SimEngine:
    generator = {
        "engine": "sim",
        "engine_args": {"token_s": 0.0001} | (args or {}),
        "max_num_seqs": slots,
        "stream_interval": interval,
    }
    engine = make_rollout_engine(Config.model_validate({"generator": generator}), 0)
    assert isinstance(engine, SimEngine)
    assert isinstance(engine, RolloutEngine)
    return engine


def sim_request(candidate: int, *, seed: int = 0, prompt: int = 5, cap: int = 400) -> RolloutRequest:
    return RolloutRequest(
        candidate_id=candidate,
        prompt_tokens=np.asarray([prompt, 8], np.int32),
        seed=seed,
        max_response_tokens=cap,
        min_policy_version=0,
    )


async def play_out(engine: SimEngine, request: RolloutRequest) -> list[EngineOutput]:
    return [output async for output in engine.generate(request)]


def joined(outputs: list[EngineOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


@given(
    seed=st.integers(0, 2**64 - 1),
    prompt=st.integers(0, 255),
    cap=st.integers(1, 300),
    vocab=st.integers(2, 300),
    eos=st.integers(0, 1),
)
def test_a_response_is_a_function_of_seed_and_prompt(seed: int, prompt: int, cap: int, vocab: int, eos: int) -> None:
    params = SimParams(vocab_size=vocab, eos_token_id=eos, mean_tokens=40)
    response = sample_response(params, sim_request(1, seed=seed, prompt=prompt, cap=cap))
    again = sample_response(params, sim_request(2, seed=seed, prompt=prompt, cap=cap))
    uncapped = sample_response(params, sim_request(1, seed=seed, prompt=prompt, cap=100_000))
    assert np.array_equal(response.tokens, again.tokens)
    assert np.array_equal(response.logprobs, again.logprobs)
    assert 1 <= response.tokens.size == min(cap, uncapped.tokens.size) == response.logprobs.size
    assert response.capped == (uncapped.tokens.size > cap)
    assert 0 <= int(response.tokens.min()) <= int(response.tokens.max()) < vocab
    assert (response.tokens == eos).nonzero()[0].tolist() == ([] if response.capped else [response.tokens.size - 1])
    assert float(response.logprobs.max()) <= 0


def test_lengths_are_log_normal_around_each_prompts_own_mean() -> None:
    params = SimParams(mean_tokens=200, sigma=0.5, prompt_sigma=0.4)
    means = []
    for prompt in range(60):
        lengths = [
            sample_response(params, sim_request(0, seed=seed, prompt=prompt, cap=10**6)).tokens.size
            for seed in range(60)
        ]
        means.append(statistics.mean(lengths))
        assert statistics.stdev(map(math.log, lengths)) == pytest.approx(0.5, abs=0.2)
    assert statistics.mean(means) == pytest.approx(200, rel=0.2)
    assert statistics.stdev(map(math.log, means)) == pytest.approx(0.4, abs=0.12)


def test_the_share_that_fails_is_the_configured_one() -> None:
    params = SimParams(fail_share=0.25)
    failing = [sample_response(params, sim_request(0, seed=seed)).fails_at is not None for seed in range(2000)]
    assert statistics.mean(failing) == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"tokens_s": 1}, "tokens_s"),
        ({"mean_tokens": 0.5}, ">= 1"),
        ({"fail_share": 2}, "<= 1"),
        ({"vocab_size": 4, "eos_token_id": 4}, "below vocab_size"),
    ],
)
def test_arguments_that_cannot_work_are_named(args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_engine(args)
    assert caught.value.key == "generator.engine_args"


@settings(max_examples=20, deadline=None)
@given(slots=st.integers(1, 12), interval=st.integers(1, 50), num=st.integers(1, 20))
def test_neither_slots_nor_steps_change_a_response(slots: int, interval: int, num: int) -> None:
    async def scene() -> None:
        engine = make_engine({"mean_tokens": 30, "token_s": 0}, slots=slots, interval=interval)
        await engine.start()
        results = await asyncio.gather(*(play_out(engine, sim_request(i, seed=i, cap=60)) for i in range(num)))
        for index, outputs in enumerate(results):
            plan = sample_response(engine._params, sim_request(index, seed=index, cap=60))
            assert joined(outputs) == plan.tokens.tolist()
            assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
            assert outputs[-1].finish_reason == ("length" if plan.capped else "stop")
            assert outputs[-1].version_spans == (VersionSpan(0, 0),)
            assert all(len(output.token_ids) <= interval for output in outputs)
        assert engine.num_unfinished == 0
        await engine.close()

    asyncio.run(scene())


async def test_no_more_than_max_num_seqs_play_at_once() -> None:
    engine = make_engine({"sigma": 0, "prompt_sigma": 0, "mean_tokens": 8}, slots=2, interval=8)
    await engine.start()
    order: list[int] = []

    async def one(candidate: int) -> None:
        await play_out(engine, sim_request(candidate))
        order.append(candidate)

    await asyncio.gather(*(one(candidate) for candidate in range(6)))
    assert [set(order[i : i + 2]) for i in (0, 2, 4)] == [{0, 1}, {2, 3}, {4, 5}]


async def test_a_swap_starts_a_span_at_the_next_step() -> None:
    engine = make_engine({"sigma": 0, "prompt_sigma": 0, "mean_tokens": 40, "update_s": 0.005}, interval=8)
    await engine.start()
    outputs = []
    async for output in engine.generate(sim_request(0)):
        outputs.append(output)
        if len(outputs) == 2:
            await engine.update_weights(3, "")
            await engine.update_weights(2, "")
    assert engine.version == 3
    assert outputs[-1].version_spans == (VersionSpan(0, 0), VersionSpan(3, 16))
    check_spans(outputs[-1].version_spans, len(joined(outputs)))


async def test_abort_keeps_the_tokens_so_far_and_ignores_strangers() -> None:
    engine = make_engine({"sigma": 0, "prompt_sigma": 0, "mean_tokens": 300}, interval=8)
    await engine.start()
    outputs = []
    async for output in engine.generate(sim_request(0)):
        outputs.append(output)
        if len(outputs) == 3:
            await engine.abort([0, 99])
            await engine.abort([0])
    assert outputs[-1].finish_reason == "abort"
    assert len(joined(outputs)) == 24
    assert outputs[-1].version_spans == (VersionSpan(0, 0),)
    waiting = asyncio.create_task(play_out(engine, sim_request(1)))
    await asyncio.sleep(0)
    await engine.abort([1])
    (only,) = await waiting
    assert (only.token_ids, only.finish_reason, only.version_spans) == ([], "abort", ())
    assert engine.num_unfinished == 0


async def test_a_reader_that_leaves_takes_its_request_along() -> None:
    engine = make_engine({"mean_tokens": 300})
    await engine.start()
    stream = engine.generate(sim_request(0))
    await anext(stream)
    await stream.aclose()
    task = asyncio.create_task(play_out(engine, sim_request(0)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert engine.num_unfinished == 0
    assert joined(await play_out(engine, sim_request(0, cap=3))) != []


async def test_failures_are_of_one_request_and_death_is_of_all() -> None:
    engine = make_engine({"fail_share": 1, "mean_tokens": 20, "sigma": 0, "prompt_sigma": 0})
    await engine.start()
    with pytest.raises(RolloutError, match="on purpose"):
        await play_out(engine, sim_request(0))
    first = engine.generate(sim_request(1))
    await anext(first)
    with pytest.raises(RolloutError, match="already"):
        await play_out(engine, sim_request(1))
    await first.aclose()

    mortal = make_engine({"dies_after_tokens": 30, "mean_tokens": 300})
    await mortal.start()
    results = await asyncio.gather(
        *(play_out(mortal, sim_request(i, seed=i)) for i in range(4)), return_exceptions=True
    )
    assert all(isinstance(result, EngineDead) for result in results)
    await asyncio.wait_for(mortal.wait_dead(), 1)
    with pytest.raises(EngineDead):
        await play_out(mortal, sim_request(9))
    with pytest.raises(EngineDead):
        await mortal.update_weights(1, "")
    await mortal.close()


async def test_an_engine_that_is_not_open_serves_nothing() -> None:
    engine = make_engine()
    with pytest.raises(EngineDead):
        await play_out(engine, sim_request(0))
    await engine.start()
    running = asyncio.create_task(play_out(engine, sim_request(0)))
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    with pytest.raises(EngineDead, match="closed"):
        await running


async def test_a_prefix_goes_on_where_it_stopped() -> None:
    engine = make_engine(interval=4)
    await engine.start()
    request = sim_request(1, seed=4)
    whole = joined(await play_out(engine, request))
    assert len(whole) > 12
    await engine.update_weights(1, "/v1")
    rest = [output async for output in engine.generate(request, whole[:10])]
    assert joined(rest) == whole[10:]
    assert rest[-1].version_spans == (VersionSpan(1, 0),)  # counted from the first new token
    with pytest.raises(RolloutError, match="never had"):
        _ = [output async for output in engine.generate(request, [*whole[:10], whole[10] + 1])]
    assert engine.num_unfinished == 0
    await engine.close()
