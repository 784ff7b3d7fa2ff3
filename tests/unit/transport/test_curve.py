"""Encrypted links over real sockets: who gets in, who does not, and that a restart changes neither."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import zmq

from darts_async.messages import CancelRollouts, Credits, RolloutEnded, ToSelector
from darts_async.transport.codec import Codec
from darts_async.transport.curve import ConnectKeys, KeyPair, ServeKeys, curve_is_available, is_key, new_pair
from darts_async.transport.gate import Gate
from darts_async.transport.zmq_links import zmq_dealer, zmq_hub, zmq_receiver, zmq_sender

DEADLINE_S = 20.0
SERVER, MEMBER, OTHER = new_pair(), new_pair(), new_pair()
RIGHT = ConnectKeys(MEMBER, SERVER.public)
STRANGERS = {
    "an unknown key": ConnectKeys(OTHER, SERVER.public),
    "the server's own key": ConnectKeys(SERVER, SERVER.public),
    "a wrong server key": ConnectKeys(MEMBER, OTHER.public),
    "no keys": None,
}


def ended(number: int) -> RolloutEnded:
    return RolloutEnded(candidate_id=number, replica=0, reason="failed", num_tokens=0)


class Place:
    """A context of the binder's with a gate, one of the strangers', and what was opened in them."""

    def __init__(self, address: str, allowed: dict[str, frozenset[bytes]] | None) -> None:
        self.address = address
        self.inside: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.outside: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.gate = None if allowed is None else Gate(self.inside, allowed)
        self.opened: list[Any] = []

    def keep(self, link: Any) -> Any:
        self.opened.append(link)
        return link

    def receiver(self, domain: str = "trajectories", address: str = "") -> Any:
        keys = ServeKeys(SERVER, domain)
        return self.keep(zmq_receiver(self.inside, address or self.address, Codec[Any](ToSelector), keys=keys))

    def sender(self, endpoint: str, keys: ConnectKeys | None) -> Any:
        return self.keep(zmq_sender(self.outside, endpoint, Codec[Any](ToSelector), keys=keys))

    async def close(self) -> None:
        for link in self.opened:
            await link.close(0)
        if self.gate is not None:
            self.gate.close()
        self.inside.destroy(0)
        self.outside.destroy(0)


@pytest_asyncio.fixture(params=["tcp", "ipc"])
async def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[..., Place]]:
    places: list[Place] = []
    address = "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/s"

    def make(allowed: dict[str, frozenset[bytes]] | None) -> Place:
        places.append(Place(address, allowed))
        return places[-1]

    yield make
    for place in places:
        await place.close()


MEMBERS = {"trajectories": frozenset({MEMBER.public}), "steps": frozenset({OTHER.public})}


async def _until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - what happens in libzmq has no event
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("who", STRANGERS)
async def test_a_member_gets_in_and_a_stranger_does_not(make_place: Callable[..., Place], who: str) -> None:
    place = make_place(MEMBERS)
    receiver = place.receiver()
    stranger = place.sender(receiver.endpoint, STRANGERS[who])
    async with asyncio.timeout(DEADLINE_S):
        sending = asyncio.ensure_future(stranger.send(ended(1)))
        await _until(lambda: receiver.stats.refused_peers)
        member = place.sender(receiver.endpoint, RIGHT)
        await member.send(ended(2))
        assert (await receiver.recv()).candidate_id == 2
    sending.cancel()
    assert (receiver.stats.received, receiver.stats.dropped, receiver.stats.depth) == (1, 0, 0)
    assert place.gate is not None and place.gate.admitted == 1
    assert place.gate.denied == (1 if who in {"an unknown key", "the server's own key"} else 0)


async def test_a_key_opens_its_own_link_only(make_place: Callable[..., Place]) -> None:
    place = make_place(MEMBERS)
    receiver = place.receiver("steps")
    place.sender(receiver.endpoint, RIGHT)
    async with asyncio.timeout(DEADLINE_S):
        await _until(lambda: receiver.stats.refused_peers)
    assert place.gate is not None and (place.gate.admitted, place.gate.denied) == (0, 1)


async def test_without_a_gate_nobody_gets_in(make_place: Callable[..., Place]) -> None:
    place = make_place(None)
    receiver = place.receiver()
    member = place.sender(receiver.endpoint, RIGHT)
    async with asyncio.timeout(DEADLINE_S):
        sending = asyncio.ensure_future(member.send(ended(1)))
        await _until(lambda: receiver.stats.refused_peers)
    sending.cancel()
    assert receiver.stats.received == 0


async def test_members_find_a_binder_that_was_started_anew(make_place: Callable[..., Place]) -> None:
    first = make_place(MEMBERS)
    receiver = first.receiver()
    member = first.sender(receiver.endpoint, RIGHT)
    async with asyncio.timeout(DEADLINE_S):
        await member.send(ended(1))
        assert (await receiver.recv()).candidate_id == 1
        await receiver.close(0)
        assert first.gate is not None
        first.gate.close()
        second = make_place(MEMBERS)
        again = second.receiver(address=receiver.endpoint)
        await member.send(ended(2))
        assert (await again.recv()).candidate_id == 2
        second.sender(again.endpoint, STRANGERS["an unknown key"])
        await _until(lambda: again.stats.refused_peers)


async def test_a_hub_and_its_dealer_talk_both_ways(make_place: Callable[..., Place]) -> None:
    place = make_place({"cancels": frozenset({MEMBER.public})})
    codecs: dict[str, Codec[Any]] = {"send": Codec(CancelRollouts), "receive": Codec(Credits)}
    hub = place.keep(zmq_hub(place.inside, place.address, keys=ServeKeys(SERVER, "cancels"), **codecs))
    codecs = {"send": Codec(Credits), "receive": Codec(CancelRollouts)}
    dealer = place.keep(zmq_dealer(place.outside, hub.endpoint, "generator-0", keys=RIGHT, **codecs))
    async with asyncio.timeout(DEADLINE_S):
        await dealer.send(Credits(replica=0, granted_total=3))
        assert (await hub.recv())[0] == "generator-0"
        await hub.send("generator-0", CancelRollouts(candidate_ids=(7,), decided_at_s=0.0))
        assert (await dealer.recv()).candidate_ids == (7,)


async def test_a_gate_that_is_asked_nonsense_says_no(caplog: pytest.LogCaptureFixture) -> None:
    context: zmq.Context[Any] = zmq.Context()
    gate = Gate(context, MEMBERS)
    asker = context.socket(zmq.REQ)
    asker.connect("inproc://zeromq.zap.01")
    questions = [
        [b""],
        [b"1.0", b"1", b"trajectories", b"\n", b"", b"CURVE", b"short"],
        [b"1.0", b"2", b"trajectories", b"", b"", b"PLAIN", bytes(32)],
        [b"9.9", b"3", b"trajectories", b"", b"", b"CURVE", bytes(32)],
        [b"x"] * 100,
    ]
    with caplog.at_level(logging.WARNING):
        for question in questions:
            asker.send_multipart(question)
            async with asyncio.timeout(DEADLINE_S):
                await _until(lambda: asker.poll(0))
            assert asker.recv_multipart()[2] == b"400"
    assert (gate.admitted, gate.denied, len(caplog.records)) == (0, len(questions), 1)
    asker.close(0)
    gate.close()
    gate.close()
    context.destroy(0)


def test_secret_keys_do_not_show() -> None:
    for holder in (SERVER, ServeKeys(SERVER, "x"), RIGHT):
        assert SERVER.secret.decode() not in repr(holder) and MEMBER.secret.decode() not in repr(holder)
    assert curve_is_available()
    assert is_key(SERVER.public) and not is_key(b"") and not is_key(b"~" * 40)
    assert KeyPair(b"a", b"b") != KeyPair(b"a", b"c")
