"""A sink that is slow, hangs, fails or cannot be made, and one that works: what each gets, and what people are told."""

import asyncio
import threading
import time

import pytest

from darts_async.config import Config
from darts_async.errors import ConfigError
from darts_async.messages import EvalResult
from darts_async.sinks import Sink, SinkRun
from darts_async.sinks.feed import SinkFeed
from darts_async.sinks.hub import SinkHub


class Taker(Sink):
    def __init__(self, *, fails_at: int | None = None, gate: threading.Event | None = None) -> None:
        self.taken: list[object] = []
        self.closed = False
        self._fails_at, self._gate = fails_at, gate

    def line(self, step, values):
        if self._gate is not None:
            self._gate.wait()
        if step == self._fails_at:
            raise OSError(28, "No space left on device")
        self.taken.append((step, dict(values)))

    def evaluated(self, result):
        self.taken.append(result.label)

    def ended(self, summary):
        self.taken.append(summary["status"])

    def close(self):
        self.closed = True


@pytest.fixture
def run(tmp_path) -> SinkRun:
    return SinkRun("test", tmp_path, {})


def feed_of(sink: Sink, run: SinkRun, told: list[str], bound: int = 8) -> SinkFeed:
    feed = SinkFeed("own", lambda _: sink, run, bound=bound, warn=told.append)
    feed.start()
    return feed


def wait_for_end(feed: SinkFeed) -> None:
    feed._thread.join(5)
    assert not feed.is_working


EVALUATED = EvalResult(label="before", policy_version=0, reward=0.5, response_length=9.0, num_rollouts=4)


def test_a_sink_gets_all_in_order_and_the_end(run):
    sink, told = Taker(), []
    feed = feed_of(sink, run, told)
    feed.evaluated(EVALUATED)
    for step in range(5):
        feed.line(step, {"reward/mean": step / 2})
    feed.finish({"status": "done"})
    wait_for_end(feed)
    assert sink.taken == ["before", *((step, {"reward/mean": step / 2}) for step in range(5)), "done"]
    assert sink.closed and told == [] and feed.num_lost == 0


def test_a_sink_that_fails_once_is_asked_again_and_told_of_once(run):
    sink, told = Taker(fails_at=1), []
    feed = feed_of(sink, run, told)
    for step in (0, 1, 1, 2):
        feed.line(step, {})
    feed.finish(None)
    wait_for_end(feed)
    assert [step for step, _ in sink.taken] == [0, 2]
    assert feed.num_lost == 2 and sink.closed
    (warning,) = told
    assert "`own` failed: OSError" in warning and "No space left" in warning and "metrics.jsonl" in warning
    log = (run.logs / "sinks.log").read_text()
    assert log.count("Traceback") == 1 and "test_feed.py" in log


@pytest.mark.parametrize("error", [RuntimeError("no such server"), SystemExit(3)])
def test_a_sink_that_cannot_be_made_gets_nothing_and_all_is_counted(run, error):
    def make(_):
        raise error

    told: list[str] = []
    feed = SinkFeed("own", make, run, bound=8, warn=told.append)
    feed.start()
    for step in range(3):
        feed.line(step, {})
    feed.finish(None)
    wait_for_end(feed)
    assert feed.num_lost == 3 and len(told) == 1 and "could not be opened" in told[0]


def test_what_is_no_sink_is_said_to_be_none(run):
    told: list[str] = []
    feed = SinkFeed("own", lambda _: object(), run, bound=8, warn=told.append)  # type: ignore[arg-type, return-value]
    feed.start()
    feed.finish(None)
    wait_for_end(feed)
    assert "it has no line, evaluated, ended, close" in told[0]


def test_a_sink_that_hangs_holds_up_nobody_and_what_finds_no_room_is_counted(run):
    gate, told = threading.Event(), []
    sink = Taker(gate=gate)
    feed = feed_of(sink, run, told, bound=4)
    feed.line(0, {})
    while feed.num_waiting:  # it has taken the first one, and hangs in it
        time.sleep(0.001)
    began = time.monotonic()
    for step in range(1, 11):
        feed.line(step, {})
    feed.evaluated(EVALUATED)  # comes once: there is room for it yet
    assert time.monotonic() - began < 1
    assert (feed.num_waiting, feed.num_lost) == (5, 6)
    assert len(told) == 1 and "does not keep up: 4 lines" in told[0]
    gate.set()
    feed.finish({"status": "done"})
    wait_for_end(feed)
    assert [taken[0] if isinstance(taken, tuple) else taken for taken in sink.taken] == [
        0,
        1,
        2,
        3,
        4,
        "before",
        "done",
    ]


OWN = """
import threading
from darts_async.sinks import Sink

MADE = []

class Own(Sink):
    def __init__(self, run):
        self.run, self.steps = run, []
        MADE.append(self)

    def line(self, step, values):
        self.steps.append((step, values["reward/mean"]))

    def close(self):
        self.steps.append("closed")

class Hangs(Sink):
    def __init__(self, run):
        threading.Event().wait()

def fails(run):
    raise ValueError("not today")
"""


def _hub(tmp_path, told, *names: str, timeout_s: float = 5.0) -> SinkHub:
    (tmp_path / "own.py").write_text(OWN)
    sinks = [f"{tmp_path / 'own.py'}:{name}" for name in names]
    config = Config.model_validate({"metrics": {"sinks": sinks, "sink_timeout_s": timeout_s}})
    return SinkHub(config, SinkRun("test", tmp_path, config.model_dump(mode="json"), 3), told.append)


async def test_own_sinks_good_and_bad_beside_each_other(tmp_path):
    told: list[str] = []
    hub = _hub(tmp_path, told, "Own", "fails", "Hangs", timeout_s=0.3)
    hub.open()
    for step in range(3):
        hub.line({"step": step, "reward/mean": 0.25 * step})
    began = time.monotonic()
    await hub.close({"status": "done"}, asyncio.Event())
    assert 0.25 < time.monotonic() - began < 3
    await asyncio.sleep(0)
    import sys

    (module,) = [
        found
        for name, found in sys.modules.items()
        if name.startswith("_darts_async_user_own") and getattr(found, "MADE", None)
    ]
    (own,) = module.MADE
    assert own.steps == [(0, 0.0), (1, 0.25), (2, 0.5), "closed"]
    assert own.run.first_step == 3
    gauges = hub.gauges()
    # The one that failed lost three lines and the summary; in the one that hangs all wait: 3, the summary, the end.
    assert (gauges["sink/Own/lost_lines"], gauges["sink/fails/lost_lines"], gauges["sink/Hangs/waiting_lines"]) == (
        0,
        4,
        5,
    )
    assert any("`fails` could not be opened" in text for text in told)
    assert any(
        "did not end within metrics.sink_timeout_s = 0.3 s and are left behind: `Hangs`" in text for text in told
    )
    assert len(told) == 2


async def test_nobody_waits_who_is_in_a_hurry(tmp_path):
    told: list[str] = []
    hub = _hub(tmp_path, told, "Hangs", timeout_s=60.0)
    hub.open()
    hurry = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, hurry.set)
    async with asyncio.timeout(5):
        await hub.close(None, hurry)
    assert "did not end at once" in told[0]


async def test_a_sink_that_cannot_be_imported_is_a_config_error(tmp_path):
    hub = _hub(tmp_path, [], "missing")
    with pytest.raises(ConfigError, match=r"metrics\.sinks.*`missing` is not there"):
        hub.open()
    await hub.close(None, asyncio.Event())
