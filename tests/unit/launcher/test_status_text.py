"""The answer of a live run as lines: what stands in them, and that tables fit the terminal."""

import pytest

from darts_async.launcher.status_text import clock, status_lines
from darts_async.messages import KnobChange
from darts_async.runtime.outside_link import QueueLine, RoleLine, StatusAnswer


def _answer(**other):
    values = {
        "run": "r",
        "state": "running",
        "wall_s": 3725.0,
        "step": 3,
        "steps": 10,
        "roles": (
            RoleLine(
                name="learner-0", state="training step 4", state_s=2, pid=7, restarts=0, idle_ratio=0.25, heard_s=0.4
            ),
            RoleLine(
                name="generator-0", state="was killed by SIGKILL, restart 1 of 3 in 2 s", state_s=1, pid=8, restarts=0
            ),
        ),
        "queues": (
            QueueLine(name="ready_groups", depth=4.0, bound=16, busy_s=61.0),
            QueueLine(name="rewards", depth=0.0, bound=4096, busy_s=0.0),
        ),
        "waits": ("selector-0 waits for learner-0",),
        "verdict": "it comes down to learner-0, which is training step 4",
        "still_s": 0.4,
        "stalls": 0,
        "stalls_log": "logs/stalls.log",
        "warnings": (),
        "changed": {},
    }
    return StatusAnswer(**values | other)


def test_a_wide_terminal_shows_everything():
    assert [line.text for line in status_lines(_answer(), 120)] == [
        "r: running, step 3 of 10, 1 h 02 min since the start",
        "",
        "role         state                                         for  last heard  idle  restarts  pid",
        "learner-0    training step 4                               2 s     0 s ago   25%         0    7",
        "generator-0  was killed by SIGKILL, restart 1 of 3 in 2 s  1 s       never               0    8",
        "",
        "queue             holds  not empty for",
        "ready groups    4 of 16     1 min 01 s",
        "rewards       0 of 4096",
        "",
        "who waits for whom, and for how long nothing about it has changed:",
        "  selector-0 waits for learner-0",
        "  it comes down to learner-0, which is training step 4",
    ]


@pytest.mark.parametrize("width", range(28, 130))
def test_tables_fit_and_keep_role_and_state(width):
    lines = [line.text for line in status_lines(_answer(), width)]
    table = lines[
        lines.index("") + 1 : lines.index("who waits for whom, and for how long nothing about it has changed:")
    ]
    assert max(map(len, table)) <= width
    assert table[1].startswith("learner-0    training ")
    assert "queue" in table[4]
    assert "4 of 16" in table[5]


def test_stalls_settings_and_warnings_are_shown_when_there_are_any():
    changed = {"run.max_wall_s": KnobChange(None, 90.0)}
    answer = _answer(still_s=75.0, stalls=2, warnings=("a", "b"), changed=changed)
    text = "\n".join(line.text for line in status_lines(answer, 80))
    assert "nothing has progressed for 1 min 15 s" in text
    assert "stalls so far: 2; who waited for whom: logs/stalls.log" in text
    assert "  run.max_wall_s: none -> 90.0" in text
    assert text.endswith("last warnings:\n  a\n  b")
    quiet = "\n".join(line.text for line in status_lines(_answer(), 80))
    assert not {"progressed", "stalls", "set while", "warnings"} & set(quiet.split())


def test_lengths_of_time():
    assert [clock(seconds) for seconds in (0.4, 59.4, 59.6, 3599, 3600, 90061)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "59 min 59 s",
        "1 h 00 min",
        "25 h 01 min",
    ]
