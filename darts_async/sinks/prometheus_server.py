"""The HTTP server that Prometheus scrapes: prometheus-client's own, on one address, while the run lasts."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from darts_async.config.metrics_rules import Address
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.sinks.prometheus import RunExporter

__all__ = ["ScrapeServer", "check_address"]


def check_address(address: Address) -> None:
    """Raise `ConfigError` where nobody can listen there. (Somebody else may come first until the run does.)"""
    try:
        family, kind, number, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        raise _refused(address, error) from None


class ScrapeServer:
    """Answers until it is closed. Its threads are daemons: a client that hangs does not keep the process."""

    def __init__(self, address: Address, exporter: RunExporter) -> None:
        """Raises `ConfigError` when the address is taken."""
        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - only where it is used

        registry = CollectorRegistry()
        registry.register(exporter)
        try:
            self._server, self._thread = start_http_server(address.port, address.host, registry)
        except OSError as error:
            raise _refused(address, error) from None
        server: Any = self._server
        self.address = Address(address.host, int(server.server_address[1]))

    @property
    def url(self) -> str:
        """Where it is scraped."""
        return f"http://{self.address}/metrics"

    def close(self) -> None:
        """Stop. Blocks for up to half a second: the server looks for its end that often."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _refused(address: Address, error: OSError) -> ConfigError:
    return ConfigError(
        "metrics.prometheus",
        str(address),
        f"cannot be listened on ({error.strerror or error})",
        "Choose another port, or 0 for a free one.",
    )
