"""[metrics]: which sinks and addresses there can be."""

import pytest

from darts_async.config.metrics_rules import Address, parse_prometheus
from darts_async.config.rules import resolve, warnings
from darts_async.config.schema import Config
from darts_async.errors import ConfigError


def resolved(**metrics: object) -> Config:
    return resolve(Config.model_validate({"metrics": metrics}))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9464", Address("127.0.0.1", 9464)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:9464", Address("::1", 9464)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
    ],
)
def test_addresses(text: str, address: Address | None):
    assert parse_prometheus(text) == address
    assert text in {"", str(address)}


@pytest.mark.parametrize(
    "text", ["9464", ":9464", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:70000", "http://a:9464", "a b:9464"]
)
def test_what_is_no_address(text: str):
    with pytest.raises(ConfigError, match=r"metrics\.prometheus"):
        resolved(prometheus=text)


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        (["tensorbord"], "Did you mean `tensorboard`"),
        (["csv"], "must be one of tensorboard, wandb"),
        (["wandb", "wandb"], "is listed twice"),
        (["mine.py:no name"], "is no name of a function"),
    ],
)
def test_what_is_no_sink(sinks: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        resolved(sinks=sinks)


def test_own_sinks_are_not_imported_to_look_at_a_config():
    assert (
        resolved(sinks=["tensorboard", "nowhere.at_all:make", "mine.py:make"]).metrics.sinks[1] == "nowhere.at_all:make"
    )


@pytest.mark.parametrize(
    ("address", "open_to_all"), [("127.9.9.9:9464", False), ("[::1]:9464", False), ("0.0.0.0:9464", True)]
)
def test_an_address_that_others_reach_is_warned_of(address: str, open_to_all: bool):
    found = [text for text in warnings(resolved(prometheus=address)) if "metrics.prometheus" in text]
    assert len(found) == open_to_all
