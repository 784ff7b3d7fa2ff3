"""`darts-async replay` on run folders made by hand: what a person reads, what a script reads, and how it ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from darts_async.algorithms.books import Books
from darts_async.algorithms.ledger_records import (
    CandidateEnded,
    CandidateReplaced,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    KeptCandidate,
    LedgerRecord,
    RunOpened,
    StepTrained,
)
from darts_async.cli import cli
from darts_async.errors import ConfigError
from darts_async.runtime.ledger_file import LedgerFile


def end(candidate: int, state: Any, tokens: int, **more: Any) -> CandidateEnded:
    return CandidateEnded(candidate_id=candidate, state=state, tokens=tokens, **more)


RECORDS: list[LedgerRecord] = [
    RunOpened(run="r", seed=0, rule="shortest"),
    GroupPlanned(
        group_id=0,
        draw=0,
        prompt_id="p",
        rule="shortest",
        group_size=2,
        keep_longest=0,
        candidate_ids=(0, 1, 2, 3),
        dispatch_version=0,
    ),
    CandidateReplaced(failed_id=3, candidate_id=4),
    end(3, "failed", 1, reason="reward_timeout"),
    GroupReleased(group_id=0, step=0, kept=(KeptCandidate(0, 1200, 1.0), KeptCandidate(1, 1300, 0.0)), lengths=()),
    end(0, "trained", 1200),
    end(1, "trained", 1300),
    GroupEnded(group_id=0, outcome="trained", version=1),
    StepTrained(version=1, group_ids=(0,)),
    end(2, "cancelled_tail", 1400),
]
LAST = end(4, "cancelled_tail", 1500, estimated=True)


def totals() -> LedgerRecord:
    """As the selector writes them: 5 candidates, 5401 tokens."""
    books = Books(2000)
    books.ledger.dispatched(range(5))
    for record in (*RECORDS, LAST):
        if isinstance(record, CandidateEnded):
            books.ledger.decided(record.candidate_id, record.state)
            if not record.estimated:
                books.ledger.reported(record.candidate_id, record.tokens)
    books.ledger.close(lambda _: LAST.tokens)
    books.close({})
    return books.take_records()[-1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def write(run: Path, records: list[LedgerRecord]) -> LedgerFile:
    """A ledger that its writer still holds."""
    file = LedgerFile.create(run / "ledger")
    for record in records:
        file.append(record)
    asyncio.run(file.sync())
    return file


def replay(run: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["replay", str(run), *options], catch_exceptions=False)


def test_a_run_that_was_closed(run: Path) -> None:
    write(run, [*RECORDS, LAST, totals()]).abandon()
    result = replay(run, "--check")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{run}: closed in good order"
    assert lines[1].startswith("12 records, ") and lines[1].endswith("in 1 segment; 1 step, policy version 1")
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:10]}
    assert rows["trained"] == ["2", "40.0", "2,500", "46.3"]
    assert rows["cancelled_tail"] == ["2", "40.0", "2,900", "53.7"]
    assert rows["failed"] == ["1", "20.0", "1", "0.0"]
    assert rows["generated"] == ["5", "5,401"]
    assert lines[10:] == [
        "groups: 1 planned, 1 trained",
        "failures: 1 reward_timeout",
        "  1 replacement dispatched",
        "estimates: the token counts of 1 candidate are the last progress",
        "check passed: of 5 candidates 5 ended exactly once; 5,401 tokens balance",
    ]
    assert "check" not in replay(run).stdout


def test_a_script_reads_one_object(run: Path) -> None:
    write(run, [*RECORDS, LAST, totals()]).abandon()
    seen = json.loads(replay(run, "--json").stdout)
    size = (run / "ledger" / "000000.msgpack").stat().st_size
    assert seen == {
        "run": str(run),
        "name": "r",
        "live": False,
        "closed": True,
        "reopened": 0,
        "segments": 1,
        "bytes": size,
        "torn_bytes": 0,
        "records": 12,
        "steps": 1,
        "policy_version": 1,
        "rollouts": {
            "generated": 5,
            "in_flight": 0,
            "trained": 2,
            "rejected": 0,
            "cancelled_tail": 2,
            "stale": 0,
            "failed": 1,
            "cancelled_shutdown": 0,
            "replaced": 1,
        },
        "tokens": {
            "generated": 5401,
            "trained": 2500,
            "rejected": 0,
            "cancelled_tail": 2900,
            "stale": 0,
            "failed": 1,
            "cancelled_shutdown": 0,
            "estimated_rollouts": 1,
        },
        "groups": {"planned": 1, "open": 0, "trained": 1},
        "failures": {"reward_timeout": 1},
        "settings": [],
        "settings_changed": 0,
        "damage": None,
    }
    checked = json.loads(replay(run, "--json", "--check").stdout)
    assert checked == {**seen, "violations": [], "num_violations": 0}


def test_a_run_that_goes_on_passes_with_what_is_in_flight_and_half_written(run: Path) -> None:
    file = write(run, RECORDS)
    with (run / "ledger" / "000000.msgpack").open("ab") as tail:
        tail.write(b"\x93\x0b")
    result = replay(run, "--check")
    assert result.exit_code == 0
    assert f"{run}: the run is going on; 2 bytes of a record that is being written" in result.stdout
    assert "in flight" in result.stdout
    assert "check passed: of 5 candidates 4 ended exactly once, 1 in flight; 3,901 tokens balance" in result.stdout
    file.abandon()
    result = replay(run, "--check")  # its writer is gone: now the same is a run that was cut off
    assert result.exit_code == 1
    assert "its books were not closed; 2 bytes of a record that was not written to its end" in result.stdout
    assert (
        "violation: record 10: the books were not closed: 1 candidates have no end, 0 groups no outcome"
        in result.stdout
    )
    assert "check failed: 1 violation" in result.stdout
    assert replay(run).exit_code == 0


def test_what_is_wrong_is_listed_and_fails_the_check_only(run: Path) -> None:
    write(run, [*RECORDS, *[end(2, "cancelled_tail", 1)] * 30, LAST, totals()]).abandon()
    result = replay(run, "--check")
    assert result.exit_code == 1
    assert result.stdout.count("violation: record ") == 20
    assert "violation: record 11: candidate 2 ended as cancelled_tail, but twice" in result.stdout
    assert "and 10 more\ncheck failed: 30 violations" in result.stdout
    assert json.loads(replay(run, "--check", "--json").stdout)["num_violations"] == 30
    assert replay(run).exit_code == 0


@pytest.mark.parametrize("options", [(), ("--check",), ("--json",)])
def test_damage_fails_with_its_place(run: Path, options: tuple[str, ...]) -> None:
    write(run, [*RECORDS, LAST, totals()]).abandon()
    path = run / "ledger" / "000000.msgpack"
    data = bytearray(path.read_bytes())
    data[data.index(b"reward_timeout")] ^= 1
    path.write_bytes(data)
    result = replay(run, *options)
    assert result.exit_code == 1
    assert "record 4 does not match its checksum" in result.stdout
    if not options:
        assert f"{run}: damaged; what follows is what stands before the damage" in result.stdout
        assert f"the ledger is damaged: {path}, byte " in result.stdout


def test_a_run_that_wrote_nothing(run: Path) -> None:
    (run / "ledger").mkdir(parents=True)
    result = replay(run, "--check")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{run}: nothing was written\n")


def test_a_folder_that_is_no_run_is_status_2_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no ledger folder, so it is no run"):
        replay(tmp_path)
    code = (
        "import sys; from darts_async import cli\n"
        "sys.argv = ['darts-async', 'replay', sys.argv[1]]\n"
        "try:\n    cli.main()\nfinally:\n    print('HEAVY', {'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0 and "is no run" in done.stderr
    assert "HEAVY set()" in done.stdout


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(cli, ["replay", "--help"])
    assert result.exit_code == 0
    assert "darts-async replay runs/quickstart --check" in result.stdout
