"""When generators may join a run."""

import pytest

from darts_async.config import Config, load_config
from darts_async.errors import ConfigError
from darts_async.runtime.topology import dealers


def config_of(**values: str) -> Config:
    return load_config(None, [(f"launch.{key}", value) for key, value in values.items()])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "launch.bind is `ipc`"),
        ({"bind": "tcp://127.0.0.1:5600", "curve": "off"}, "known by a key"),
        ({"bind": "tcp://127.0.0.1:65527"}, "needs port 65536"),
    ],
)
def test_not_where_nobody_could_or_anybody_might(values: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=words):
        config_of(join="1", **values)


def test_names_beyond_the_configured_ones_have_a_part_only_where_somebody_may_join():
    config = config_of(join="2", bind="tcp://127.0.0.1:65526")
    names = dealers("rollouts", config.generator.replicas + config.launch.join)
    assert names == {"generator-0", "generator-1", "generator-2"}
    assert dealers("rollouts", config_of().generator.replicas + config_of().launch.join) == {"generator-0"}
