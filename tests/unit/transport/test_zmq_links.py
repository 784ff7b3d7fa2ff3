"""What only real sockets can get wrong: bytes from strangers, addresses, copies, descriptors."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from darts_async.errors import LinkBroken, ProtocolError
from darts_async.messages import CancelRollouts, Credits, RolloutEnded, ToSelector, Trajectory, VersionSpan
from darts_async.transport import zmq_socket
from darts_async.transport.codec import Codec
from darts_async.transport.zmq_links import zmq_dealer, zmq_hub, zmq_receiver, zmq_sender

DEADLINE_S = 20.0
GARBAGE = [
    [b""],
    [b"\xc1"],
    [b"\x91" * 5000],
    [msgspec.msgpack.encode({"type": "Nonsense"})],
    [msgspec.msgpack.encode({"type": "StreamEnd", "role": "learner", "rank": -1})],
    [msgspec.msgpack.encode({"type": "StreamEnd", "role": "learner", "rank": 0}), b"surplus"],
    [b"x"] * 300,
]


def ended(number: int) -> RolloutEnded:
    return RolloutEnded(candidate_id=number, replica=0, reason="failed", num_tokens=0)


def long_response(number: int, tokens: int) -> Trajectory:
    return Trajectory(
        candidate_id=number,
        replica=0,
        finish_reason="stop",
        response_tokens=np.arange(tokens, dtype=np.int32),
        behaviour_logprobs=-np.arange(tokens, dtype=np.float32),
        version_spans=(VersionSpan(0, 0),),
    )


async def test_garbage_is_dropped_and_counted_and_the_link_goes_on(
    zmq_world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    receiver, sender = zmq_world.stream()
    stranger = zmq_world.raw(zmq.DEALER, receiver.endpoint)
    async with asyncio.timeout(DEADLINE_S):
        for number, frames in enumerate(GARBAGE, 1):
            stranger.send_multipart(frames)
            receiving = asyncio.ensure_future(receiver.recv())
            await _until(lambda wanted=number: receiver.stats.dropped >= wanted)
            await sender.send(ended(number))
            assert (await receiving).candidate_id == number
    assert (receiver.stats.received, receiver.stats.dropped) == (len(GARBAGE), len(GARBAGE))
    # Once in ten seconds, whatever comes.
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith(f"{receiver.endpoint}: dropped a message of b'\\x00") and line.endswith("(1 so far)")


async def test_what_a_stranger_sends_forges_no_log_lines(zmq_world: Any, caplog: pytest.LogCaptureFixture) -> None:
    receiver, sender = zmq_world.stream()
    name = "\n12:00:00 WARNING all is lost\x1b[31m" + "x" * 10_000
    zmq_world.raw(zmq.DEALER, receiver.endpoint).send(msgspec.msgpack.encode({"type": "StreamEnd", name: 1}))
    async with asyncio.timeout(DEADLINE_S):
        receiving = asyncio.ensure_future(receiver.recv())
        await _until(lambda: receiver.stats.dropped)
        await sender.send(ended(1))
        await receiving
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.isprintable() and len(line) < 600


async def test_a_hub_hears_those_who_belong_to_it(zmq_world: Any) -> None:
    hub = zmq_world.keep(
        zmq_hub(
            zmq_world.context,
            zmq_world.address(),
            send=Codec[Any](CancelRollouts),
            receive=Codec[Any](Credits),
            peers=("generator-0",),
        )
    )

    def dealer(name: str) -> Any:
        codecs: dict[str, Codec[Any]] = {"send": Codec(Credits), "receive": Codec(CancelRollouts)}
        return zmq_world.keep(zmq_dealer(zmq_world.context, hub.endpoint, name, **codecs))

    stranger, member = dealer("generator-1"), dealer("generator-0")
    nameless = zmq_world.raw(zmq.DEALER, hub.endpoint)
    nameless.send(b"\xc1")
    await stranger.send(Credits(replica=1, granted_total=1))
    async with asyncio.timeout(DEADLINE_S):
        receiving = asyncio.ensure_future(hub.recv())
        await _until(lambda: hub.stats.dropped >= 2)
        await member.send(Credits(replica=0, granted_total=2))
        peer, message = await receiving
    assert (peer, message.granted_total, hub.stats.received) == ("generator-0", 2, 1)


async def test_an_inbox_is_bounded_in_bytes_too(zmq_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_socket, "INBOX_BYTES", 100_000)
    codec: Codec[Any] = Codec(ToSelector, max_bytes=20_000)
    receiver = zmq_world.keep(zmq_receiver(zmq_world.context, zmq_world.address(), codec, hwm=200))
    sender = zmq_world.keep(zmq_sender(zmq_world.context, receiver.endpoint, codec, hwm=200))
    async with asyncio.timeout(DEADLINE_S):
        sending = asyncio.ensure_future(_send_all(sender, [long_response(n, 1250) for n in range(200)]))
        await _until(lambda: receiver.waiting_bytes >= 100_000)
        await asyncio.sleep(0.05)
        assert receiver.waiting_bytes < 115_000  # ten of ten thousand bytes, and one more
        assert receiver.stats.depth <= 10
        numbers = [(await receiver.recv()).candidate_id for _ in range(200)]
        await sending
    assert numbers == list(range(200)) and receiver.waiting_bytes == 0


async def _until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - what happens in libzmq has no event
        await asyncio.sleep(0.001)


async def _send_all(sender: Any, messages: list[Any]) -> None:
    for message in messages:
        await sender.send(message)


async def test_a_message_of_many_frames_above_the_bound_never_gets_in(zmq_world: Any) -> None:
    receiver = zmq_world.keep(
        zmq_receiver(zmq_world.context, zmq_world.address(), Codec[Any](ToSelector, max_bytes=1 << 20))
    )
    sender = zmq_world.keep(zmq_sender(zmq_world.context, receiver.endpoint, Codec[Any](ToSelector)))
    zmq_world.raw(zmq.DEALER, receiver.endpoint).send_multipart([bytes(1 << 20)] * 20)
    async with asyncio.timeout(DEADLINE_S):
        await _until(lambda: receiver.stats.dropped)
        assert receiver.waiting_bytes == 0
        await sender.send(ended(2))
        assert (await receiver.recv()).candidate_id == 2


async def test_a_frame_above_the_bound_never_gets_in(zmq_world: Any) -> None:
    receiver = zmq_world.keep(
        zmq_receiver(zmq_world.context, zmq_world.address(), Codec[Any](ToSelector, max_bytes=10_000))
    )
    sender = zmq_world.keep(zmq_sender(zmq_world.context, receiver.endpoint, Codec[Any](ToSelector, max_bytes=10_000)))
    zmq_world.raw(zmq.DEALER, receiver.endpoint).send(b"x" * 10_001)
    with pytest.raises(ProtocolError, match="Trajectory of 16"):
        await sender.send(long_response(1, 2000))
    async with asyncio.timeout(DEADLINE_S):
        await sender.send(ended(2))
        assert (await receiver.recv()).candidate_id == 2


@pytest.mark.parametrize("tokens", [100, 1 << 18])
async def test_arrays_are_views_of_what_the_socket_received(zmq_world: Any, tokens: int) -> None:
    receiver, sender = zmq_world.stream()
    await sender.send(long_response(1, tokens))
    got = await asyncio.wait_for(receiver.recv(), DEADLINE_S)
    for array in (got.response_tokens, got.behaviour_logprobs):
        assert isinstance(array.base, zmq.Frame) and len(array.base) == 4 * tokens
        assert np.shares_memory(array, np.frombuffer(array.base, np.uint8))
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert (got.response_tokens == np.arange(tokens)).all() and (got.behaviour_logprobs == -np.arange(tokens)).all()


async def test_received_arrays_outlive_their_link(zmq_world: Any) -> None:
    receiver, sender = zmq_world.stream()
    await sender.send(long_response(1, 1 << 16))
    got = await asyncio.wait_for(receiver.recv(), DEADLINE_S)
    await sender.close()
    await receiver.close()
    assert int(got.response_tokens.sum()) == (1 << 15) * ((1 << 16) - 1)


async def test_a_taken_address_is_named(zmq_world: Any) -> None:
    receiver, _ = zmq_world.stream()
    with pytest.raises(LinkBroken, match="already in use") as caught:
        zmq_receiver(zmq_world.context, receiver.endpoint, Codec[Any](ToSelector))
    assert receiver.endpoint in str(caught.value)
    with pytest.raises(LinkBroken, match="already in use"):
        zmq_hub(zmq_world.context, receiver.endpoint, send=Codec[Any](CancelRollouts), receive=Codec[Any](Credits))


async def test_the_socket_file_of_a_dead_process_is_no_obstacle(zmq_world: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    receiver = zmq_world.keep(zmq_receiver(zmq_world.context, f"ipc://{path}", Codec[Any](ToSelector)))
    sender = zmq_world.keep(zmq_sender(zmq_world.context, receiver.endpoint, Codec[Any](ToSelector)))
    await sender.send(ended(1))
    assert (await asyncio.wait_for(receiver.recv(), DEADLINE_S)).candidate_id == 1


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://256.0.0.1:1", "ipc:///no/such/folder/s"])
async def test_an_impossible_address_is_named(zmq_world: Any, endpoint: str) -> None:
    with pytest.raises(LinkBroken) as caught:
        zmq_receiver(zmq_world.context, endpoint, Codec[Any](ToSelector))
    assert endpoint in str(caught.value)


@pytest.mark.parametrize("name", ["", "\0x", "x" * 256])
async def test_a_dealer_needs_a_proper_name(zmq_world: Any, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        zmq_dealer(zmq_world.context, "ipc:///tmp/x", name, send=Codec[Any](Credits), receive=Codec[Any](Credits))


async def test_a_high_water_mark_of_zero_would_be_no_bound(zmq_world: Any) -> None:
    with pytest.raises(ValueError, match="high-water"):
        zmq_receiver(zmq_world.context, zmq_world.address(), Codec[Any](ToSelector), hwm=0)


async def test_a_sender_may_come_before_its_receiver(zmq_world: Any, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/late"
    sender = zmq_world.keep(zmq_sender(zmq_world.context, endpoint, Codec[Any](ToSelector), hwm=4))
    tasks = [asyncio.ensure_future(sender.send(ended(number))) for number in range(10)]
    done, waiting = await asyncio.wait(tasks, timeout=0.05)
    assert (len(done), len(waiting)) == (4, 6)
    receiver = zmq_world.keep(zmq_receiver(zmq_world.context, endpoint, Codec[Any](ToSelector)))
    async with asyncio.timeout(DEADLINE_S):
        assert [(await receiver.recv()).candidate_id for _ in range(10)] == list(range(10))
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("padding", [0, 2000])
async def test_nothing_is_lost_when_a_sender_leaves_a_slow_receiver(zmq_world: Any, padding: int) -> None:
    """Closing the connection while the receiver's queue is full would drop what it has not read yet."""
    receiver, sender = zmq_world.stream(hwm=64)
    count = 3000

    async def produce() -> None:
        for number in range(count):
            await sender.send(
                RolloutEnded(candidate_id=number, replica=0, reason="failed", num_tokens=0, error="x" * padding)
            )
        await sender.close(DEADLINE_S)

    got = []
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        while len(got) < count:
            got.append((await receiver.recv()).candidate_id)
            if len(got) % 50 == 0:
                await asyncio.sleep(0.001)
    assert got == list(range(count))


async def test_nobody_waits_for_a_receiver_that_is_gone(zmq_world: Any) -> None:
    receiver, sender = zmq_world.stream()
    hub, make_dealer = zmq_world.exchange()
    dealer = make_dealer("generator-0")
    await sender.send(ended(1))
    await dealer.send(Credits(replica=0, granted_total=1))
    await asyncio.gather(receiver.recv(), hub.recv())
    await receiver.close()
    await hub.close()
    async with asyncio.timeout(DEADLINE_S / 2):
        await asyncio.gather(sender.close(DEADLINE_S), dealer.close(DEADLINE_S))


async def test_closing_without_an_answer_takes_the_time_it_was_given(zmq_world: Any, tmp_path: Path) -> None:
    sender = zmq_world.keep(zmq_sender(zmq_world.context, f"ipc://{tmp_path}/nobody", Codec[Any](ToSelector)))
    await sender.send(ended(1))
    loop = asyncio.get_running_loop()
    started = loop.time()
    await sender.close(0.2)
    assert 0.19 < loop.time() - started < 2.0


async def test_a_close_that_is_cancelled_still_closes(zmq_world: Any, tmp_path: Path) -> None:
    sender = zmq_world.keep(zmq_sender(zmq_world.context, f"ipc://{tmp_path}/nobody", Codec[Any](ToSelector)))
    await sender.send(ended(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sender.close(DEADLINE_S), 0.05)
    zmq_world.context.term()  # would wait for a socket that is still open


async def test_traffic_in_both_directions_never_stalls(zmq_world: Any) -> None:
    """Sends and receives of one socket take each other's wake-ups; every message must still get through."""
    hub, make_dealer = zmq_world.exchange(hwm=2)
    dealers = [make_dealer(f"generator-{number}") for number in range(3)]
    count = 400
    chance = random.Random(5)

    async def up(lane: int) -> None:
        for number in range(count):
            await dealers[lane].send(Credits(replica=lane, granted_total=number))
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    async def down(lane: int) -> None:
        for number in range(count):
            await hub.send(f"generator-{lane}", CancelRollouts(candidate_ids=(number,), decided_at_s=0.0))

    async def collect(lane: int) -> list[int]:
        return [(await dealers[lane].recv()).candidate_ids[0] for _ in range(count)]

    async with asyncio.timeout(DEADLINE_S):
        for lane, dealer in enumerate(dealers):
            await dealer.send(Credits(replica=lane, granted_total=0))
            await hub.recv()
        async with asyncio.TaskGroup() as tasks:
            collected = [tasks.create_task(collect(lane)) for lane in range(3)]
            for lane in range(3):
                tasks.create_task(up(lane))
                tasks.create_task(down(lane))
            heard = [await hub.recv() for _ in range(3 * count)]
    for lane in range(3):
        assert collected[lane].result() == list(range(count))
        assert [m.granted_total for name, m in heard if name == f"generator-{lane}"] == list(range(count))


async def test_a_link_that_nobody_reads_is_quiet(zmq_world: Any) -> None:
    """A full inbox must not leave a readable descriptor behind that turns the loop for nothing."""
    receiver, sender = zmq_world.stream(hwm=4)
    for number in range(4):
        await sender.send(ended(number))
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    while receiver.stats.depth < 2:
        assert loop.time() < end
        await asyncio.sleep(0.002)
    before = os.times()
    await asyncio.sleep(0.3)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.2


async def test_closing_returns_every_descriptor(zmq_world: Any, open_files: Callable[[], int]) -> None:
    async def life() -> None:
        receiver, sender = zmq_world.stream()
        hub, make_dealer = zmq_world.exchange()
        dealer = make_dealer("generator-0")
        await dealer.send(Credits(replica=0, granted_total=1))
        await hub.recv()
        await sender.send(long_response(1, 1 << 16))
        await receiver.recv()
        for link in (sender, dealer, hub, receiver):
            await link.close()

    async with asyncio.timeout(DEADLINE_S):
        await life()  # what the context keeps for itself is open from here on
        before = open_files()
        for _ in range(10):
            await life()
        for _ in range(100):  # the connections' other ends may still be closing
            if open_files() <= before:
                break
            await asyncio.sleep(0.01)
    assert open_files() <= before
