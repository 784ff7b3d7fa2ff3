"""Rules about the learner's processes."""

from __future__ import annotations

import pytest

from darts_async.config import Config
from darts_async.config.scale import check_processes
from darts_async.errors import ConfigError


def test_shards_need_somebody_to_share_with() -> None:
    check_processes(Config.model_validate({"learner": {"processes": 2, "sharding": "fsdp2"}}))
    check_processes(Config.model_validate({"learner": {"processes": 1}}))
    with pytest.raises(ConfigError, match=r"learner.sharding = 'fsdp2'.*learner.processes = 1"):
        check_processes(Config.model_validate({"learner": {"sharding": "fsdp2"}}))
