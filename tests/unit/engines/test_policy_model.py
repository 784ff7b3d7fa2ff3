"""The scorer on tiny models of several families: which way it takes to the log-probs, and that each way is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.engines.micro_batch import MicroBatch, Row, collate
from darts_async.errors import ConfigError

pytestmark = pytest.mark.torch

_VOCAB = 61
_SHAPE: dict[str, Any] = {
    "vocab_size": _VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _model(family: str, **shape: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**_SHAPE, **shape})
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def _config(**learner: Any) -> Config:
    return Config.model_validate({"sampling": {"temperature": 0.8}, "learner": {"logprob_chunk_tokens": 5, **learner}})


def _scorer(model: Any, **learner: Any) -> Any:
    from darts_async.engines.policy_model import PolicyModel

    return PolicyModel(model, _config(**learner))


def _rows() -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        Row(
            candidate_id=number,
            prompt=rng.integers(3, _VOCAB, prompt).astype(np.int32),
            response=rng.integers(3, _VOCAB, response).astype(np.int32),
            behaviour_logprobs=np.zeros(response, dtype=np.float32),
            versions=np.zeros(response, dtype=np.int32),
            advantage=1.0,
        )
        for number, (prompt, response) in enumerate([(3, 9), (5, 1), (1, 4), (2, 14)])
    ]


def _expected(model: Any) -> tuple[Any, Any]:
    """Each row by itself, its own logits, a plain log-softmax at the temperature; log-probs and entropies."""
    import torch

    logprobs, entropies = [], []
    for row in _rows():
        ids = torch.from_numpy(np.concatenate([row.prompt, row.response]).astype(np.int64))
        logs = torch.log_softmax(model(input_ids=ids[None]).logits[0, row.prompt.size - 1 : -1] / 0.8, dim=-1)
        logprobs.append(logs[torch.arange(row.response.size), ids[row.prompt.size :]])
        entropies.append(-(logs.exp() * logs).sum(dim=-1))
    return torch.cat(logprobs), torch.cat(entropies)


def _batch(**collation: Any) -> MicroBatch:
    return collate(_rows(), **collation)


def _gradients(model: Any, of: Callable[[], tuple[Any, Any]]) -> dict[str, Any]:
    import torch

    logprobs, entropies = of()
    total = (logprobs * torch.linspace(-1, 2, logprobs.numel())).sum() + 0.3 * entropies.sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total, parameters), strict=True))


_FAMILIES: list[tuple[str, dict[str, Any], bool]] = [
    ("Llama", {}, True),
    ("Qwen3", {"tie_word_embeddings": True}, True),
    ("Phi", {}, True),  # a bias on the output layer
    ("Mistral", {"sliding_window": 4}, True),
    ("Gemma2", {"final_logit_softcapping": 3.0, "sliding_window": 4}, False),
    ("Cohere", {"logit_scale": 0.25}, False),
    ("Granite", {"logits_scaling": 4.0}, False),
]


@pytest.mark.parametrize(("family", "shape", "fused"), _FAMILIES, ids=[family for family, _, _ in _FAMILIES])
@pytest.mark.parametrize("packing", ["bucketed", "padding_free"])
def test_scores_and_gradients_are_those_of_the_models_own_logits(
    family: str, shape: dict[str, Any], fused: bool, packing: str, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    caplog.set_level("INFO", "darts_async")
    model = _model(family, **shape)
    want = _expected(model)
    want_gradients = _gradients(model, lambda: _expected(model))
    policy = _scorer(model, packing=packing)
    assert policy.model._fused is fused
    assert ("its own logits are used" in caplog.text) is not fused
    batch = _batch(padding_free=packing == "padding_free")

    def score() -> tuple[Any, Any]:
        scores = policy.score(batch, entropy=True)
        return scores.logprobs, scores.entropy

    for got, expected in zip(score(), want, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
    for name, gradient in _gradients(model, score).items():
        largest = float(want_gradients[name].abs().max())
        torch.testing.assert_close(gradient, want_gradients[name], atol=1e-5 * largest + 1e-6, rtol=0, msg=name)
    assert policy.score(batch).entropy is None


def test_a_model_that_carries_a_state_past_the_end_of_a_response_is_refused_padding_free() -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    shape = transformers.MambaConfig(vocab_size=_VOCAB, hidden_size=16, state_size=4, num_hidden_layers=1, expand=2)
    model = transformers.MambaForCausalLM(shape).eval()
    with pytest.raises(ConfigError, match="cannot keep responses apart"):
        _scorer(model, packing="padding_free")
    want, _ = _expected(model)
    torch.testing.assert_close(_scorer(model, packing="bucketed").score(_batch()).logprobs, want, atol=2e-5, rtol=1e-5)


def test_a_model_that_does_not_pass_segments_on_gets_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    caplog.set_level("INFO", "darts_async")
    model = _model("StableLm")
    want, _ = _expected(model)
    policy = _scorer(model, packing="padding_free")
    assert "need a mask" in caplog.text
    torch.testing.assert_close(policy.score(_batch(padding_free=True)).logprobs, want, atol=2e-5, rtol=1e-5)


def test_key_value_caches_work_on_after_the_switch_of_attention() -> None:
    import torch

    model = _model("Llama")
    ids = torch.arange(3, 15)[None]
    want = model(input_ids=ids).logits
    _scorer(model, packing="padding_free")
    first = model(input_ids=ids[:, :7], use_cache=True)
    second = model(input_ids=ids[:, 7:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packing", ["bucketed", "padding_free"])
def test_checkpointed_activations_change_nothing_but_memory(packing: str) -> None:
    """Dropout, of every kind that the config knows, stays off although layers count as in training."""
    import torch

    from darts_async.engines.activation_checkpoints import checkpoint_activations

    model = _model("Phi", attention_dropout=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    policy, batch = _scorer(model, packing=packing), _batch(padding_free=packing == "padding_free")
    calls: list[str] = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append("mlp"))

    def score() -> tuple[Any, Any]:
        scores = policy.score(batch, entropy=True)
        return scores.logprobs, scores.entropy

    want, want_gradients = score(), _gradients(model, score)
    assert calls == ["mlp"] * 2
    calls.clear()
    checkpoint_activations(model)
    got_gradients = _gradients(model, score)
    assert calls == ["mlp"] * 2  # forward, and again in the backward pass
    for got, expected in zip(score(), want, strict=True):
        assert torch.equal(got, expected)
    for name, gradient in got_gradients.items():
        assert torch.equal(gradient, want_gradients[name]), name


def test_no_tensor_of_the_whole_batchs_logits_is_made() -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            largest = max([largest, *sizes])
            return result

    vocab, chunk = 5000, 5
    policy = _scorer(_model("Llama", vocab_size=vocab), logprob_chunk_tokens=chunk)
    batch = _batch()
    assert batch.targets.numel() > 5 * chunk
    with Watch():
        scores = policy.score(batch, entropy=True)
        assert scores.entropy is not None
        (scores.logprobs.sum() + scores.entropy.sum()).backward()
    assert largest == vocab * _SHAPE["hidden_size"]  # the weight and its gradient; logits: 5 x vocabulary
