"""Who may connect to an encrypted link: answers libzmq's questions (ZAP, its RFC 27) from a list of public keys.

One gate serves all links that are bound in its context, and must exist before the first of them and until the last is
closed. Invariant: whatever is not a listed key on a listed link is refused; a question that cannot be read is too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

import zmq
from zmq.utils import z85

__all__ = ["Gate"]

_log = logging.getLogger(__name__)
_ENDPOINT: Final = "inproc://zeromq.zap.01"
_QUESTION_FRAMES: Final = 7
"""version, request, domain, address, routing id, mechanism, the client's public key (32 bytes)"""
_WARN_EVERY_S: Final = 10.0


class Gate:
    """Serves on the running event loop until closed."""

    def __init__(self, context: zmq.Context[Any], allowed: Mapping[str, frozenset[bytes]]) -> None:
        """`allowed`: by link (its ZAP domain), the public keys in Z85 that may connect."""
        self.admitted = 0
        self.denied = 0
        self._allowed = {domain.encode(): keys for domain, keys in allowed.items()}
        self._loop = asyncio.get_running_loop()
        self._quiet_until = 0.0
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(_ENDPOINT)
        except BaseException:
            self._socket.close(0)
            raise
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._answer)
        self._answer()

    def close(self) -> None:
        """Stop answering: whoever connects from now on waits in vain. Idempotent."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close(0)

    def _answer(self) -> None:
        try:
            while True:
                question = self._socket.recv_multipart(zmq.DONTWAIT)
                version, request = (*question, b"", b"")[:2]
                admits = self._admits(question)
                status, text = (b"200", b"OK") if admits else (b"400", b"unknown key")
                self._socket.send_multipart([version, request, status, text, b"", b""], zmq.DONTWAIT)
        except zmq.Again:
            return

    def _admits(self, question: list[bytes]) -> bool:
        if len(question) == _QUESTION_FRAMES and question[0] == b"1.0" and question[5] == b"CURVE":
            domain, address, key = question[2], question[3], question[6]
            if len(key) == 32 and z85.encode(key) in self._allowed.get(domain, frozenset()):
                self.admitted += 1
                return True
        else:
            domain, address = b"", b""
        self.denied += 1
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + _WARN_EVERY_S
            where = ascii(address[:64].decode("latin-1"))
            _log.warning("a stranger at %s was refused at link %r (%d so far)", where, domain.decode(), self.denied)
        return False
