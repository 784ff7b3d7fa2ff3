"""Settings that are allowed and easily misread: which are told, and which are not."""

from __future__ import annotations

from typing import Any

import pytest

from darts_async.config import Config
from darts_async.config.rules import encrypts, resolve, warnings


def warned(**sections: dict[str, Any]) -> list[str]:
    return [text.partition(" = ")[0] for text in warnings(resolve(Config.model_validate(sections)))]


def test_the_defaults_are_quiet() -> None:
    assert warned() == []


@pytest.mark.parametrize("rule", ["first_finished", "shortest", "survivor"])
def test_what_is_over_all_finished_depends_on_arrival_where_some_are_cancelled(rule: str) -> None:
    assert warned(selection={"rule": rule, "baseline": "finished"}) == ["selection.baseline"]
    assert warned(selection={"rule": rule, "baseline": "finished", "zero_variance": "rescue"}) == [
        "selection.baseline",
        "selection.zero_variance",
    ]


@pytest.mark.parametrize("rule", ["all", "dual_end"])
def test_and_not_where_everything_finishes(rule: str) -> None:
    assert warned(selection={"rule": rule, "baseline": "finished", "zero_variance": "rescue"}) == []


def test_pruned_prompts_of_dual_end_do_not_wait() -> None:
    sections = {"selection": {"rule": "dual_end", "baseline": "finished"}, "allocation": {"prune_fraction": 0.05}}
    assert warned(**sections) == ["selection.baseline"]


@pytest.mark.parametrize(("eta", "expected"), [(1, []), (2, ["learner.correction"])])
def test_no_correction_over_several_versions(eta: int, expected: list[str]) -> None:
    assert warned(learner={"correction": "none"}, pipeline={"max_staleness": eta}) == expected
    assert warned(pipeline={"max_staleness": eta}) == []


@pytest.mark.parametrize(
    ("learner", "expected"), [({}, 1), ({"kl_weight": 0.01}, 0), ({"updates_per_step": 2, "correction": "tis"}, 0)]
)
def test_streaming_tokens_to_nobody(learner: dict[str, Any], expected: int) -> None:
    found = warned(queues={"chunk_tokens": 64}, learner=learner)
    assert found.count("queues.chunk_tokens") == expected


@pytest.mark.parametrize(
    ("bind", "curve", "expected"),
    [
        ("ipc", "off", []),
        ("tcp://127.0.0.1:5600", "off", []),
        ("tcp://localhost:5600", "off", []),
        ("tcp://0.0.0.0:5600", "auto", []),
        ("tcp://0.0.0.0:5600", "on", []),
        ("tcp://0.0.0.0:5600", "off", ["launch.curve"]),
        ("tcp://10.0.0.7:5600", "off", ["launch.curve"]),
        ("tcp://trainer.lan:5600", "off", ["launch.curve"]),
    ],
)
def test_open_links_that_others_reach_are_told(bind: str, curve: str, expected: list[str]) -> None:
    assert warned(launch={"bind": bind, "curve": curve}) == expected
    # Nobody gets them who has not asked for them by name.
    resolved = resolve(Config.model_validate({"launch": {"bind": bind}}))
    assert encrypts(resolved) == (bind != "ipc")
