"""Both event loops, and every implementation of the link contract, behind one small world."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop
import zmq

from darts_async.messages import CancelRollouts, Credits, ToSelector
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange, MemoryStream
from darts_async.transport.zmq_links import zmq_dealer, zmq_hub, zmq_receiver, zmq_sender


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class ZmqWorld:
    """Opens links over real sockets; `settle` closes them and proves that nothing is left."""

    kind = "zmq"

    def __init__(self, transport: str, folder: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._transport = transport
        self._folder = folder
        self._opened: list[Any] = []

    def address(self) -> str:
        if self._transport == "tcp":
            return "tcp://127.0.0.1:*"
        return f"ipc://{self._folder}/{len(self._opened)}"

    def keep(self, link: Any) -> Any:
        self._opened.append(link)
        return link

    def stream(self, *, hwm: int = 1024, types: Any = ToSelector, senders: int = 1) -> tuple[Any, ...]:
        """Return the receiver and its senders."""
        receiver = self.keep(zmq_receiver(self.context, self.address(), Codec(types), hwm=hwm))
        ends = [self.keep(zmq_sender(self.context, receiver.endpoint, Codec(types), hwm=hwm)) for _ in range(senders)]
        return receiver, *ends

    def exchange(self, *, hwm: int = 1024, reply: Any = CancelRollouts) -> tuple[Any, Callable[[str], Any]]:
        """Return a hub (receives `Credits`, sends `reply`) and what makes dealers of it."""
        hub = self.keep(zmq_hub(self.context, self.address(), send=Codec(reply), receive=Codec(Credits), hwm=hwm))

        def dealer(name: str) -> Any:
            return self.keep(
                zmq_dealer(self.context, hub.endpoint, name, send=Codec(Credits), receive=Codec(reply), hwm=hwm)
            )

        return hub, dealer

    def raw(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        """A plain socket that knows nothing of the contract."""
        socket = self.context.socket(kind)
        socket.linger = 500
        socket.connect(endpoint)
        self._opened.append(socket)
        return socket

    async def settle(self) -> None:
        for link in self._opened:
            if isinstance(link, zmq.Socket):
                link.close()
            else:
                await link.close(0)
        self.context.destroy(0)  # closes what a failed test has left open, where `term` would wait for it


class MemoryWorld:
    kind = "memory"

    def __init__(self, *, through_codec: bool) -> None:
        self._through_codec = through_codec
        self._opened: list[Any] = []

    def _codec(self, types: Any) -> Codec[Any] | None:
        return Codec(types) if self._through_codec else None

    def keep(self, link: Any) -> Any:
        self._opened.append(link)
        return link

    def stream(self, *, hwm: int = 1024, types: Any = ToSelector, senders: int = 1) -> tuple[Any, ...]:
        stream: MemoryStream[Any] = MemoryStream(hwm=hwm, codec=self._codec(types))
        return self.keep(stream.receiver()), *(self.keep(stream.sender()) for _ in range(senders))

    def exchange(self, *, hwm: int = 1024, reply: Any = CancelRollouts) -> tuple[Any, Callable[[str], Any]]:
        exchange: MemoryExchange[Any, Any] = MemoryExchange(
            hwm=hwm, send=self._codec(reply), receive=self._codec(Credits)
        )
        return self.keep(exchange.hub), lambda name: self.keep(exchange.dealer(name))

    async def settle(self) -> None:
        for link in self._opened:
            await link.close(0)


async def _checked(world: Any) -> AsyncIterator[Any]:
    yield world
    await world.settle()
    left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()}
    assert left == set()


@pytest_asyncio.fixture(params=["ipc", "tcp", "memory", "memory through codecs"])
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """Every implementation in turn. Afterwards no task, and no file descriptor of a socket, is left."""
    kind = request.param
    if kind.startswith("memory"):
        made: Any = MemoryWorld(through_codec=kind != "memory")
    else:
        made = ZmqWorld(kind, tmp_path_factory.mktemp("s"))
    async for each in _checked(made):
        yield each


@pytest_asyncio.fixture(params=["ipc", "tcp"])
async def zmq_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async for each in _checked(ZmqWorld(request.param, tmp_path_factory.mktemp("s"))):
        yield each


@pytest.fixture
def open_files() -> Callable[[], int]:
    """Count of this process's file descriptors, garbage collected first."""

    def count() -> int:
        gc.collect()
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    return count
