"""Fused log-probs beside the plain formula, written out: values and gradients, any chunk, any type."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.torch

_TOKENS, _HIDDEN, _VOCAB = 7, 5, 11


def _inputs(dtype: Any, *, bias: bool = True) -> tuple[Any, ...]:
    import torch

    made = torch.Generator().manual_seed(3)
    hidden = torch.randn(_TOKENS, _HIDDEN, generator=made, dtype=dtype, requires_grad=True)
    weight = torch.randn(_VOCAB, _HIDDEN, generator=made, dtype=dtype, requires_grad=True)
    offset = torch.randn(_VOCAB, generator=made, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, offset, torch.randint(_VOCAB, (_TOKENS,), generator=made)


def _plain(hidden: Any, weight: Any, bias: Any, targets: Any, temperature: float) -> tuple[Any, Any]:
    """The textbook: a full log-softmax, its targets, and minus the mean of log p under p."""
    import torch

    logits = hidden @ weight.T + (0 if bias is None else bias)
    logs = torch.log_softmax(logits / temperature, dim=-1)
    return logs[torch.arange(targets.numel()), targets], -(logs.exp() * logs).sum(dim=-1)


def test_two_tokens_by_hand() -> None:
    """Logits (0, ln 3) at temperature 1: p = (1/4, 3/4), entropy ln 4 - 3/4 ln 3; at 1/2: p = (1/10, 9/10)."""
    import math

    import torch

    from darts_async.engines.fused_logprobs import fused_logprobs

    hidden = torch.ones(1, 1, dtype=torch.float64)
    weight = torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    logprobs, entropy = fused_logprobs(hidden, weight, None, torch.tensor([1]), entropy=True)
    assert logprobs.item() == pytest.approx(math.log(3 / 4), abs=1e-15)
    assert entropy is not None
    assert entropy.item() == pytest.approx(math.log(4) - 0.75 * math.log(3), abs=1e-15)
    colder, none = fused_logprobs(hidden, weight, None, torch.tensor([0]), temperature=0.5)
    assert colder.item() == pytest.approx(math.log(1 / 10), abs=1e-15)
    assert none is None


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("with_bias", "with_entropy"), [(True, True), (False, False), (True, False)])
def test_values_and_gradients_are_those_of_the_plain_formula(chunk: int, with_bias: bool, with_entropy: bool) -> None:
    import torch

    from darts_async.engines.fused_logprobs import fused_logprobs

    hidden, weight, bias, targets = _inputs(torch.float64, bias=with_bias)
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    factors = torch.linspace(-1, 2, _TOKENS, dtype=torch.float64)
    logprobs, entropy = fused_logprobs(
        hidden, weight, bias, targets, temperature=0.7, chunk_tokens=chunk, entropy=with_entropy
    )
    expected, expected_entropy = _plain(hidden, weight, bias, targets, 0.7)
    torch.testing.assert_close(logprobs, expected, atol=1e-13, rtol=0)
    total, expected_total = (logprobs * factors).sum(), (expected * factors).sum()
    if with_entropy:
        torch.testing.assert_close(entropy, expected_entropy, atol=1e-13, rtol=0)
        total, expected_total = (
            total + (entropy * factors**2).sum(),
            expected_total + (expected_entropy * factors**2).sum(),
        )
    for got, want in zip(torch.autograd.grad(total, leaves), torch.autograd.grad(expected_total, leaves), strict=True):
        assert float(want.abs().max()) > 0.1
        torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    import torch

    from darts_async.engines.fused_logprobs import fused_logprobs

    hidden, weight, bias, targets = _inputs(torch.float64)

    def scores(hidden: Any, weight: Any, bias: Any) -> Any:
        return fused_logprobs(hidden, weight, bias, targets, temperature=1.3, chunk_tokens=3, entropy=True)

    assert torch.autograd.gradcheck(scores, (hidden, weight, bias))


def test_entropy_alone_has_its_gradient() -> None:
    """Autograd hands the backward pass no gradient of the log-probs then."""
    import torch

    from darts_async.engines.fused_logprobs import fused_logprobs

    hidden, weight, bias, targets = _inputs(torch.float64)
    _, entropy = fused_logprobs(hidden, weight, bias, targets, chunk_tokens=4, entropy=True)
    assert entropy is not None
    (got,) = torch.autograd.grad(entropy.sum(), hidden)
    (want,) = torch.autograd.grad(_plain(hidden, weight, bias, targets, 1.0)[1].sum(), hidden)
    torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-12)


def test_bfloat16_weights_give_float32_log_probs_summed_in_float32() -> None:
    """Off by the rounding of the logits alone (2^-9 of at most 8), not by that of a sum over the vocabulary."""
    import torch

    from darts_async.engines.fused_logprobs import fused_logprobs

    hidden, weight, bias, targets = _inputs(torch.bfloat16)
    logprobs, entropy = fused_logprobs(hidden, weight, bias, targets, chunk_tokens=2, entropy=True)
    expected, expected_entropy = _plain(hidden.float(), weight.float(), bias.float(), targets, 1.0)
    assert logprobs.dtype == torch.float32 and entropy is not None and entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=0.03, rtol=0)
    torch.testing.assert_close(entropy, expected_entropy, atol=0.03, rtol=0)
    got = torch.autograd.grad(logprobs.sum(), (hidden, weight, bias))
    want = torch.autograd.grad(expected.sum(), (hidden, weight, bias))
    assert [gradient.dtype for gradient in got] == [torch.bfloat16] * 3
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.02 * float(theirs.abs().max()), rtol=0)


def test_autocast_rounds_the_matrix_products_and_no_more() -> None:
    import torch

    from darts_async.engines.fused_logprobs import fused_logprobs

    hidden, weight, bias, targets = _inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = fused_logprobs(hidden, weight, bias, targets, chunk_tokens=3)
    logits = torch.nn.functional.linear(hidden.bfloat16(), weight.bfloat16(), bias.bfloat16())
    torch.testing.assert_close(logprobs, torch.log_softmax(logits.float(), -1)[torch.arange(_TOKENS), targets])
    gradients = torch.autograd.grad(logprobs.sum(), (hidden, weight, bias))
    want = torch.autograd.grad(_plain(hidden, weight, bias, targets, 1.0)[0].sum(), (hidden, weight, bias))
    for mine, theirs in zip(gradients, want, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, atol=0.02 * float(theirs.abs().max()), rtol=0)


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    import torch

    from darts_async.engines.fused_logprobs import fused_logprobs

    hidden, weight, bias, targets = _inputs(torch.float64)
    logprobs, _ = fused_logprobs(hidden, weight.detach(), bias.detach(), targets, chunk_tokens=2)
    logprobs.sum().backward()
    (want,) = torch.autograd.grad(_plain(hidden, weight, bias, targets, 1.0)[0].sum(), hidden)
    torch.testing.assert_close(hidden.grad, want, atol=1e-13, rtol=1e-12)
    assert weight.grad is None and bias.grad is None
