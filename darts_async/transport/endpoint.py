"""Options and addresses of a link's socket: what is the same for every link stands here once.

Invariant: a Unix socket that is bound here can be connected to by this user alone, whatever the umask.
"""

from __future__ import annotations

import contextlib
import errno
import socket as unix
from pathlib import Path
from typing import TypeAlias

import zmq

from darts_async.errors import LinkBroken
from darts_async.transport.curve import ConnectKeys, ServeKeys

Keys: TypeAlias = ServeKeys | ConnectKeys | None
"""Of an end that binds, of one that connects, or of a link without encryption."""

_IPC = "ipc://"


def attach(
    socket: zmq.Socket[bytes],
    endpoint: str,
    *,
    bind: bool,
    send_hwm: int,
    receive_hwm: int,
    max_bytes: int,
    name: str,
    keys: Keys = None,
) -> str:
    """Set a link's options and bind or connect it; return its endpoint (with the port that was chosen for `:*`).

    Raises `LinkBroken` with the endpoint and the cause; the socket is closed then.
    """
    assert keys is None or isinstance(keys, ServeKeys) == bind, f"{endpoint}: the keys of the other end"
    try:
        if keys is not None:
            keys.apply(socket)
        _set_options(socket, send_hwm, receive_hwm, max_bytes, name)
        if not bind:
            socket.connect(endpoint)
            return endpoint
        if endpoint.startswith(_IPC):
            _refuse_if_served(endpoint)
        socket.bind(endpoint)
        if endpoint.startswith(_IPC) and not endpoint.startswith(f"{_IPC}@"):
            Path(endpoint[len(_IPC) :]).chmod(0o600)
        bound = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return bound.rstrip(b"\0").decode()
    except zmq.ZMQError as error:
        socket.close(0)
        in_use = error.errno == zmq.EADDRINUSE
        raise LinkBroken(f"{endpoint}: {'address already in use' if in_use else error}") from error
    except BaseException:
        socket.close(0)
        raise


def _set_options(socket: zmq.Socket[bytes], send_hwm: int, receive_hwm: int, max_bytes: int, name: str) -> None:
    socket.setsockopt(zmq.SNDHWM, send_hwm)
    socket.setsockopt(zmq.RCVHWM, receive_hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.IPV6, 0)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    # A host that vanished is noticed after 30 + 3 * 10 s.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    if socket.type == zmq.ROUTER:
        # Unknown peers are an error and not a silent drop; a restarted peer takes its name over.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if name:
        socket.setsockopt(zmq.ROUTING_ID, name.encode())


def _refuse_if_served(endpoint: str) -> None:
    """libzmq takes a Unix socket's path over from a process that still listens there; find that out before."""
    path = endpoint[len(_IPC) :]
    if path.startswith("@") or not Path(path).is_socket():
        return
    with contextlib.closing(unix.socket(unix.AF_UNIX, unix.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(path) in (errno.ECONNREFUSED, errno.ENOENT)
    if not refused:
        raise LinkBroken(f"{endpoint}: address already in use")
