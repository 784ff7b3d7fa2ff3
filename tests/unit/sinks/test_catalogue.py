"""Metric names in places that people read are names that a run has."""

import re
from pathlib import Path

import pytest

from darts_async.config.choices import SINKS as CHOICES
from darts_async.config.schema import MetricsSection
from darts_async.engines.engine_stats import EngineStats
from darts_async.errors import ConfigError
from darts_async.sinks import registry
from darts_async.sinks.catalogue import CATALOGUE, meaning_of
from darts_async.sinks.registry import SINKS, check_sinks

ROOT = Path(__file__).resolve().parents[3]


def test_the_registry_has_what_the_config_takes():
    assert tuple(SINKS) == CHOICES


def test_a_library_that_is_missing_is_said_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(registry._LIBRARIES, "tensorboard", "no_such_library")
    with pytest.raises(ConfigError, match=r"`no_such_library` is not installed.*darts-async\[metrics\]"):
        check_sinks(MetricsSection(sinks=["tensorboard"]))


def test_every_gauge_in_the_code_is_in_the_catalogue():
    """Literals such as `"queue/rewards/depth"` or `f"age/{age}/tokens"` where values are assigned to names; where a
    whole name is another variable, its own test tells."""
    groups = {pattern.partition("/")[0] for pattern in CATALOGUE if "/" in pattern and "<" not in pattern[:1]}
    name = re.compile(rf'f?"((?:{"|".join(sorted(groups))})/[^"\s]+)"(?:\]|:)')
    missing = {}
    for folder in ("actors", "darts_async/algorithms", "darts_async/engines", "darts_async/runtime"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for found in name.findall(path.read_text("utf-8")):
                if not found.endswith("/{name}") and meaning_of(re.sub(r"\{[^}]*\}", "x", found))[0] is None:
                    missing[found] = path.name
    assert missing == {}


def test_names_in_the_readme_and_the_changelog_exist():
    groups = "learner|generator|queue|cancel|reward|response_length|staleness|selection|tokens|engine|eval|starvation"
    for document in ("README.md", "configs/README.md", "CHANGELOG.md"):
        text = (ROOT / document).read_text("utf-8")
        for name in re.findall(rf"`((?:{groups})/[a-z0-9_/<>{{}},]+)`", text):
            for one in _spelled_out(name):
                assert _exists(one), f"{document}: {name}"


def _exists(name: str) -> bool:
    """Of a form, such as `engine/<name>`: some metric begins so."""
    if "<" in name:
        return any(pattern.startswith(name.partition("<")[0]) for pattern in CATALOGUE)
    return meaning_of(name)[0] is not None


def _spelled_out(name: str) -> list[str]:
    """`response_length/{generated,kept}` as two names."""
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
    return [name] if match is None else [f"{match[1]}{word}{match[3]}" for word in match[2].split(",")]


def test_what_the_engine_tells_is_in_the_catalogue():
    stats = EngineStats()
    assert all(meaning_of(name)[0] is not None for name in stats.gauges())
