"""Rules of [[reward.functions]], which import nothing of the user's."""

from __future__ import annotations

import pytest

from darts_async.config import load_config
from darts_async.errors import ConfigError


@pytest.mark.parametrize(
    ("functions", "key", "rule"),
    [
        ('[{name="math"}]', "reward.functions[0].name", "Did you mean 'maths'"),
        ('[{name="a b.py:f(x)"}]', "reward.functions[0].name", "no name of a function"),
        ('[{name="task"},{name="task"}]', "reward.functions[1].label", "two functions have this name"),
        ('[{name="a.py:f"},{name="b.py:f"}]', "reward.functions[1].label", "two functions have this name"),
        ('[{name="task",weight=1e7}]', "reward.functions.0.weight", "less than or equal"),
        ('[{name="task",label="a/b"}]', "reward.functions.0.label", "pattern"),
        ('[{nam="task"}]', "reward.functions.0.name", "required"),
    ],
)
def test_what_is_refused(functions: str, key: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        load_config(None, [("reward.functions", functions)])
    assert caught.value.key == key


def test_labels_tell_two_of_the_same_name_apart() -> None:
    config = load_config(None, [("reward.functions", '[{name="a.py:f"},{name="b.py:f",label="g",weight=-2}]')])
    assert [(one.label, one.weight) for one in config.reward.functions] == [("", 1.0), ("g", -2.0)]
