"""Names of shadow pairs, and the lists that are refused."""

from __future__ import annotations

import pytest

from darts_async.config import Config, load_config
from darts_async.config.rules import resolve
from darts_async.config.shadows import pair_name
from darts_async.errors import ConfigError


@pytest.mark.parametrize(
    ("loss", "correction", "name"),
    [
        ("gspo", "none", "gspo+none"),
        ("ppo_clip", "tis", "ppo_clip+tis"),
        ("ppo_clip", ["tis", "geometric_mask"], "ppo_clip+geometric_mask+tis"),  # their order does not matter
        ("own.losses:mine", ["tis"], "mine+tis"),
        ("folder/own.py:mine", "none", "mine+none"),
    ],
)
def test_names(loss: str, correction: str | list[str], name: str) -> None:
    assert pair_name(loss, correction) == name


def shadowed(*pairs: dict[str, object]) -> Config:
    return resolve(Config.model_validate({"learner": {"shadow": list(pairs)}}))


def test_two_pairs_of_one_name_are_refused() -> None:
    first = {"loss": "ppo_clip", "correction": ["tis", "geometric_mask"]}
    with pytest.raises(ConfigError, match=r"learner\.shadow\.2 = 'ppo_clip\+geometric_mask\+tis'.*entry 0"):
        shadowed(first, {"loss": "gspo"}, {"loss": "ppo_clip", "correction": ["geometric_mask", "tis"]})
    assert len(shadowed(first, {"loss": "gspo"}, {"loss": "gspo", "correction": "tis"}).learner.shadow) == 3


def test_too_many_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 32"):
        shadowed(*({"loss": "gspo"} for _ in range(33)))


def test_the_off_policy_config_names_each_pair_once_and_lets_staleness_grow() -> None:
    config = load_config("off_policy")
    assert len({pair_name(shadow.loss, shadow.correction) for shadow in config.learner.shadow}) >= 8
    eta, groups = config.pipeline.max_staleness, config.group.groups_per_step
    assert eta == 4 and config.allocation.max is not None
    # What the bound admits can be dispatched, decode at once, and wait.
    assert config.queues.in_flight_groups >= (eta + 1) * groups
    assert config.generator.max_num_seqs >= config.queues.in_flight_groups * float(config.allocation.budget or 0)
