"""The largest messages that roles may send fit their links, and little more does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darts_async import messages as m
from darts_async.algorithms.selection import RULES
from darts_async.config import Config, load_config
from darts_async.errors import ProtocolError
from darts_async.runtime.link_limits import link_limits
from darts_async.runtime.topology import LINKS
from darts_async.transport.codec import Codec

BIG = 2**62
TEXT = "\U0001f9ee" * 256


def _config(prompt: int, response: int, size: int, per_step: int) -> Config:
    overrides = {
        "model.max_prompt_tokens": prompt,
        "model.max_response_tokens": response,
        "group.size": size,
        "group.keep_longest": 0,
        "group.groups_per_step": per_step,
        "queues.min_chunk": 1,
        "allocation.budget": size,
        "generator.max_num_seqs": 1024,
    }
    return load_config(None, [(key, str(value)) for key, value in overrides.items()])


def _spans(tokens: int) -> tuple[m.VersionSpan, ...]:
    return tuple(m.VersionSpan(BIG + n, n) for n in range(min(tokens, 4096)))


def _ids(count: int) -> tuple[int, ...]:
    return tuple(range(BIG, BIG + count))


def _largest(config: Config) -> dict[str, list[Any]]:
    """By link, the largest messages to its binder."""
    tokens, size = config.model.max_response_tokens, config.group.size
    prompt = np.zeros(config.model.max_prompt_tokens, np.int32)
    response, logprobs = np.zeros(tokens, np.int32), np.zeros(tokens, np.float32)
    group_id = BIG // m.MAX_CANDIDATES
    candidates = tuple(m.candidate_id(group_id, index) for index in range(m.MAX_CANDIDATES))
    running = 2 * config.generator.max_num_seqs
    per_step = config.group.groups_per_step
    return {
        "plans": [
            m.GroupPlan(
                group_id=group_id,
                prompt_id=TEXT,
                rule=TEXT,
                group_size=size,
                keep_longest=0,
                candidate_ids=candidates,
                dispatch_version=BIG,
                draw=BIG,
                replica=BIG,
                incarnation=BIG,
                max_staleness=64,
                unfinished="resume",
                prompt_tokens=prompt,
            ),
            m.EvalResult(label="before", policy_version=BIG, reward=0.1, response_length=0.1, num_rollouts=BIG),
        ],
        "rollouts": [
            m.LatencySamples(replica=0, concurrency=np.zeros(4096, np.int32), per_token_s=np.zeros(4096, np.float32))
        ],
        "trajectories": [
            m.Trajectory(
                candidate_id=BIG,
                replica=BIG,
                finish_reason="length",
                response_tokens=response,
                behaviour_logprobs=logprobs,
                version_spans=_spans(tokens),
            ),
            m.Progress(replica=0, candidate_ids=np.zeros(running, np.int64), num_tokens=np.zeros(running, np.int32)),
            m.RolloutEnded(candidate_id=BIG, replica=BIG, reason="failed", num_tokens=0, error=8 * TEXT),
        ],
        "groups": [
            m.TrainGroup(
                group_id=group_id,
                prompt_id=TEXT,
                step=BIG,
                prompt_tokens=prompt,
                candidate_ids=candidates[:size],
                lengths=np.full(size, tokens, np.int32),
                response_tokens=np.tile(response, size),
                behaviour_logprobs=np.tile(logprobs, size),
                version_spans=(_spans(tokens),) * size,
                rewards=np.zeros(size, np.float32),
                baseline_rewards=np.zeros(m.MAX_CANDIDATES, np.float32),
                baseline_lengths=np.zeros(m.MAX_CANDIDATES, np.int32),
                capped=(True,) * size,
                max_staleness=64,
                epoch=BIG,
            ),
            m.StateTaken(epoch=BIG, over=_ids(65 * per_step)),
        ],
        "chunks": [
            m.TrajectoryChunk(candidate_id=BIG, start=0, prompt_tokens=prompt, response_tokens=response),
            m.ChunksDropped(candidate_ids=candidates),
        ],
        "steps": [
            m.StepDone(version=BIG, group_ids=_ids(per_step)),
            m.LearnerState(
                epoch=BIG,
                version=BIG,
                steps=(m.TrainedStep(BIG, _ids(per_step)),) * min(config.run.steps, 128),
                received=_ids(per_step),
            ),
        ],
        "policy": [m.PolicyApplied(replica=BIG, version=BIG, update_ms=1.0)],
        "cancels": [m.GeneratorHello(replica=BIG)],
        "control": [
            m.Warn(role="selector", rank=0, text=32 * TEXT),
            m.Fault(role="selector", rank=0, error=32 * TEXT),
            m.Heartbeat(
                role="selector",
                rank=0,
                state=TEXT,
                gauges={f"{number:060d}": 0.1 for number in range(10_000)},
                waits=(m.Wait(TEXT, TEXT, 1.0),) * 32,
            ),
        ],
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5000), st.integers(2, 5000), st.integers(2, 64), st.integers(1, 64))
@example(prompt=64, response=2048, size=256, per_step=8)
def test_the_largest_messages_fit(prompt: int, response: int, size: int, per_step: int) -> None:
    config = _config(prompt, response, size, per_step)
    limits = link_limits(config)
    largest = _largest(config)
    assert set(limits) == set(LINKS) == set(largest)
    for link, messages in largest.items():
        for message in messages:
            codec: Codec[Any] = Codec(LINKS[link].forward, max_bytes=limits[link][0])
            assert codec.decode(codec.encode(message)).__class__ is message.__class__


def test_the_largest_answers_fit() -> None:
    config = _config(4096, 64, 8, 32)
    limits = link_limits(config)
    candidates = tuple(m.candidate_id(1 << 50, index) for index in range(m.MAX_CANDIDATES))
    lengths = tuple(m.ObservedLength(1 << 20, True) for _ in candidates)
    answers = {
        "plans": [
            m.GroupOutcome(
                group_id=BIG,
                prompt_id=TEXT,
                outcome="trained",
                reason=TEXT,
                lengths=lengths,
                rewards=(0.1,) * len(candidates),
            ),
            m.DispatchState(
                first_group=BIG,
                next_draw=BIG,
                redo=(m.LostDraw(BIG, m.MAX_CANDIDATES, max(RULES, key=len)),) * (1 << 16),
                # As many as live settings allow.
                open=(m.OpenGroup(BIG, BIG, TEXT),) * (65 * 32 + 4096),
                rounds=m.RoundsState(BIG, BIG, True, _ids(1 << 16), _ids(1 << 16)),
                evaluated=((BIG, 0.1, 0.1),) * config.run.steps,
            ),
        ],
        "rollouts": [
            m.RolloutRequest(
                candidate_id=BIG,
                prompt_tokens=np.zeros(4096, np.int32),
                seed=BIG,
                max_response_tokens=1 << 20,
                min_policy_version=BIG,
            )
        ],
        "cancels": [m.CancelRollouts(candidate_ids=candidates, decided_at_s=1.0)],
        "policy": [m.PolicyUpdate(version=BIG, weights=32 * TEXT)],
        "control": [
            m.SetKnobs(
                number=BIG, changes={f"{n:02d}{TEXT[2:]}": m.KnobChange(TEXT, TEXT) for n in range(32)}, at_s=0.1
            ),
            m.ShowStacks(reason=32 * TEXT),
        ],
    }
    for link, messages in answers.items():
        for message in messages:
            codec: Codec[Any] = Codec(LINKS[link].backward, max_bytes=limits[link][1])  # type: ignore[index]
            codec.decode(codec.encode(message))


def test_a_response_of_twice_the_cap_does_not_fit() -> None:
    limit = link_limits(_config(64, 100_000, 8, 4))["trajectories"][0]
    codec: Codec[Any] = Codec(LINKS["trajectories"].forward, max_bytes=limit)
    message = m.Trajectory(
        candidate_id=1,
        replica=0,
        finish_reason="stop",
        response_tokens=np.zeros(200_000, np.int32),
        behaviour_logprobs=np.zeros(200_000, np.float32),
        version_spans=(m.VersionSpan(0, 0),),
    )
    with pytest.raises(ProtocolError, match="above the bound"):
        codec.encode(message)
