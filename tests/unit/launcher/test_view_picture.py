"""The picture of a run: what stands in it, and that it fits every terminal."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from darts_async.launcher.view.glyphs import ASCII, UNICODE, glyphs_for
from darts_async.launcher.view.history import TRENDS, TrendLine
from darts_async.launcher.view.picture import draw, span
from darts_async.launcher.view.snapshot import Snapshot
from darts_async.messages import LEDGER_STATES, KnobChange
from darts_async.runtime.outside_link import EvalLine, QueueLine, RoleLine


def _role(name, state, **other):
    return RoleLine(**{"name": name, "state": state, "state_s": 1.0, "pid": 7, "restarts": 0, "heard_s": 0.4} | other)


def _generators(number):
    gauges = {"generator/tokens_per_s": 1000.0, "generator/running": 12.0}
    return tuple(_role(f"generator-{n}", "decoding", idle_ratio=0.25, gauges=gauges) for n in range(number))


_OTHERS = (
    _role("learner-0", "training step 4", idle_ratio=0.5, restarts=1),
    _role("selector-0", "selecting", gauges={"selector/live_groups": 8.0}),
    _role("allocator-0", "waiting for the learner", gauges={"allocator/live_groups": 1.0}),
)


def _snapshot(**other):
    values = {
        "run": "r",
        "state": "running",
        "about": "survivor, async",
        "step": 16,
        "steps": 32,
        "wall_s": 65.0,
        "left_s": 3725.0,
        "roles": (*_generators(1), *_OTHERS),
        "queues": (
            QueueLine(name="in_flight_groups", depth=4.0, bound=16, busy_s=1.0),
            QueueLine(name="rewards", depth=0.0, bound=4096, busy_s=0.0),
        ),
        "trends": {
            "reward/mean": TrendLine((0.5, 0.6, 0.7, 0.8), 0.81),
            "cancelled_share": TrendLine((0.25,), 0.25),
        },
        "learner_tokens_per_s": 2345.6,
        "evals": (
            EvalLine(label="before", version=0, reward=0.594, response_length=74.6),
            EvalLine(label="during", version=10, reward=0.9, response_length=30.0),
        ),
        "tokens": {"trained": 3000.0, "rejected": 250.0, "cancelled_tail": 750.0, "failed": 0.0},
        "tokens_saved": 12_345_678.0,
        "warnings": ("older", "latest"),
    }
    return Snapshot(**values | other)


def _text(snapshot, width, height, glyphs=UNICODE):
    return [row.plain.rstrip() for row in draw(snapshot, width, height, glyphs)]


def test_eighty_columns():
    assert _text(_snapshot(), 80, 30) == [
        "r                                                       survivor, async  running",
        "step 16 of 32  ━━━━━━━━━━━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  1:05, about 1:02:05 left",
        "",
        "roles",
        "allocator-0    waiting for the learner                              1 group live",
        "generator-0    decoding 12         idle  25% ━━╌╌╌╌╌╌             1,000 tokens/s",
        "selector-0     selecting                                           8 groups live",
        "learner-0      training step 4     idle  50% ━━━━╌╌╌╌  1 restart  2,346 tokens/s",
        "",
        "queues",
        "in flight groups  ━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌     4 of 16",
        "rewards           ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  0 of 4,096",
        "",
        "trends",
        "reward             0.81  ▁▃▆█                                       0.50 to 0.80",
        "cancelled share     25%  ▄                                            25% to 25%",
        "",
        "results",
        "held-out  before 0.594 (74.6 tokens) · at version 10 0.900 (30.0 tokens)",
        "tokens    4,000: 75% trained, 19% cancelled, 6% rejected; about 12.3 M saved",
        "",
        "last warnings",
        "latest",
        "older",
    ]


def test_wide_terminals_have_two_columns():
    rows = _text(_snapshot(), 120, 30)
    assert any(row.startswith("generator-0") and row.endswith("0 of 4,096") for row in rows)
    assert any("at version 10  0.900  30.0 tokens" in row for row in rows)
    assert "not trained: 19% cancelled, 6% rejected" in "\n".join(rows)


def test_a_low_narrow_terminal_keeps_what_matters_most():
    rows = _text(_snapshot(), 60, 10)
    assert len(rows) == 10
    assert rows[0].endswith("running")
    assert [row.split()[0] for row in rows[2:6]] == ["allocator-0", "generator-0", "selector-0", "learner-0"]
    assert rows[6].endswith("4 of 16")
    assert rows[8].startswith("reward")


def test_bounds_are_those_of_now():
    queue = QueueLine(name="in_flight_groups", depth=8.0, bound=5, busy_s=1.0)
    (row,) = (row for row in _text(_snapshot(queues=(queue,)), 80, 30) if row.startswith("in flight"))
    assert row.endswith("8 of 5")
    assert UNICODE.empty not in row
    rows = "\n".join(_text(_snapshot(changed={"run.max_wall_s": KnobChange(None, 90.0)}), 80, 30))
    assert "set: run.max_wall_s none -> 90.0" in rows


@pytest.mark.parametrize(("number", "shown"), [(1, 1), (3, 3), (4, 4)])
def test_a_few_generators_have_a_row_each(number, shown):
    rows = _text(_snapshot(roles=(*_generators(number), *_OTHERS)), 80, 40)
    assert sum(row.startswith("generator-") for row in rows) == shown


def test_many_generators_are_one_row_and_those_in_trouble():
    killed = _role("generator-64", "was killed by SIGKILL, restart 1 of 3 in 2 s", restarts=2)
    silent = _role("generator-65", "decoding", heard_s=31.0, idle_ratio=0.25)
    rows = _text(_snapshot(roles=(*_generators(64), killed, silent, *_OTHERS)), 120, 40)
    (row,) = (row for row in rows if row.startswith("66 generators"))
    assert "64 decoding" in row
    assert "idle  25%" in row
    assert "2 restarts" in row
    assert "64,000 tokens/s" in row
    assert [row.split()[0] for row in rows if row.startswith("generator-")] == ["generator-64", "generator-65"]
    assert any("no sign of life for 31 s" in row for row in rows)


def test_alarms_stand_on_top_and_the_hint_at_the_bottom():
    rows = _text(_snapshot(alarms=("nothing has progressed for 75 s",), hint="q leaves"), 80, 40)
    assert rows[2] == "nothing has progressed for 75 s"
    assert (len(rows), rows[-1]) == (40, "q leaves")


def test_the_end_has_no_roles():
    rows = _text(Snapshot(run="r", state="not begun", steps=3), 80, 24)
    assert rows[0].endswith("not begun")
    assert rows[1].startswith("step 0 of 3")
    assert len(rows) == 2


_NAMES = st.text(string.printable + "äß日本語\x1b\x00\u202e\U0001f600", max_size=120)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
_SHARES = st.floats(0, 1)
_ROLES = st.builds(
    RoleLine,
    name=st.one_of(st.sampled_from(["generator-0", "learner-0", "selector-0", "allocator-0"]), _NAMES),
    state=_NAMES,
    state_s=_FLOATS,
    pid=st.just(1),
    restarts=st.integers(0, 1000),
    idle_ratio=st.none() | _SHARES,
    heard_s=st.none() | st.floats(0, 1e6),
    gauges=st.dictionaries(st.sampled_from(["generator/tokens_per_s", "generator/running"]), _FLOATS, max_size=2),
)
_QUEUES = st.builds(QueueLine, name=_NAMES, depth=st.floats(0, 1e6), bound=st.integers(0, 10**6), busy_s=_FLOATS)
_EVALS = st.builds(
    EvalLine,
    label=st.sampled_from(["before", "during"]),
    version=st.integers(0, 10**5),
    reward=_FLOATS,
    response_length=_FLOATS,
)
_SNAPSHOTS = st.builds(
    Snapshot,
    run=_NAMES,
    state=st.sampled_from(["starting", "running", "ending", "done", "failed", "killed"]),
    about=_NAMES,
    step=st.integers(0, 10**6),
    steps=st.integers(0, 10**6),
    wall_s=st.floats(0, 1e7),
    left_s=st.none() | st.floats(0, 1e9),
    roles=st.lists(_ROLES, max_size=8).map(tuple),
    queues=st.lists(_QUEUES, max_size=5).map(tuple),
    trends=st.dictionaries(
        st.sampled_from(list(TRENDS)),
        st.builds(TrendLine, st.lists(_FLOATS, min_size=1, max_size=300).map(tuple), _FLOATS),
    ),
    evals=st.lists(_EVALS, max_size=8).map(tuple),
    tokens=st.dictionaries(st.sampled_from(LEDGER_STATES), st.floats(0, 1e15)),
    tokens_saved=st.none() | st.floats(0, 1e15),
    alarms=st.lists(_NAMES, max_size=4).map(tuple),
    warnings=st.lists(_NAMES, max_size=10).map(tuple),
    hint=_NAMES,
)


@settings(max_examples=60, deadline=None)
@given(_SNAPSHOTS, st.integers(1, 200), st.integers(1, 60), st.sampled_from([ASCII, UNICODE]))
def test_whatever_is_shown_fits_and_is_harmless(snapshot, width, height, glyphs):
    rows = [row.plain for row in draw(snapshot, width, height, glyphs)]
    assert len(rows) <= height
    assert all(cell_len(row) <= width for row in rows)
    assert all(row.isprintable() for row in rows)
    assert glyphs is UNICODE or all(row.isascii() for row in rows)


def test_bars_and_sparks():
    assert ASCII.spark([0.0, 0.5, 1.0], 0.0, 1.0) == "_=#"
    assert UNICODE.spark([3.0, 3.0], 3.0, 3.0) == "▄▄"
    assert ASCII.bar(0.5, 4) == ("##", "--")
    assert ASCII.bar(0.001, 4) == ("#", "---")  # a little is not nothing
    assert ASCII.bar(0.999, 4) == ("###", "-")  # and almost full is not full
    assert ASCII.bar(7.0, 4) == ("####", "")
    assert ASCII.bar(float("nan"), 4) == ("", "----")


@pytest.mark.parametrize(
    ("encoding", "environ", "expected"),
    [
        ("utf-8", {"LANG": "en_GB.UTF-8"}, UNICODE),
        ("utf-8", {}, UNICODE),
        ("utf-8", {"LC_ALL": "C", "LANG": "en_GB.UTF-8"}, ASCII),
        ("utf-8", {"LC_ALL": "", "LC_CTYPE": "C.UTF-8", "LANG": "C"}, UNICODE),
        ("utf-8", {"LANG": "POSIX"}, ASCII),
        ("ascii", {"LANG": "en_GB.UTF-8"}, ASCII),
        ("iso8859-1", {"LANG": "de_DE"}, ASCII),
    ],
)
def test_glyphs_that_the_terminal_has(encoding, environ, expected):
    assert glyphs_for(encoding, environ) is expected


def test_lengths_of_time():
    assert [span(s) for s in (7.4, 187, 7509, 200_000)] == ["0:07", "3:07", "2:05:09", "2 d 07:33"]
