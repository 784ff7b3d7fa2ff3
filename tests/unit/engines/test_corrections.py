"""Each correction by hand: weights, masks, and whose log-probs the loss's ratio is taken over."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from darts_async.config.choices import CORRECTIONS as CORRECTION_NAMES
from darts_async.config.choices import TWO_SIDED_MASKS, WEIGHT_CORRECTIONS
from darts_async.config.schema import LearnerSection

if TYPE_CHECKING:
    from darts_async.engines.loss_terms import Reference

pytestmark = pytest.mark.torch


def _correct(names: list[str], weights: list[float], lengths: list[int], **settings: Any) -> Reference:
    """Correct tokens whose pi_prox / mu are `weights`, behaviour log-prob -1; the policy is somewhere else."""
    import torch

    from darts_async.engines.corrections import correct
    from darts_async.engines.loss_tokens import LossTokens

    counts = torch.tensor(lengths)
    behaviour = torch.full((len(weights),), -1.0, dtype=torch.float64)
    tokens = LossTokens(
        policy=torch.full_like(behaviour, -9.0),
        behaviour=behaviour,
        proximal=behaviour + torch.tensor(weights, dtype=torch.float64).log(),
        advantages=torch.ones_like(behaviour),
        responses=torch.repeat_interleave(torch.arange(len(lengths)), counts),
        lengths=counts,
        ages=torch.zeros(len(weights), dtype=torch.int64),
        current=torch.ones(len(weights), dtype=torch.bool),
    )
    return correct(tokens, names, LearnerSection(**settings))


def test_the_registry_has_the_names_that_the_config_knows() -> None:
    from darts_async.engines.corrections import CORRECTIONS

    assert tuple(CORRECTIONS) == CORRECTION_NAMES
    assert set(CORRECTION_NAMES) >= WEIGHT_CORRECTIONS | TWO_SIDED_MASKS


def test_none_weighs_and_masks_nothing() -> None:
    found = _correct(["none"], [0.01, 1.0, 50.0], [3])
    assert found.weights.tolist() == [1.0, 1.0, 1.0]
    assert not found.masked.any() and not found.capped.any()


def test_tis_truncates() -> None:
    found = _correct(["tis"], [0.5, 1.5, 2.5, 4.0], [4], tis_cap=2.0)
    assert found.weights.tolist() == pytest.approx([0.5, 1.5, 2.0, 2.0])
    assert found.capped.tolist() == [False, False, True, True]
    assert not found.masked.any()


def test_decoupled_ppo_weighs_as_it_is() -> None:
    found = _correct(["decoupled_ppo"], [0.5, 1.5, 40.0], [3])
    assert found.weights.tolist() == pytest.approx([0.5, 1.5, 40.0])
    assert not found.masked.any() and not found.capped.any()


def test_icepop_masks_tokens_on_both_sides() -> None:
    found = _correct(["icepop"], [0.4, 0.6, 1.0, 4.9, 5.1], [5], icepop_low=0.5, icepop_high=5.0)
    assert found.masked.tolist() == [True, False, False, False, True]
    assert found.weights.tolist() == pytest.approx([0.0, 0.6, 1.0, 4.9, 0.0])


def test_sequence_mask_judges_the_product() -> None:
    # products: 4 * 0.25 = 1 (its tokens are far off); 1.5 * 1.5 = 2.25; 0.6 * 0.8 = 0.48; 1.9
    found = _correct(["sequence_mask"], [4.0, 0.25, 1.5, 1.5, 0.6, 0.8, 1.9], [2, 2, 2, 1])
    assert found.masked.tolist() == [False, False, True, True, True, True, False]
    assert found.weights.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_geometric_mask_judges_the_mean_of_logarithms() -> None:
    # 1.02 * 0.99 = 1.0098, its root 1.0049: inside 0.99..1.01; 1.02 outside; root of 0.97 * 0.99 is 0.980: outside
    found = _correct(["geometric_mask"], [1.02, 0.99, 1.02, 0.97, 0.99], [2, 1, 2])
    assert found.masked.tolist() == [False, False, True, True, True]


def test_a_lower_bound_of_0_is_none() -> None:
    found = _correct(["sequence_mask"], [1e-30, 3.0], [1, 1], sequence_mask_low=0.0, sequence_mask_high=2.0)
    assert found.masked.tolist() == [False, True]


def test_a_product_that_overflows_is_large() -> None:
    found = _correct(["sequence_mask"], [1e200] * 3 + [1.0], [3, 1])
    assert found.masked.tolist() == [True, True, True, False]


def test_outlier_veto_takes_the_whole_response_of_one_impossible_token() -> None:
    found = _correct(["outlier_veto"], [1.0, 9e-5, 1.0, 1.1e-4, 100.0], [3, 2], veto_ratio=1e-4)
    assert found.masked.tolist() == [True, True, True, False, False]


def test_masks_combine_by_union_and_with_a_weight() -> None:
    # icepop takes the first token, the sequence mask the whole of the second response (1.5 * 1.5)
    found = _correct(["icepop", "sequence_mask"], [0.1, 9.0 / 2, 1.5, 1.5, 1.2], [2, 2, 1], sequence_mask_low=0.4)
    assert found.masked.tolist() == [True, False, True, True, False]
    assert found.weights.tolist() == pytest.approx([0.0, 4.5, 0.0, 0.0, 1.2])
    capped = _correct(["tis", "outlier_veto"], [3.0, 1e-6, 3.0], [2, 1])
    assert capped.weights.tolist() == pytest.approx([0.0, 0.0, 2.0])
    assert capped.capped.tolist() == [False, False, True]  # a token that is left out is not counted as capped too


@pytest.mark.parametrize(
    ("names", "proximal"),
    [
        (["none"], False),
        (["sequence_mask"], False),
        (["geometric_mask", "outlier_veto"], False),
        (["tis"], True),
        (["decoupled_ppo"], True),
        (["icepop"], True),
        (["sequence_mask", "tis"], True),
    ],
)
def test_a_weight_moves_the_old_policy_from_behaviour_to_proximal(names: list[str], proximal: bool) -> None:
    found = _correct(names, [1.5], [1])
    assert found.old_logprobs.tolist() == pytest.approx([-1.0 + (math.log(1.5) if proximal else 0.0)])


@pytest.mark.parametrize("name", [name for name in CORRECTION_NAMES if name not in WEIGHT_CORRECTIONS])
def test_a_ratio_that_is_not_a_number_is_not_left_out(name: str) -> None:
    assert not _correct([name], [math.nan, 1.0], [2], veto_ratio=0.5).masked.any()
