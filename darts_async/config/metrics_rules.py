"""Rules of [metrics]: what sinks may be called, and how the address for Prometheus is written."""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from darts_async.config.choices import SINKS
from darts_async.config.import_path import check_import_path, is_import_path
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import Config

__all__ = ["Address", "check_metrics", "metrics_warnings", "parse_prometheus"]

_ADDRESS: Final = re.compile(r"^(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})$")
_KEY: Final = "metrics.prometheus"


class Address(NamedTuple):
    """Where a server listens. Port 0: one that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_prometheus(text: str) -> Address | None:
    """Return `metrics.prometheus` as an address, or None where there is none. Raises `ConfigError`."""
    if not text:
        return None
    match = _ADDRESS.match(text)
    if match is None:
        raise ConfigError(_KEY, text, "must be HOST:PORT", "Try `127.0.0.1:9464`, or leave it empty.")
    port = int(match["port"])
    if port and not 1024 <= port <= 65_535:
        raise ConfigError(_KEY, text, "the port must be in 1024..65535, or 0 for a free one", "Choose another port.")
    return Address(match["v6"] or match["host"], port)


def check_metrics(config: Config) -> None:
    """Raise `ConfigError` for the first setting of [metrics] that cannot work."""
    seen: set[str] = set()
    for sink in config.metrics.sinks:
        if sink in seen:
            raise ConfigError("metrics.sinks", sink, "is listed twice", "Leave one of the two out.")
        seen.add(sink)
        if is_import_path(sink):
            check_import_path("metrics.sinks", sink)
        elif sink not in SINKS:
            near = difflib.get_close_matches(sink, SINKS, n=1, cutoff=0.5)
            fix = f"Did you mean `{near[0]}`?" if near else "Or a function of yours: `package.module:function`."
            raise ConfigError("metrics.sinks", sink, f"must be one of {', '.join(SINKS)}", fix)
    parse_prometheus(config.metrics.prometheus)


def metrics_warnings(config: Config) -> list[str]:
    """Return what is allowed but easily misread, one sentence each."""
    address = parse_prometheus(config.metrics.prometheus)
    if address is None or address.is_loopback:
        return []
    return [f"metrics.prometheus = '{address}': whoever reaches that address can read the run's figures"]
