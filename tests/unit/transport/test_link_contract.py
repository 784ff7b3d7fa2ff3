"""The contract of `transport.links`, held by every implementation on both event loops."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from darts_async.errors import LinkBroken, LinkClosed
from darts_async.messages import CancelRollouts, Credits, Progress, RolloutEnded, StreamEnd, Trajectory, VersionSpan
from darts_async.transport.links import Dealer, Hub, Receiver, Sender

DEADLINE_S = 20.0


def numbered(number: int) -> RolloutEnded:
    return RolloutEnded(candidate_id=number, replica=0, reason="failed", num_tokens=0)


def bulky(number: int, tokens: int = 1 << 16) -> Trajectory:
    """Two arrays of 4 * `tokens` bytes: half a MiB by default, more than the kernel likes to hold."""
    return Trajectory(
        candidate_id=number,
        replica=0,
        finish_reason="stop",
        response_tokens=np.full(tokens, number, np.int32),
        behaviour_logprobs=np.zeros(tokens, np.float32),
        version_spans=(VersionSpan(0, 0),),
    )


def cancel(number: int) -> CancelRollouts:
    return CancelRollouts(candidate_ids=(number,), decided_at_s=0.0)


def credit(number: int) -> Credits:
    return Credits(replica=0, granted_total=number)


async def until(holds: Callable[[], bool]) -> None:
    """For facts that no event announces (what a socket holds)."""
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.002)


async def send_until_blocked(send: Callable[[int], Any], limit: int) -> tuple[int, asyncio.Task[None]]:
    """Send 0, 1, ... until one waits; return how many went through, and the task that waits with the next one."""
    for number in range(limit):
        task = asyncio.ensure_future(send(number))
        done, _ = await asyncio.wait([task], timeout=0.15)
        if not done:
            return number, task
        task.result()
    raise AssertionError(f"{limit} messages went out and nothing held them back")


async def test_the_ends_are_what_actors_are_handed(world: Any) -> None:
    receiver, sender = world.stream()
    hub, make_dealer = world.exchange()
    assert isinstance(receiver, Receiver) and isinstance(sender, Sender)
    assert isinstance(hub, Hub) and isinstance(make_dealer("generator-0"), Dealer)


async def test_messages_arrive_in_the_order_they_were_sent(world: Any) -> None:
    receiver, sender = world.stream(hwm=64)
    count = 1500

    async def produce() -> None:
        for number in range(count):
            await sender.send(numbered(number))
        await sender.send(StreamEnd(role="generator", rank=0))

    got = []
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        while not isinstance(message := await receiver.recv(), StreamEnd):
            got.append(message.candidate_id)
    assert got == list(range(count))
    assert sender.stats.sent == receiver.stats.received == count + 1
    assert sender.stats.sent_bytes == receiver.stats.received_bytes


async def test_each_of_many_senders_keeps_its_order(world: Any) -> None:
    receiver, *senders = world.stream(hwm=4, senders=3)

    async def produce(lane: int, sender: Any) -> None:
        for number in range(200):
            await sender.send(numbered(lane * 1000 + number))

    got: list[int] = []
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        for lane, sender in enumerate(senders):
            tasks.create_task(produce(lane, sender))
        while len(got) < 600:
            got.append((await receiver.recv()).candidate_id)
    for lane in range(3):
        assert [number % 1000 for number in got if number // 1000 == lane] == list(range(200))


async def test_a_sender_waits_at_the_high_water_mark(world: Any) -> None:
    receiver, sender = world.stream(hwm=8)
    sent, waiting = await send_until_blocked(lambda number: sender.send(bulky(number)), limit=64)
    # 8 at either end; a TCP connection on this host may hold some MiB in its kernel buffers (0.5 MiB a message).
    assert sent == 8 if world.kind == "memory" else 8 <= sent <= 16 + 24
    assert sender.stats.depth == 1
    got = [(await receiver.recv()).candidate_id for _ in range(sent + 1)]
    await asyncio.wait_for(waiting, DEADLINE_S)
    assert got == list(range(sent + 1))


async def test_tasks_that_wait_to_send_are_served_in_order(world: Any) -> None:
    receiver, sender = world.stream(hwm=2)
    sent, first = await send_until_blocked(lambda number: sender.send(bulky(number)), limit=64)
    others = [asyncio.ensure_future(sender.send(bulky(sent + 1 + extra))) for extra in range(5)]
    await asyncio.sleep(0)
    others[2].cancel()
    expected = [number for number in range(sent + 6) if number != sent + 3]
    async with asyncio.timeout(DEADLINE_S):
        assert [(await receiver.recv()).candidate_id for _ in expected] == expected
        await asyncio.gather(first, *others, return_exceptions=True)
    assert sender.stats.sent == len(expected)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_cancelled_receives_lose_nothing(world: Any, seed: int) -> None:
    receiver, sender = world.stream(hwm=16)
    chance = random.Random(seed)
    count = 300
    got: list[int] = []

    async def produce() -> None:
        for number in range(count):
            await sender.send(numbered(number))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)

    async def consume() -> None:
        while True:
            got.append((await receiver.recv()).candidate_id)

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        while len(got) < count:
            task = asyncio.ensure_future(consume())
            await asyncio.sleep(chance.choice([0, 0, 0, 0.0005]))
            task.cancel()
            await asyncio.wait([task])
    assert got == list(range(count))


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_cancelled_send_has_sent_nothing_and_not_half(world: Any, seed: int) -> None:
    receiver, sender = world.stream(hwm=2)
    chance = random.Random(seed)
    sent: list[int] = []

    async def produce() -> None:
        for number in range(150):
            task = asyncio.ensure_future(sender.send(bulky(number, tokens=4096)))
            if chance.random() < 0.5:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                sent.append(number)
        await sender.send(StreamEnd(role="generator", rank=0))

    got = []
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        while not isinstance(message := await receiver.recv(), StreamEnd):
            assert (message.response_tokens == message.candidate_id).all()
            got.append(message.candidate_id)
    assert got == sent
    assert 0 < len(sent) < 150


async def test_the_hub_addresses_its_dealers_by_name(world: Any) -> None:
    hub, make_dealer = world.exchange()
    dealers = {name: make_dealer(name) for name in ("generator-0", "generator-1", "allocator-0")}
    async with asyncio.timeout(DEADLINE_S):
        for number, dealer in enumerate(dealers.values()):
            await dealer.send(credit(number))
        heard = dict([await hub.recv() for _ in dealers])
        assert {name: message.granted_total for name, message in heard.items()} == {
            "generator-0": 0,
            "generator-1": 1,
            "allocator-0": 2,
        }
        for number in range(30):
            await hub.send(list(dealers)[number % 3], cancel(number))
        for lane, dealer in enumerate(dealers.values()):
            got = [(await dealer.recv()).candidate_ids[0] for _ in range(10)]
            assert got == list(range(lane, 30, 3))
    assert hub.stats.sent == 30 and hub.stats.received == 3


async def test_a_send_to_nobody_is_an_error(world: Any) -> None:
    hub, _ = world.exchange()
    with pytest.raises(LinkBroken, match="generator-7"):
        await hub.send("generator-7", cancel(1))
    assert hub.stats.sent == 0


async def test_a_send_to_a_dealer_that_has_gone_is_an_error(world: Any) -> None:
    hub, make_dealer = world.exchange()
    dealer = make_dealer("generator-0")
    async with asyncio.timeout(DEADLINE_S):
        await dealer.send(credit(1))
        await hub.recv()
        await dealer.close()

        async def send_for_ever() -> None:
            for number in itertools.count():  # the loss of a connection takes a moment to be seen
                await hub.send("generator-0", cancel(number))
                await asyncio.sleep(0.002)

        with pytest.raises(LinkBroken, match="generator-0"):
            await send_for_ever()


async def test_a_restarted_dealer_takes_its_name_over(world: Any) -> None:
    hub, make_dealer = world.exchange()
    async with asyncio.timeout(DEADLINE_S):
        for life in range(3):
            dealer = make_dealer("generator-0")
            await dealer.send(credit(life))
            name, hello = await hub.recv()
            assert (name, hello.granted_total) == ("generator-0", life)
            await hub.send(name, cancel(life))
            assert (await dealer.recv()).candidate_ids == (life,)
            await dealer.close()


async def test_a_full_dealer_does_not_hold_up_the_others(world: Any) -> None:
    hub, make_dealer = world.exchange(hwm=2, reply=Trajectory)
    slow, quick = make_dealer("slow"), make_dealer("quick")
    async with asyncio.timeout(DEADLINE_S):
        for dealer in (slow, quick):
            await dealer.send(credit(0))
            await hub.recv()
        sent, waiting = await send_until_blocked(lambda number: hub.send("slow", bulky(number)), limit=64)
        for number in range(40):
            await hub.send("quick", bulky(number))
            assert (await quick.recv()).candidate_id == number
        assert not waiting.done()
        assert [(await slow.recv()).candidate_id for _ in range(sent + 1)] == list(range(sent + 1))
        await waiting


async def test_a_send_that_waits_fails_when_its_dealer_goes(world: Any) -> None:
    hub, make_dealer = world.exchange(hwm=2, reply=Trajectory)
    dealer = make_dealer("generator-0")
    async with asyncio.timeout(DEADLINE_S):
        await dealer.send(credit(0))
        await hub.recv()
        _, first = await send_until_blocked(lambda number: hub.send("generator-0", bulky(number)), limit=64)
        # A dealer that goes may still make room for a few: its own buffers are emptied.
        waiting = [first, *(asyncio.ensure_future(hub.send("generator-0", bulky(number))) for number in range(30))]
        await asyncio.sleep(0)
        await dealer.close(0)
        with pytest.raises(LinkBroken, match="generator-0"):
            await waiting[-1]
        assert all(task.done() for task in waiting)
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_close_wakes_those_who_wait(world: Any) -> None:
    receiver, sender = world.stream(hwm=2)
    _, make_dealer = world.exchange()
    dealer = make_dealer("generator-0")
    _, blocked = await send_until_blocked(lambda number: sender.send(bulky(number)), limit=64)
    others = [asyncio.ensure_future(sender.send(bulky(0))), asyncio.ensure_future(dealer.recv())]
    others += [asyncio.ensure_future(dealer.recv())]
    await asyncio.sleep(0)
    await asyncio.gather(sender.close(0), dealer.close(0))
    for task in (blocked, *others):
        with pytest.raises(LinkClosed):
            await asyncio.wait_for(task, DEADLINE_S)
    await receiver.close()


async def test_a_closed_link_says_so_and_closes_again_in_peace(world: Any) -> None:
    receiver, sender = world.stream()
    await sender.send(numbered(1))
    await receiver.recv()
    for _ in range(2):
        await sender.close()
        await receiver.close()
    with pytest.raises(LinkClosed):
        await sender.send(numbered(2))
    with pytest.raises(LinkClosed):
        await receiver.recv()


async def test_what_was_sent_before_close_still_arrives(world: Any) -> None:
    receiver, sender = world.stream(hwm=64)
    await sender.send(bulky(0))
    await receiver.recv()

    async def consume() -> list[int]:
        return [(await receiver.recv()).candidate_id for _ in range(40)]

    async with asyncio.timeout(DEADLINE_S):
        for number in range(40):
            await sender.send(bulky(number))
        consumer = asyncio.ensure_future(consume())
        await sender.close(DEADLINE_S)
        assert await consumer == list(range(40))


async def test_links_close_with_their_context(world: Any) -> None:
    receiver, sender = world.stream()
    async with receiver, sender:
        await sender.send(numbered(5))
        assert (await receiver.recv()).candidate_id == 5
    with pytest.raises(LinkClosed):
        await receiver.recv()


async def test_the_depth_is_what_waits_here(world: Any) -> None:
    receiver, sender = world.stream(hwm=64)
    for number in range(20):
        await sender.send(numbered(number))
    await until(lambda: receiver.stats.depth == 20)
    for taken in range(1, 21):
        await receiver.recv()
        assert receiver.stats.depth == 20 - taken


async def test_a_busy_link_lets_other_tasks_run(world: Any) -> None:
    receiver, sender = world.stream(hwm=2048)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    for number in range(1000):
        await sender.send(numbered(number))
    sending_turns = turns
    await until(lambda: receiver.stats.depth == 1000)
    turns = 0
    for _ in range(1000):
        await receiver.recv()
    task.cancel()
    # At least one turn of the loop for every 64 messages, in either direction.
    assert sending_turns >= 1000 // 65 and turns >= 1000 // 65


async def test_arrays_arrive_with_their_values(world: Any) -> None:
    receiver, sender = world.stream()
    update = Progress(replica=3, candidate_ids=np.array([7, 1 << 40]), num_tokens=np.array([1, 2], np.int32))
    empty = Progress(replica=3, candidate_ids=np.array([], np.int64), num_tokens=np.array([], np.int32))
    for message in (update, bulky(9), empty):
        await sender.send(message)
    got = [await receiver.recv() for _ in range(3)]
    assert got[0].candidate_ids.tolist() == [7, 1 << 40] and got[0].num_tokens.tolist() == [1, 2]
    assert (got[1].response_tokens == np.full(1 << 16, 9)).all()
    assert got[2].candidate_ids.size == 0 and got[2].candidate_ids.dtype == np.int64
