"""Whatever a config says, what a run writes lies in its own folder (or, its weights, in shared memory by a hash)."""

from __future__ import annotations

import os.path
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.launcher.preflight import check_run_folder, with_name

WRITTEN = [name for name, value in vars(RunPaths).items() if isinstance(value, property) and name != "weights"]
FOLDER = Path(__file__).parent / "runs"
ELSEWHERE = ["..", ".", "../x", "/etc/x", "a/b", "a/../../b", ".hidden", "a\0b", "a\n", "~root", "x" * 101, "a\\b"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [("run.name", name)])
    assert caught.value.key == "run.name"


@given(st.text(max_size=12) | st.text("./\\-ab\0 ~", max_size=12))
def test_every_name_that_is_taken_stays_under_the_folder(name: str) -> None:
    try:
        config = load_config(None, [("run.dir", str(FOLDER)), ("run.name", name)])
        config = with_name(config, "../../my config.toml")
        check_run_folder(config, RunPaths.of(config))
    except ConfigError as error:
        if error.key == "run.name":
            return
        raise
    paths = RunPaths.of(config)
    assert paths.root.parent == FOLDER
    for what in WRITTEN:
        path = getattr(paths, what)
        assert Path(os.path.normpath(path)) == path and path.is_relative_to(paths.root), what
    assert re.fullmatch(r"darts-async-[0-9a-f]{16}", paths.weights.name)


def test_everything_lies_directly_in_the_run_folder() -> None:
    paths = RunPaths(FOLDER / "r")
    assert len(WRITTEN) >= 10
    assert {getattr(paths, what).parent for what in WRITTEN if what != "root"} == {paths.root}
