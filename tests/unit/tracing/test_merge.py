"""What the roles recorded, in one file: valid whatever was lost, with whole arrows, in order, within its limit."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darts_async import clock
from darts_async.tracing import RoleTrace, TraceFile, merge_trace
from darts_async.tracing.check import TraceCheck, check_trace
from darts_async.tracing.level import Level
from darts_async.tracing.merge import FOLDER
from darts_async.tracing.records import DECODER, ENCODER, VERSION, FileOpened

LIMIT = 64 << 20


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def hand() -> Iterator[Hand]:
    hand = Hand()
    with clock.reading(hand):
        yield hand


def opened(run: Path, name: str, limit: int = LIMIT) -> TraceFile:
    return TraceFile(run / FOLDER, name, limit_bytes=limit)


def read(run: Path) -> tuple[list[dict], TraceCheck]:
    document = json.loads((run / "trace.json").read_bytes())
    return document["traceEvents"], check_trace(document)


def test_a_group_by_hand(tmp_path: Path, hand: Hand):
    """Four roles, one group: every event with its number, its name and its time."""
    files = {name: opened(tmp_path, name) for name in ("allocator-0", "generator-0", "selector-0", "learner-0")}
    allocator, generator, selector, learner = (RoleTrace(file, name) for name, file in files.items())
    decode = Level(generator, "decode", "running requests")
    hand.now_s = 1.0
    allocator.lane("dispatch").passes("dispatch", 7, 0.5, candidates=3)
    decode.change(+1)
    decode.flow(7)
    hand.now_s = 3.0
    decode.change(-1)
    generator.lane("cancel").instant("cancel", "cancelled", tokens=5)
    selector.lane("groups").passes("select", 7, 2.5)
    learner.lane("compute").span("forward_backward", "forward and backward", 2.75, 4.0, flows=[(7, 2.75)])
    learner.counters({"staleness/max": 1.0, "loss": 2.0})
    for file in files.values():
        file.close()
    merged = merge_trace(tmp_path)
    events, check = read(tmp_path)
    assert check.violations == []
    assert merged is not None and (merged.events, merged.skipped, merged.notes) == (len(events), 0, ())
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    seen = [(names[e["pid"]], e["ph"], e["name"], e["ts"], e.get("dur")) for e in events if e["ph"] != "M"]
    assert seen == [
        ("allocator-0", "X", "dispatch group 7", 500_000, 500_000),
        ("allocator-0", "s", "group", 500_000, None),
        ("generator-0", "X", "decode", 1_000_000, 2_000_000),
        ("generator-0", "t", "group", 1_000_000, None),
        ("generator-0", "C", "running", 1_000_000, None),
        ("selector-0", "X", "select group 7", 2_500_000, 500_000),
        ("selector-0", "t", "group", 2_500_000, None),
        ("learner-0", "X", "forward and backward", 2_750_000, 1_250_000),
        ("learner-0", "f", "group", 2_750_000, None),
        ("generator-0", "C", "running", 3_000_000, None),
        ("generator-0", "i", "cancelled", 3_000_000, None),
        ("learner-0", "C", "staleness", 3_000_000, None),
    ]
    assert [event["args"] for event in events if event["ph"] == "C"] == [
        {"requests": 1.0},
        {"requests": 0.0},
        {"max": 1.0},
    ]


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["span", "instant", "up", "down", "flow", "state", "gauge", "restart"]),
        st.floats(0, 0.02),
        st.integers(0, 6),
    ),
    max_size=60,
)


def _play(run: Path, hand: Hand, steps: list[tuple[int, str, float, int]]) -> None:
    """Four roles record anything in any order, in their own files and, the last two, in one."""
    hand.now_s = 0.0
    files = [opened(run, "generator-0"), opened(run, "learner-0"), opened(run, "roles")]
    names = ["generator-0", "learner-0", "selector-0", "allocator-0"]
    starts = [0, 0, 0, 0]
    roles = [RoleTrace(files[min(index, 2)], name) for index, name in enumerate(names)]
    levels = [Level(role, "decode", "running requests") for role in roles]
    numbers = [0, 0, 0, 0]
    for index, what, seconds, number in steps:
        role, hand.now_s = roles[index], hand.now_s + seconds
        match what:
            case "span":
                began_s = hand.now_s - 2 * seconds  # before the one before it has ended
                role.lane("a").span("a", 'name \u2028"', began_s, flows=[(number, began_s - 1), (number + 1, 1e9)])
            case "instant":
                role.lane("a").instant("b", "happened", latency_ms=float("nan"))
            case "up":
                levels[index].change(+1)
                numbers[index] += 1
            case "down" if numbers[index]:
                levels[index].change(-1)
                numbers[index] -= 1
            case "flow":
                levels[index].flow(number)
            case "state":
                role.state(f"waiting ({number})" if number % 2 else "works")
            case "gauge":
                role.gauges({"queue/a/depth": float(number), "queue/b/depth": float("nan")})
            case "restart" if index >= 2:
                role.close()
                starts[index] += 1
                roles[index] = RoleTrace(files[2], names[index], starts[index])
                levels[index], numbers[index] = Level(roles[index], "decode", "running requests"), 0
    for role in roles:
        role.close()
    for file in files:
        file.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, cuts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4000)), max_size=2), noise=st.binary())
def test_whatever_is_recorded_and_lost_it_is_a_trace(
    tmp_path_factory: pytest.TempPathFactory, hand: Hand, steps, cuts, noise: bytes
):
    """Killed processes leave half lines, a bad disk leaves anything; what is there is drawn rightly all the same."""
    run = tmp_path_factory.mktemp("run")
    _play(run, hand, steps)
    raw = sorted((run / FOLDER).glob("*.jsonl"))
    for index, keep in cuts:
        raw[index].write_bytes(raw[index].read_bytes()[:keep])
    with raw[0].open("ab") as file:
        file.write(noise)
    merge_trace(run)
    if (run / "trace.json").exists():  # else no file has a whole first line
        assert read(run)[1].violations == []
    else:
        assert not any(b"\n" in path.read_bytes() for path in raw[1:])


def test_a_lost_end_of_an_arrow_makes_it_shorter(tmp_path: Path, hand: Hand):
    """The learner was killed with its record: the arrow ends at the selector. A group seen once has none."""
    for name, groups in (("allocator-0", (1, 2)), ("selector-0", (1,))):
        file = opened(tmp_path, name)
        for group in groups:
            hand.now_s += 1
            RoleTrace(file, name).lane("x").passes("x", group, hand.now_s - 0.5)
        file.close()
    merge_trace(tmp_path)
    events, check = read(tmp_path)
    assert check.violations == [] and check.arrows == 1
    assert [(event["ph"], event["id"]) for event in events if "id" in event] == [("s", 1), ("f", 1)]


def test_starts_of_a_role_and_of_a_run_are_told_apart(tmp_path: Path, hand: Hand):
    for start in (0, 1):
        file = opened(tmp_path, "learner-0")
        assert file.start == start
        RoleTrace(file, "learner-0", file.start).lane("x").span("x", "x", 0.0)
        file.close()
    merge_trace(tmp_path)
    assert set(read(tmp_path)[1].processes.values()) == {"learner-0", "learner-0 (start 2)"}


def test_it_stays_within_its_limit_and_says_once_that_it_is_full(tmp_path: Path, hand: Hand):
    limit = 1 << 20
    files = [opened(tmp_path, name, limit) for name in ("generator-0", "learner-0")]
    roles = [RoleTrace(file, f"role-{index}") for index, file in enumerate(files)]
    for number in range(40_000):
        hand.now_s += 0.01
        for role in roles:
            role.lane("x").passes("x", number, hand.now_s - 0.005, candidates=number)
    warnings = [role.take_warning() for role in roles]
    for file in files:
        file.close()
    assert sorted(map(bool, warnings)) == [False, True]
    assert "metrics.trace_mib = 1" in max(warnings)
    merged = merge_trace(tmp_path)
    raw = sum(path.stat().st_size for path in (tmp_path / FOLDER).iterdir())
    assert raw <= limit // 4 + 200
    assert raw + merged.path.stat().st_size <= limit
    assert merged.notes == (max(warnings),)
    events, check = read(tmp_path)
    assert check.violations == []
    assert [event["name"] for event in events if event.get("cat") == "note"] == [max(warnings)]


def test_a_result_that_does_not_fit_is_cut_and_says_so(tmp_path: Path, hand: Hand):
    """It cannot happen with what is recorded (the parts are chosen for that), but with files copied in."""
    file = opened(tmp_path, "generator-0")
    role = RoleTrace(file, "generator-0")
    for _ in range(2000):
        hand.now_s += 1
        role.lane("x").instant("x", "x")
    file.close()
    (path,) = (tmp_path / FOLDER).iterdir()
    head, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(ENCODER.encode(msgspec.structs.replace(DECODER.decode(head), limit_bytes=100_000)) + b"\n" + rest)
    merged = merge_trace(tmp_path)
    assert merged.notes == ("the rest does not fit into metrics.trace_mib",)
    assert path.stat().st_size + merged.path.stat().st_size <= 100_000
    events, check = read(tmp_path)
    assert check.violations == [] and events[-1]["name"] == merged.notes[0]
    assert 100 < check.instants["x"] < 2000


def test_where_nothing_was_recorded_there_is_no_trace(tmp_path: Path):
    assert merge_trace(tmp_path) is None
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "learner-0-0.jsonl").write_bytes(b"\0" * 100)
    other = FileOpened(VERSION + 1, "virtual", 0.0, 0.0, LIMIT)
    (tmp_path / FOLDER / "learner-0-1.jsonl").write_bytes(ENCODER.encode_lines([other]))
    assert merge_trace(tmp_path) is None
    assert not (tmp_path / "trace.json").exists()


def test_a_link_in_the_place_of_the_result_is_replaced(tmp_path: Path, hand: Hand):
    opened(tmp_path, "learner-0").close()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("trace.json", ".trace.json.partial"):
        (tmp_path / name).symlink_to(victim)
    merge_trace(tmp_path)
    assert victim.read_text() == "mine"
    assert not (tmp_path / "trace.json").is_symlink()
