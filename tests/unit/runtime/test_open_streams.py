"""Who is waited for before the books are closed."""

import asyncio

import pytest

from darts_async.runtime.open_streams import OpenStreams


async def test_who_is_gone_is_not_waited_for_unless_it_came_back():
    streams = OpenStreams(["a", "b"])
    streams.ended("a")
    streams.lost("b")
    await asyncio.wait_for(streams.over(), 1)
    streams.back("b")
    assert streams.missing == ["b"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(streams.over(), 0.01)
    streams.ended("b")
    await asyncio.wait_for(streams.over(), 1)


async def test_the_loss_of_an_earlier_start_is_heard_too_late():
    streams = OpenStreams(["a"])
    streams.ended("a")
    streams.back("c", 1)
    streams.lost("c", 0)
    assert streams.missing == ["c"]
    streams.lost("c", 1)
    await asyncio.wait_for(streams.over(), 1)
