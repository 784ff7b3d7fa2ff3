"""Log-probs of chosen tokens against softmax by hand."""

from __future__ import annotations

import math

import pytest

pytestmark = pytest.mark.torch


def test_token_logprobs_by_hand() -> None:
    import torch

    from darts_async.engines.logprobs import token_logprobs

    # softmax of (0, ln 3) is (1/4, 3/4); at temperature 0.5 the logits double: (1/10, 9/10)
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    targets = torch.tensor([0, 1])
    assert token_logprobs(logits, targets, 1.0).exp().tolist() == pytest.approx([0.25, 0.75])
    assert token_logprobs(logits, targets, 0.5).exp().tolist() == pytest.approx([0.1, 0.9])


def test_token_logprobs_are_float32_whatever_the_logits() -> None:
    import torch

    from darts_async.engines.logprobs import token_logprobs

    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    targets = torch.arange(5)
    got = token_logprobs(logits, targets, 0.7)
    expected = torch.log_softmax(logits.double() / 0.7, dim=-1)[torch.arange(5), targets]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-6)
