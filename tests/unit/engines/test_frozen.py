"""The frozen policies: what rows are given is one full forward pass, whatever was streamed, cached, dropped or lost."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.errors import ConfigError
from darts_async.messages import ChunksDropped, TrainGroup, TrajectoryChunk, VersionSpan, candidate_id

if TYPE_CHECKING:
    from darts_async.engines.frozen import FrozenPolicies

pytestmark = pytest.mark.torch

TEMPERATURE = 0.7


def _config(*, chunk: int = 7, **learner: Any) -> Config:
    return Config.model_validate(
        {
            "sampling": {"temperature": TEMPERATURE},
            "queues": {"chunk_tokens": chunk},
            "model": {"max_response_tokens": 64},
            "learner": {"kl_weight": 0.1, "updates_per_step": 2, "logprob_chunk_tokens": 16, **learner},
        }
    )


def _frozen(**learner: Any) -> FrozenPolicies:
    import torch

    from darts_async.engines.frozen import FrozenPolicies

    torch.set_num_threads(1)
    return FrozenPolicies(_config(**learner), torch.device("cpu"), contextlib.nullcontext)


@functools.cache
def _moved_policy() -> Any:
    """A policy that is clearly not the one in the folder."""
    import torch

    from darts_async.engines.policy_model import load_model

    model = load_model(QUICKSTART_POLICY, _config())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    return model


@functools.cache
def _first_policy() -> Any:
    from darts_async.engines.policy_model import load_model

    return load_model(QUICKSTART_POLICY, _config())


def _expected(model: Any, prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
    """One response by itself: one full forward pass, all logits, a full log-softmax."""
    import torch

    ids = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, prompt.size - 1 : -1].double() / TEMPERATURE
    targets = ids[0, prompt.size :]
    return torch.log_softmax(logits, dim=-1)[torch.arange(response.size), targets].numpy()


def _group(group_id: int, lengths: Sequence[int], prompt: int = 5) -> TrainGroup:
    rng = np.random.default_rng(group_id)
    total, size = sum(lengths), len(lengths)
    return TrainGroup(
        group_id=group_id,
        prompt_id="p",
        step=0,
        prompt_tokens=rng.integers(4, 200, prompt).astype(np.int32),
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(size)),
        lengths=np.array(lengths, np.int32),
        response_tokens=rng.integers(4, 200, total).astype(np.int32),
        behaviour_logprobs=np.zeros(total, np.float32),
        version_spans=((VersionSpan(0, 0),),) * size,
        rewards=np.zeros(size, np.float32),
        baseline_rewards=np.zeros(size, np.float32),
        baseline_lengths=np.array(lengths, np.int32),
        capped=(False,) * size,
    )


def _rows(*groups: TrainGroup) -> list[Any]:
    from darts_async.engines.micro_batch import rows_of

    return [row for g in groups for row in rows_of(g, np.zeros(len(g.lengths), np.float32), mask_truncated=False)]


def _chunks(row: Any, size: int, stop: int | None = None) -> list[TrajectoryChunk]:
    """A response's first `stop` tokens (all but the last `size` or fewer), in chunks."""
    stop = row.response.size - 1 if stop is None else stop
    return [
        TrajectoryChunk(
            candidate_id=row.candidate_id,
            start=start,
            prompt_tokens=row.prompt if start == 0 else row.prompt[:0],
            response_tokens=row.response[start : min(start + size, stop)],
        )
        for start in range(0, stop, size)
    ]


def _always() -> bool:
    return True


def _stream(frozen: FrozenPolicies, *chunks: TrajectoryChunk) -> None:
    for chunk in chunks:
        frozen.put(chunk)
    assert not frozen.score_ahead(_always)


def _check(rows: list[Any], proximal: Any) -> None:
    for row in rows:
        for got, model in ((row.reference_logprobs, _first_policy()), (row.proximal_logprobs, proximal)):
            np.testing.assert_allclose(got, _expected(model, row.prompt, row.response), atol=1e-4, rtol=0)


LENGTH = 23


@pytest.mark.parametrize("size", range(1, LENGTH + 1))
def test_chunks_of_every_size_score_as_one_full_forward_pass(size: int) -> None:
    frozen = _frozen()
    frozen.refresh(_moved_policy())
    group = _group(0, [LENGTH])
    (row,) = _rows(group)
    prefixes = [_expected(model, row.prompt, row.response) for model in (_first_policy(), _moved_policy())]
    for chunk in _chunks(row, size, stop=LENGTH):
        _stream(frozen, chunk)
        stop = chunk.start + chunk.response_tokens.size
        for policy, expected in zip((frozen.reference, frozen.proximal), prefixes, strict=True):
            assert policy is not None
            got = np.concatenate(policy._prefixes[row.candidate_id].logprobs)
            np.testing.assert_allclose(got, expected[:stop], atol=1e-4, rtol=0)
    frozen.fill([group], [row], _always)
    _check([row], _moved_policy())
    assert frozen.take_metrics()["learner/cached_share"] == 1.0


@pytest.mark.parametrize("packing", ["bucketed", "padding_free"])
def test_rows_are_the_same_with_and_without_streaming(packing: str) -> None:
    streamed, plain = _frozen(packing=packing), _frozen(chunk=0, packing=packing)
    groups = [_group(1, [30, 4, 17]), _group(2, [9, 41, 41, 1], prompt=11)]
    ours, theirs = _rows(*groups), _rows(*groups)
    # All of them at once, each as far as it has come: batches of different pasts and different news.
    for size in (3, 8, 5):
        for row in ours[::2]:
            have = sum(r.num_tokens for r in streamed._streams if r.candidate_id == row.candidate_id)
            streamed_now = min(have + size, row.response.size - 1)
            if streamed_now > have:
                streamed.put(
                    TrajectoryChunk(
                        candidate_id=row.candidate_id,
                        start=have,
                        prompt_tokens=row.prompt if have == 0 else row.prompt[:0],
                        response_tokens=row.response[have:streamed_now],
                    )
                )
        assert not streamed.score_ahead(_always)
    assert streamed.cache_bytes > 0
    streamed.fill(groups, ours, _always)
    plain.fill(groups, theirs, _always)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.reference_logprobs, other.reference_logprobs, atol=1e-4, rtol=0)
        np.testing.assert_allclose(mine.proximal_logprobs, other.proximal_logprobs, atol=1e-4, rtol=0)
    _check(theirs, _first_policy())
    assert streamed.cache_bytes == 0 == len(streamed._streams)
    assert plain.take_metrics()["learner/cached_share"] == 0 < streamed.take_metrics()["learner/cached_share"] < 1


def test_cache_bytes_are_the_real_bytes() -> None:
    frozen = _frozen()
    rows = _rows(_group(1, [30, 4, 17]))
    _stream(frozen, *(chunk for row in rows for chunk in _chunks(row, 9)))
    layers = [
        tensor
        for policy in (frozen.reference, frozen.proximal)
        for prefix in policy._prefixes.values()  # type: ignore[union-attr]
        for layer in prefix.cache.layers
        for tensor in (layer.keys, layer.values)
    ]
    assert frozen.cache_bytes == sum(tensor.untyped_storage().nbytes() for tensor in layers) > 0


def test_a_dropped_response_frees_its_caches_and_late_chunks_do_not_bring_it_back() -> None:
    frozen = _frozen()
    first, second = _rows(_group(1, [30, 30]))
    _stream(frozen, *_chunks(first, 10), *_chunks(second, 10))
    before = frozen.cache_bytes
    frozen.put(ChunksDropped(candidate_ids=(first.candidate_id,)))
    frozen.take_news()  # nothing is scored for it
    assert frozen.cache_bytes == before // 2
    _stream(frozen, *_chunks(first, 10))
    assert frozen.cache_bytes == before // 2 and len(frozen._streams) == 1
    # A notice that overtakes the chunks it is about.
    third = _rows(_group(2, [20]))[0]
    frozen.put(ChunksDropped(candidate_ids=(third.candidate_id,)))
    _stream(frozen, *_chunks(third, 10))
    assert frozen.cache_bytes == before // 2


def test_an_update_drops_the_proximal_caches_alone_and_they_are_made_again() -> None:
    frozen = _frozen()
    group = _group(1, [30, 12])
    rows = _rows(group)
    _stream(frozen, *(chunk for row in rows for chunk in _chunks(row, 10)))
    reference, proximal = frozen.reference, frozen.proximal
    assert reference is not None and proximal is not None
    kept = reference.nbytes
    assert proximal.nbytes == kept
    frozen.refresh(_moved_policy())
    assert (proximal.nbytes, reference.nbytes) == (0, kept)
    frozen.score_ahead(_always)
    assert (proximal.nbytes, reference.nbytes) == (kept, kept)
    frozen.fill([group], rows, _always)
    _check(rows, _moved_policy())


def test_the_bound_on_the_caches_leaves_the_newest_out() -> None:
    frozen = _frozen(updates_per_step=1)
    group = _group(1, [40, 40, 40])
    rows = _rows(group)
    assert frozen.reference is not None
    per_token = frozen.reference._scorer.token_bytes
    frozen._limit = per_token * 100  # a prompt of 5 and 39 tokens each: two fit
    for parts in zip(*(_chunks(row, 10) for row in rows), strict=True):
        for part in parts:
            _stream(frozen, part)
            assert frozen.cache_bytes <= frozen._limit
    assert [frozen.reference.has_cache(row.candidate_id) for row in rows] == [True, True, False]
    frozen.fill([group], rows, _always)
    for row in rows:
        np.testing.assert_allclose(
            row.reference_logprobs, _expected(_first_policy(), row.prompt, row.response), atol=1e-4, rtol=0
        )
    metrics = frozen.take_metrics()
    assert metrics["learner/uncached_responses"] == 1
    assert metrics["learner/cached_share"] == pytest.approx(2 * 39 / 120)
    assert metrics["learner/chunk_tokens"] == 3 * 39
    # The most there was at a time: 24 tokens of the newest beside 34 of each of the others.
    assert metrics["learner/cache_mib"] * 2**20 == per_token * (34 + 34 + 24)


@pytest.mark.parametrize("fault", ["other tokens", "too long", "gap", "other prompt"])
def test_chunks_that_are_not_the_response_are_not_used(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    frozen = _frozen()
    group = _group(1, [20])
    (row,) = _rows(group)
    chunks = _chunks(row, 5)
    match fault:
        case "other tokens":
            chunks[1] = _altered(chunks[1], response_tokens=chunks[1].response_tokens + 1)
        case "too long":
            chunks.append(_altered(chunks[1], start=19))
        case "gap":
            del chunks[1]
        case "other prompt":
            chunks[0] = _altered(chunks[0], prompt_tokens=chunks[0].prompt_tokens + 1)
    _stream(frozen, *chunks)
    frozen.fill([group], [row], _always)
    _check([row], _first_policy())
    metrics = frozen.take_metrics()
    assert metrics["learner/cached_share"] == 0 and metrics["learner/broken_streams"] >= 1
    assert "scored as a whole" in caplog.text


def _altered(chunk: TrajectoryChunk, **changes: Any) -> TrajectoryChunk:
    fields = {name: getattr(chunk, name) for name in chunk.__struct_fields__}
    return TrajectoryChunk(**(fields | changes))


def test_scoring_ahead_stops_when_asked_to_and_goes_on_later() -> None:
    frozen = _frozen(micro_batch_tokens=32)
    rows = _rows(_group(1, [30, 30, 30]))
    for row in rows:
        frozen.put(_chunks(row, 20, stop=20)[0])
    answers = iter([True, True, False])
    assert frozen.score_ahead(lambda: next(answers))
    assert frozen.cache_bytes > 0
    assert not frozen.score_ahead(_always)
    assert not frozen.score_ahead(lambda: pytest.fail("nothing is left"))


def test_without_frozen_policies_nothing_is_kept_or_reported() -> None:
    frozen = _frozen(kl_weight=0, updates_per_step=1)
    group = _group(1, [20])
    (row,) = _rows(group)
    _stream(frozen, *_chunks(row, 5))
    frozen.fill([group], [row], _always)
    assert row.reference_logprobs is None is row.proximal_logprobs
    assert frozen.take_metrics() == {} and len(frozen._streams) == 0


def test_the_time_until_the_log_probs_are_ready_is_measured_a_group() -> None:
    frozen = _frozen()
    group = _group(1, [20])
    frozen.arrived(group.group_id)
    frozen.fill([group], _rows(group), _always)
    assert 0 < frozen.take_metrics()["learner/score_ready_ms"] < 10_000
    assert "learner/score_ready_ms" not in frozen.take_metrics()


def test_a_reference_with_another_vocabulary_is_refused(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(QUICKSTART_POLICY)
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"learner\.reference.*300 tokens.*271"):
        _frozen(reference=str(tmp_path))


def test_streaming_changes_no_gradient() -> None:
    import torch

    from darts_async.engines.trainer import PolicyTrainer

    gradients = []
    for chunk in (7, 0):
        trainer = PolicyTrainer(_config(chunk=chunk, kl_weight=0.5, updates_per_step=1))
        group = _group(1, [30, 12, 41])
        group.rewards[:] = group.baseline_rewards[:] = [1, 0, 0]
        group.behaviour_logprobs[:] = -5
        # The policy has moved away from the reference: without that the divergence has no gradient.
        with torch.no_grad():
            for mine, moved in zip(trainer._model.parameters(), _moved_policy().parameters(), strict=True):
                mine.copy_(moved)
        if chunk:
            _stream(trainer.frozen, *(part for row in _rows(group) for part in _chunks(row, chunk)))
        trainer.accumulate([group])
        gradients.append([gradient.clone() for gradient in trainer.gradients])
        assert (trainer.frozen.take_metrics()["learner/cached_share"] > 0.9) == (chunk > 0)
    for streamed, plain in zip(*gradients, strict=True):
        assert float(plain.abs().max()) > 0
        assert float((streamed - plain).abs().max() / plain.abs().max()) < 1e-4
