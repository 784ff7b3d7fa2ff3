"""What [learner] refuses, what it warns of, and what the warnings say."""

from __future__ import annotations

from typing import Any

import pytest

from darts_async.algorithms.advantages import ADVANTAGES
from darts_async.config import Config, choices
from darts_async.config.rules import resolve, warnings
from darts_async.errors import ConfigError


def _resolved(learner: dict[str, Any], **sections: dict[str, Any]) -> Config:
    return resolve(Config.model_validate({"learner": learner, **sections}))


def _refused(learner: dict[str, Any], **sections: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _resolved(learner, **sections)
    return caught.value


def _warned(learner: dict[str, Any], **sections: dict[str, Any]) -> list[str]:
    return [text.partition(" = ")[0] for text in warnings(_resolved(learner, **sections))]


def test_the_advantages_known_here_are_those_there_are() -> None:
    assert tuple(ADVANTAGES) == choices.ADVANTAGES


@pytest.mark.parametrize(
    ("learner", "key", "near"),
    [
        ({"loss": "ppo_klip"}, "learner.loss", "`ppo_clip`"),
        ({"advantage": "grp"}, "learner.advantage", "`grpo`"),
        ({"correction": "ice_pop"}, "learner.correction", "`icepop`"),
        ({"correction": ["tis", "veto"]}, "learner.correction", "`outlier_veto`"),
        ({"shadow": [{"loss": "gspo"}, {"loss": "cisp"}]}, "learner.shadow.1.loss", "`cispo`"),
        ({"shadow": [{"correction": ["tiss"]}]}, "learner.shadow.0.correction", "`tis`"),
    ],
)
def test_unknown_names_get_the_nearest(learner: dict[str, Any], key: str, near: str) -> None:
    error = _refused(learner)
    assert error.key == key and f"Did you mean {near}" in error.fix


@pytest.mark.parametrize(
    ("correction", "rule"),
    [
        ([], "names no correction"),
        (["none", "tis"], "stands alone"),
        (["icepop", "icepop"], "twice"),
        (["tis", "geometric_mask", "icepop"], "tis and icepop"),
        (["decoupled_ppo", "tis"], "count twice"),
    ],
)
def test_corrections_that_do_not_go_together(correction: list[str], rule: str) -> None:
    assert rule in _refused({"correction": correction}).rule
    assert _refused({"shadow": [{"correction": correction}]}).key == "learner.shadow.0.correction"


@pytest.mark.parametrize("correction", [["none"], ["tis", "geometric_mask", "outlier_veto"], "icepop"])
def test_corrections_that_do(correction: Any) -> None:
    _resolved({"correction": correction})


@pytest.mark.parametrize(
    "value", ["a/b.py:my loss", "pack age:loss", "pack..age:loss", ":loss", "package:", "my-losses.txt:f"]
)
def test_import_paths_are_checked_for_their_form(value: str) -> None:
    assert _refused({"loss": value}).key == "learner.loss"
    assert _refused({"advantage": value}).key == "learner.advantage"
    assert _refused({"shadow": [{"loss": value}]}).key == "learner.shadow.0.loss"


@pytest.mark.parametrize("value", ["package:loss", "package.module:loss", "./where/ever it is.py:loss", "/a/b.py:f"])
def test_and_nothing_is_imported_for_it(value: str) -> None:
    assert _resolved({"loss": value, "advantage": value}).learner.loss == value


def test_updates_divide_the_groups() -> None:
    error = _refused({"updates_per_step": 3}, group={"groups_per_step": 8})
    assert error.key == "learner.updates_per_step" and "1, 2, 4, 8" in error.fix
    _resolved({"updates_per_step": 4}, group={"groups_per_step": 8})
    assert _refused({"updates_per_step": 16}, group={"groups_per_step": 8}).key == "learner.updates_per_step"


def test_the_overlong_buffer_is_shorter_than_a_response() -> None:
    model = {"max_response_tokens": 64}
    assert _refused({"overlong_buffer_tokens": 64}, model=model).key == "learner.overlong_buffer_tokens"
    _resolved({"overlong_buffer_tokens": 63}, model=model)


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 20}])
def test_truncated_sampling_needs_a_two_sided_mask(sampling: dict[str, Any]) -> None:
    (key,) = sampling
    for correction in ("none", "tis", "decoupled_ppo", ["tis", "outlier_veto"]):
        error = _refused({"correction": correction}, sampling=sampling)
        assert error.key == f"sampling.{key}" and "icepop" in error.fix
    for correction in ("icepop", "sequence_mask", ["tis", "geometric_mask"]):
        learner = {"correction": correction}
        assert _warned(learner, sampling=sampling) == [f"sampling.{key}"]
        (text,) = warnings(_resolved(learner, sampling=sampling))
        assert "renormalised" in text and "never learned from" in text
    assert _warned({"correction": "icepop"}, sampling={"top_k": 0, "top_p": 1.0}) == []


@pytest.mark.parametrize("correction", ["none", "outlier_veto"])
def test_stale_data_without_a_correction_is_told(correction: str) -> None:
    stale = {"max_staleness": 2}
    assert _warned({"correction": correction}, pipeline=stale) == ["learner.correction"]
    assert _warned({"correction": correction, "loss": "my.module:loss"}, pipeline=stale) == ["learner.correction"]
    assert _warned({"correction": correction, "loss": "cispo"}, pipeline=stale) == []  # has truncated weights itself
    assert _warned({"correction": correction}, pipeline={"max_staleness": 1}) == []
    assert _warned({"correction": ["geometric_mask"]}, pipeline=stale) == []


def test_gspo_is_aggregated_by_sequence_in_its_paper() -> None:
    assert _warned({"loss": "gspo"}) == ["learner.aggregation"]
    assert _warned({"loss": "gspo", "aggregation": "sequence"}) == []


def test_a_reference_without_weight_is_told() -> None:
    assert _warned({"reference": "some/folder"}) == ["learner.reference"]
    assert _warned({"reference": "some/folder", "kl_weight": 1e-3}) == []


@pytest.mark.parametrize(
    ("learner", "key", "words"),
    [
        ({"lora_targets": []}, "learner.lora_targets", "must name layers"),
        ({"lora_targets": ["q_proj", ".*"]}, "learner.lora_targets", "must name layers"),
        ({"lora_targets": ["all-linear", "q_proj"]}, "learner.lora_targets", "stands alone"),
        ({"lora_rank": 4, "init_optimiser": True}, "learner.init_optimiser", "an adapter begins anew"),
    ],
)
def test_adapters_that_cannot_be(learner: dict[str, Any], key: str, words: str) -> None:
    error = _refused(learner)
    assert error.key == key and words in error.rule


def test_adapters_that_do_little() -> None:
    assert _warned({"lora_rank": 8, "lr": 1e-6}) == ["learner.lr"]
    assert _warned({"lora_rank": 8, "lr": 1e-4, "lora_alpha": 8.0, "lora_targets": "self_attn.q_proj"}) == []
    assert _warned({"lora_alpha": 8.0}) == ["learner.lora_alpha"]
