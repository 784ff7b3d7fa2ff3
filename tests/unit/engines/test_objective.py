"""The whole objective against closed forms in plain Python, token by token, and against finite differences of them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darts_async.config import Config

if TYPE_CHECKING:
    from darts_async.engines.loss_tokens import LossTokens

pytestmark = pytest.mark.torch

CORRECTIONS = [
    "none",
    "tis",
    "decoupled_ppo",
    "icepop",
    "sequence_mask",
    "geometric_mask",
    "outlier_veto",
    ["tis", "geometric_mask"],
    ["icepop", "sequence_mask", "outlier_veto"],
]
LENGTHS = (4, 1, 6, 3, 2)
ADVANTAGES = (1.3, -0.7, 0.4, -2.0, 0.9)
BOUNDS = {
    "clip_low": 0.2,
    "clip_high": 0.28,
    "dual_clip": 1.6,
    "gspo_clip_low": 0.1,
    "gspo_clip_high": 0.1,
    "cispo_clip_high": 0.4,
    "tis_cap": 1.2,
    "icepop_low": 0.7,
    "icepop_high": 1.4,
    "sequence_mask_low": 0.5,
    "sequence_mask_high": 1.5,
    "geometric_mask_low": 0.9,
    "geometric_mask_high": 1.1,
    "veto_ratio": 0.6,
}
CAP = 16


def _config(**learner: Any) -> Config:
    return Config.model_validate({"model": {"max_response_tokens": CAP}, "learner": {**BOUNDS, **learner}})


def _numbers(seed: int = 8) -> dict[str, list[float]]:
    """Log-probs of four policies, some way from each other: every bound above acts on some tokens and not on others."""
    rng = np.random.default_rng(seed)
    size = sum(LENGTHS)
    behaviour = -rng.uniform(0.3, 2.0, size)
    drift = np.repeat([0.0, 0.05, 0.12, -0.1, 0.02], LENGTHS)
    proximal = behaviour + drift + rng.normal(0, 0.25, size)
    policy = proximal + rng.normal(0, 0.3, size)
    found = {
        "behaviour": behaviour,
        "proximal": proximal,
        "policy": policy,
        "reference": policy + rng.normal(0, 0.5, size),
        "entropy": rng.uniform(0, 3, size),
    }
    return {name: values.tolist() for name, values in found.items()}


def _tokens(numbers: dict[str, list[float]], dtype: str = "float64") -> LossTokens:
    import torch

    from darts_async.engines.loss_tokens import LossTokens

    values = {name: torch.tensor(of, dtype=getattr(torch, dtype)) for name, of in numbers.items()}
    counts = torch.tensor(LENGTHS)
    rows = torch.repeat_interleave(torch.arange(len(LENGTHS)), counts)
    return LossTokens(
        policy=values["policy"].requires_grad_(),
        behaviour=values["behaviour"],
        proximal=values["proximal"],
        advantages=torch.tensor(ADVANTAGES, dtype=values["policy"].dtype)[rows],
        responses=rows,
        lengths=counts,
        ages=torch.zeros(len(rows), dtype=torch.int64),
        current=rows > 0,
        reference=values["reference"],
        entropy=values["entropy"].requires_grad_(),
    )


# --- the closed forms, in plain Python --------------------------------------------------------------------------------


def _rows() -> list[list[int]]:
    stops = list(itertools.accumulate(LENGTHS))
    return [list(range(stop - length, stop)) for stop, length in zip(stops, LENGTHS, strict=True)]


def _masked_and_weights(numbers: dict[str, list[float]], names: Sequence[str]) -> tuple[list[bool], list[float]]:
    ratio = [math.exp(p - b) for p, b in zip(numbers["proximal"], numbers["behaviour"], strict=True)]
    masked, weights = [False] * len(ratio), [1.0] * len(ratio)
    for row in _rows():
        product = math.prod(ratio[t] for t in row)
        out = (
            ("sequence_mask" in names and not 0.5 <= product <= 1.5)
            or ("geometric_mask" in names and not 0.9 <= product ** (1 / len(row)) <= 1.1)
            or ("outlier_veto" in names and min(ratio[t] for t in row) < 0.6)
        )
        for t in row:
            masked[t] = out or ("icepop" in names and not 0.7 <= ratio[t] <= 1.4)
            if "tis" in names:
                weights[t] = min(ratio[t], 1.2)
            elif {"decoupled_ppo", "icepop"} & set(names):
                weights[t] = ratio[t]
    return masked, weights


def _clipped_slope(r: float, a: float, low: float, high: float, dual: float) -> tuple[float, float]:
    """Value of the clipped surrogate's loss and its derivative by log r."""
    if a > 0:
        return (-(1 + high) * a, 0.0) if r > 1 + high else (-r * a, -r * a)
    if r < 1 - low:
        return -(1 - low) * a, 0.0
    return (-dual * a, 0.0) if r > dual else (-r * a, -r * a)


def _closed_form(
    numbers: dict[str, list[float]], loss: str, names: Sequence[str], aggregation: str
) -> tuple[float, list[float], list[bool]]:
    """Weighted sum of the losses, its gradient, and what was masked."""
    masked, weights = _masked_and_weights(numbers, names)
    old = numbers["proximal" if {"tis", "decoupled_ppo", "icepop"} & set(names) else "behaviour"]
    policy = numbers["policy"]
    total, gradient = 0.0, [0.0] * len(policy)
    for row, advantage in zip(_rows(), ADVANTAGES, strict=True):
        sequence = math.exp(sum(0.0 if masked[t] else policy[t] - old[t] for t in row) / len(row))
        for t in row:
            r = math.exp(policy[t] - old[t])
            if loss == "ppo_clip":
                value, slope = _clipped_slope(r, advantage, 0.2, 0.28, 1.6)
            elif loss == "gspo":
                value, slope = _clipped_slope(sequence, advantage, 0.1, 0.1, math.inf)
            else:
                slope = -min(r, 1.4) * advantage
                value = slope * policy[t]
            share = 0.0 if masked[t] else weights[t] / (len(row) if aggregation == "sequence" else 1)
            total += share * value
            gradient[t] = share * slope
    return total, gradient, masked


def _names(correction: str | list[str]) -> list[str]:
    return [correction] if isinstance(correction, str) else correction


# --- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["token", "sequence", "dr_grpo"])
@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda c: "+".join(_names(c)))
@pytest.mark.parametrize("loss", ["ppo_clip", "gspo", "cispo"])
def test_every_pair_has_its_closed_form(loss: str, correction: str | list[str], aggregation: str) -> None:
    import torch

    from darts_async.engines.objective import Objective

    masks = {"icepop", "sequence_mask", "geometric_mask", "outlier_veto"} & set(_names(correction))
    for seed in (8, 79):
        numbers = _numbers(seed)
        tokens = _tokens(numbers)
        total, sums = Objective(_config(loss=loss, correction=correction, aggregation=aggregation))(tokens)
        (gradient,) = torch.autograd.grad(total, tokens.policy)
        expected, slopes, masked = _closed_form(numbers, loss, _names(correction), aggregation)
        assert any(masked) == bool(masks) and not all(masked)  # or the case shows nothing
        assert total.item() == pytest.approx(expected, rel=1e-12) == sums.loss
        assert gradient.tolist() == pytest.approx(slopes, rel=1e-12, abs=1e-14)
        assert sums.masked == sum(masked)
        # what is masked keeps its place in the denominator
        assert sums.denominator == {"token": 16, "sequence": 5, "dr_grpo": 5 * CAP}[aggregation]


PAIRS = [
    *itertools.product(["ppo_clip", "cispo"], ["none", "tis", "sequence_mask", ["icepop", "geometric_mask"]]),
    *itertools.product(["gspo"], ["none", "sequence_mask"]),
]


@pytest.mark.parametrize(("loss", "correction"), PAIRS)
def test_gradients_are_finite_differences_of_the_textbook_surrogate(loss: str, correction: str | list[str]) -> None:
    """Under `sequence`, so that GSPO is the paper's `sum_i -min(s_i A_i, clip(s_i) A_i)` with one ratio a response."""
    import torch

    from darts_async.engines.objective import Objective

    numbers = _numbers()
    masked, weights = _masked_and_weights(numbers, _names(correction))
    old = np.array(numbers["proximal" if {"tis", "icepop"} & set(_names(correction)) else "behaviour"])
    base, reference = np.array(numbers["policy"]), np.array(numbers["reference"])
    factor, kept = np.where(masked, 0.0, weights), ~np.array(masked)

    def surrogate(policy: np.ndarray) -> float:
        total = 0.0
        for row, a in zip(_rows(), ADVANTAGES, strict=True):
            difference = (policy - old)[row]
            if loss == "gspo":
                s = np.exp(difference.mean())
                losses = np.full(len(row), -min(s * a, np.clip(s, 0.9, 1.1) * a))
            elif loss == "ppo_clip":
                r = np.exp(difference)
                losses = -np.minimum(r * a, np.clip(r, 0.8, 1.28) * a)
                losses = np.where((a < 0) & (r > 1.6), -1.6 * a, losses)
            else:  # the weights are constants of the surrogate
                losses = -np.minimum(np.exp((base - old)[row]), 1.4) * a * policy[row]
            d = reference[row] - policy[row]
            total += float((factor[row] * losses + kept[row] * 0.3 * (np.exp(d) - d - 1)).sum()) / len(row)
        return total

    numeric = []
    for t in range(base.size):
        move = np.zeros_like(base)
        move[t] = 1e-6
        numeric.append((surrogate(base + move) - surrogate(base - move)) / 2e-6)
    tokens = _tokens(numbers)
    total, _ = Objective(_config(loss=loss, correction=correction, aggregation="sequence", kl_weight=0.3))(tokens)
    (gradient,) = torch.autograd.grad(total, tokens.policy)
    assert any(numeric)
    assert gradient.tolist() == pytest.approx(numeric, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("correction", ["tis", "icepop"])
def test_reference_kl_and_entropy_are_part_of_each_tokens_loss(correction: str, aggregation: str) -> None:
    import torch

    from darts_async.engines.objective import Objective

    numbers = _numbers()
    settings = {"correction": correction, "aggregation": aggregation}
    tokens = _tokens(numbers)
    with_both = Objective(_config(kl_weight=0.3, entropy_weight=0.05, **settings))
    total, sums = with_both(tokens)
    assert tokens.entropy is not None
    gradient, of_entropy = torch.autograd.grad(total, [tokens.policy, tokens.entropy])
    expected, slopes, masked = _closed_form(numbers, "ppo_clip", [correction], aggregation)
    bonus = [0.0] * len(slopes)
    for row in _rows():
        for t in row:
            share = 0.0 if masked[t] else 1.0 / (len(row) if aggregation == "sequence" else 1)
            d = numbers["reference"][t] - numbers["policy"][t]
            expected += share * (0.3 * (math.exp(d) - d - 1) - 0.05 * numbers["entropy"][t])
            slopes[t] += share * 0.3 * (1 - math.exp(d))
            bonus[t] = -0.05 * share
    assert total.item() == pytest.approx(expected, rel=1e-12)
    assert gradient.tolist() == pytest.approx(slopes, rel=1e-11, abs=1e-13)
    assert of_entropy.tolist() == pytest.approx(bonus)
    # the figures are over all tokens, masked ones too
    kl = [math.exp(r - p) - (r - p) - 1 for r, p in zip(numbers["reference"], numbers["policy"], strict=True)]
    assert sums.metrics()["learner/kl_reference"] == pytest.approx(sum(kl) / 16)
    assert sums.metrics()["learner/entropy"] == pytest.approx(sum(numbers["entropy"]) / 16)


def test_without_a_weight_the_regularisers_are_measured_and_change_nothing() -> None:
    from darts_async.engines.objective import Objective

    tokens = _tokens(_numbers())
    bare = dataclasses.replace(tokens, reference=None, entropy=None)
    objective = Objective(_config(correction="tis"))
    assert objective(tokens)[0].item() == objective(bare)[0].item()
    assert objective(tokens)[1].metrics().keys() - objective(bare)[1].metrics().keys() == {
        "learner/kl_reference",
        "learner/entropy",
    }


# --- sums -------------------------------------------------------------------------------------------------------------


def _take(tokens: LossTokens, responses: Sequence[int]) -> LossTokens:
    """Some responses in another order, as a micro-batch of their own."""
    import torch

    rows = _rows()
    index = torch.tensor([t for response in responses for t in rows[response]])
    lengths = tokens.lengths[torch.tensor(responses)]
    picked = {
        name: None if (value := getattr(tokens, name)) is None else value[index]
        for name in ("policy", "behaviour", "proximal", "advantages", "ages", "current", "reference", "entropy")
    }
    return dataclasses.replace(
        tokens, **picked, lengths=lengths, responses=torch.repeat_interleave(torch.arange(len(responses)), lengths)
    )


@pytest.mark.parametrize("aggregation", ["token", "sequence", "dr_grpo"])
@pytest.mark.parametrize(("loss", "correction"), [("gspo", "sequence_mask"), ("ppo_clip", ["icepop", "outlier_veto"])])
def test_any_split_into_micro_batches_is_the_whole(loss: str, correction: str | list[str], aggregation: str) -> None:
    import torch

    from darts_async.engines.objective import Objective
    from darts_async.engines.token_sums import TokenSums

    config = _config(loss=loss, correction=correction, aggregation=aggregation, kl_weight=0.2, entropy_weight=0.1)
    tokens = _tokens(_numbers())
    whole, sums = Objective(config)(tokens)
    (full,) = torch.autograd.grad(whole, tokens.policy, retain_graph=True)
    for parts in ([[4], [2, 0], [1, 3]], [[3, 2, 1, 0, 4]], [[0], [1], [2], [3], [4]]):
        joined, gradient = TokenSums(), torch.zeros_like(full)
        for part in parts:
            total, of_part = Objective(config)(_take(tokens, part))
            gradient += torch.autograd.grad(total, tokens.policy, retain_graph=True)[0]
            joined += of_part
        torch.testing.assert_close(gradient / joined.denominator, full / sums.denominator, atol=1e-15, rtol=1e-13)
        assert dataclasses.asdict(joined) == pytest.approx(dataclasses.asdict(sums), rel=1e-12)


def test_the_figures_by_hand() -> None:
    import torch

    from darts_async.engines.objective import Objective

    tokens = _tokens(_numbers())
    count = 16
    log_weights = torch.zeros(count, dtype=torch.float64)
    log_weights[:4] = torch.tensor([3.0, 2.0, 0.5, 0.5]).log()
    log_policy = torch.zeros(count, dtype=torch.float64)
    log_policy[4], log_policy[5] = -0.5, 1.0
    tokens = dataclasses.replace(
        tokens,
        proximal=tokens.behaviour + log_weights,
        policy=(tokens.behaviour + log_policy).requires_grad_(),
        current=torch.arange(count) < 8,
        reference=None,
        entropy=None,
    )
    metrics = Objective(_config(correction=["tis", "sequence_mask"], tis_cap=1.5, sequence_mask_high=5.0))(tokens)[
        1
    ].metrics()
    weights = [3.0, 2.0, 0.5, 0.5, *[1.0] * 12]
    assert metrics["learner/ess"] == pytest.approx(sum(weights) ** 2 / (16 * sum(w * w for w in weights)))
    assert metrics["learner/masked_fraction"] == 0.0
    assert metrics["learner/tis_capped_fraction"] == pytest.approx(2 / 16)
    k3 = [math.exp(-0.5) - 1 + 0.5, math.e - 1 - 1]
    assert metrics["mismatch_kl"] == pytest.approx(sum(k3) / 16)
    assert metrics["learner/ratio_max"] == pytest.approx(math.e)
    assert metrics["learner/logprob_diff_mean"] == pytest.approx(1.5 / 8)
    assert metrics["learner/logprob_diff_max"] == pytest.approx(1.0)
    other = dataclasses.replace(tokens, current=torch.zeros(count, dtype=torch.bool))
    assert "learner/logprob_diff_mean" not in Objective(_config())(other)[1].metrics()


# --- numbers that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda c: "+".join(_names(c)))
@pytest.mark.parametrize("where", ["behaviour", "proximal", "policy", "advantages"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_number_that_is_not_finite_is_never_capped_or_masked_away(
    bad: float, where: str, correction: str | list[str]
) -> None:
    from darts_async.engines.objective import Objective

    for loss in ("ppo_clip", "gspo", "cispo"):
        tokens = _tokens(_numbers())
        values = getattr(tokens, where).detach().clone()
        values[7] = bad
        total, sums = Objective(_config(loss=loss, correction=correction))(
            dataclasses.replace(tokens, **{where: values})
        )
        assert math.isnan(total.item()) and math.isnan(sums.loss)


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo", "cispo"])
def test_a_masked_ratio_that_overflows_leaves_the_others_alone(loss: str) -> None:
    """exp(2000) is infinite: masked, neither its loss nor its gradient may become 0 * inf."""
    import torch

    from darts_async.engines.objective import Objective

    numbers = _numbers()
    for name in ("policy", "proximal"):
        numbers[name][13] = numbers["behaviour"][13] + 2000.0  # the fourth response
    numbers["reference"][13] = 4000.0
    tokens = _tokens(numbers)
    objective = Objective(_config(loss=loss, correction="sequence_mask", kl_weight=0.1))
    total, sums = objective(tokens)
    (gradient,) = torch.autograd.grad(total, tokens.policy)
    assert math.isfinite(total.item()) and sums.masked >= 3
    assert torch.isfinite(gradient).all() and not gradient[11:14].any() and gradient[:4].any()
