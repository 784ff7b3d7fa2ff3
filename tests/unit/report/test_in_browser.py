"""The report in headless Chromium: no error on the console, no request, every chart with something drawn in it, no
sideways scrolling on a phone, and the colours of the other theme as soon as the system changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darts_async.report.write import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRAWN = """new Promise((done) => {
  const root = document.documentElement, look = () => root.dataset.drawn === THEME && done(true);
  new MutationObserver(look).observe(root, {attributes: true});
  look();
})"""
MARKS = """Object.fromEntries([...document.querySelectorAll(".plot")].map((plot) => [plot.dataset.chart,
  [...plot.querySelectorAll(".js-line, .scatterlayer .point, .barlayer .point path, .sankey-link")].filter((mark) => {
    const box = mark.getBBox();
    return mark.getAttribute("d") && (box.width > 0 || box.height > 0);
  }).length]))"""
ON_FIXED_PIPES = """import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])"""
INK = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"


class Browser:
    """Chromium by its debugging protocol, over two pipes."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        pipes = [sys.executable, "-c", ON_FIXED_PIPES, str(commands), str(answers)]
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
        self._process = subprocess.Popen(
            [*pipes, CHROMIUM, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def show(self, path: Path, width: int, theme: str) -> None:
        """Open a page and wait until all of it is drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        self.set_theme(theme)
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        self.events = [event for event in self.events if event["method"] != "Page.loadEventFired"]
        self.wait_drawn(theme)

    def set_theme(self, theme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def wait_drawn(self, theme: str) -> None:
        assert self.evaluate(DRAWN.replace("THEME", json.dumps(theme)))

    def complaints(self) -> list[dict[str, Any]]:
        """Everything that was said on the console, thrown, or asked for over the network."""
        self.evaluate("1")
        said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in said] + [
            event
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
            and not event["params"]["request"]["url"].startswith(("file:", "data:", "blob:"))
        ]

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        self._process.wait(timeout=20)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._read, 1 << 20)
            assert more, "Chromium is gone"
            self._buffer += more
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed (apt-get install chromium)")
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


def check(browser: Browser, num_charts: int, width: int) -> None:
    marks = browser.evaluate(MARKS)
    assert len(marks) >= num_charts
    assert {name: count for name, count in marks.items() if not count} == {}
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert browser.complaints() == []


def test_a_phone_by_day_and_by_night(browser: Browser, make_run):
    browser.show(write_report([make_run("one", 12)]), 360, "light")
    light = browser.evaluate(INK)
    browser.set_theme("dark")
    browser.wait_drawn("dark")
    assert (light, browser.evaluate(INK)) == ("rgb(27, 31, 36)", "rgb(232, 235, 239)")
    check(browser, num_charts=23, width=360)


@pytest.mark.long
@pytest.mark.parametrize("width", [360, 1280])
def test_several_runs_share_the_charts(browser: Browser, make_run, tmp_path: Path, width: int):
    runs = [make_run("one", 12), make_run("two", 5), make_run("three", 1)]
    browser.show(write_report(runs, tmp_path / "several.html"), width, "dark")
    check(browser, num_charts=25, width=width)
