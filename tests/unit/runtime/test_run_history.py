"""What earlier starts of a run left is read back whole, and its files go on without a gap or a repetition."""

import asyncio
import json
from pathlib import Path

import pytest

from darts_async.algorithms.finished_step import FinishedStep
from darts_async.algorithms.ledger_records import EvaluationScored, RunClosed, RunOpened, StepTrained
from darts_async.config.paths import RunPaths
from darts_async.errors import LedgerDamaged
from darts_async.messages import EvalResult, Finished, StepMetrics
from darts_async.runtime.ledger_file import LedgerFile
from darts_async.runtime.record import RunRecord
from darts_async.runtime.run_files import RunFiles
from darts_async.runtime.run_history import read_history
from darts_async.runtime.run_starts import Start, read_starts
from darts_async.runtime.step_journal import StepJournal


def _finished(version: int) -> FinishedStep:
    return FinishedStep(
        version=version,
        group_ids=(version,),
        num_responses=8,
        tokens=100,
        reward=4.0,
        staleness_tokens=0,
        staleness_max=0,
        wait_s=0.0,
        elapsed_s=float(version),
        publish_ms=1.0,
        skipped=False,
        num_swept=0,
        ended_by="",
        values={"policy_version": float(version), "learner/loss": version / 10},
    )


def _make_journal(paths: RunPaths, versions: int) -> None:
    async def write() -> None:
        journal = StepJournal(paths.spool)
        for version in range(1, versions + 1):
            await journal.append(_finished(version))
        journal.close()

    asyncio.run(write())


def _make_ledger(paths: RunPaths, *records) -> None:
    async def write() -> None:
        file = LedgerFile.create(paths.ledger)
        for record in (RunOpened(run="one", seed=0, rule="shortest"), *records):
            file.append(record)
        await file.close()

    asyncio.run(write())


def _scored(label: str, version: int) -> EvaluationScored:
    return EvaluationScored(
        label=label,  # type: ignore[arg-type] # one of the literals
        version=version,
        reward=version / 100,
        response_length=9.0,
        num_rollouts=6,
    )


def _lines(paths: RunPaths) -> list[dict[str, float]]:
    return [json.loads(line) for line in paths.metrics.read_text().splitlines()]


def _both(files: RunFiles, step: int, cancelled: float = 0.0) -> dict[str, float] | None:
    files.step(StepMetrics(step=step, values=_finished(step + 1).values), {})
    return files.step(StepMetrics(step=step, values={"reward/mean": 0.5, "cancel/rollouts": cancelled}), {})


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


def test_an_empty_folder_has_no_history(paths: RunPaths):
    history = read_history(paths)
    assert (history.version, history.lines, history.owed, history.evals, history.starts) == (0, {}, [], [], [])
    assert not history.is_evaluated and history.closed is None


@pytest.mark.parametrize(
    "torn", [b'{"step": 2, "wall', b'{"step": 2}\x00\x00\n{"step": 3}\n', b'{"no step": 1}\n', b"\n"]
)
def test_a_torn_end_of_the_metrics_is_cut_off(paths: RunPaths, torn: bytes):
    good = b'{"step": 0, "wall_s": 1.5, "policy_version": 1.0}\n{"step": 1, "wall_s": 2.5, "name": "text"}\n'
    paths.metrics.write_bytes(good + torn)
    history = read_history(paths)
    assert sorted(history.lines) == [0, 1]
    assert paths.metrics.read_bytes() == good
    assert [start.wall_s for start in history.starts] == [2.5]  # nobody else knows how long it lasted


def test_evaluations_and_steps_of_the_ledger(paths: RunPaths):
    _make_journal(paths, 2)
    _make_ledger(
        paths,
        _scored("before", 0),
        StepTrained(version=1, group_ids=()),
        _scored("during", 1),
        _scored("during", 1),
        StepTrained(version=2, group_ids=()),
        _scored("after", 2),
        RunClosed(rollouts={}, tokens={}, estimated=0),
    )
    history = read_history(paths)
    assert [(found.label, found.policy_version) for found in history.evals] == [
        ("before", 0),
        ("during", 1),
        ("after", 2),
    ]
    assert (history.ledger_version, history.version, history.is_evaluated) == (2, 2, True)
    assert history.closed is not None


def test_a_damaged_ledger_is_not_gone_on_from(paths: RunPaths):
    _make_ledger(paths, *(StepTrained(version=version, group_ids=()) for version in range(1, 5)))
    segment = paths.ledger / "000000.msgpack"
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    with pytest.raises(LedgerDamaged):
        read_history(paths)


def test_the_files_of_a_run_go_on(paths: RunPaths):
    """Three steps were made; the line of the second was torn, the third was not even begun."""
    first = RunFiles(paths, RunRecord())
    _both(first, 0, cancelled=4.0)
    first.beat()
    first.close()
    with paths.metrics.open("a") as file:
        file.write('{"step": 1, "policy_ver')
    _make_journal(paths, 3)
    _make_ledger(paths, _scored("before", 0), _scored("during", 2))
    history = read_history(paths)
    assert [step.version for step in history.owed] == [2, 3]

    record = RunRecord(restarts={"learner-0": 1})
    files = RunFiles(paths, record, history)
    assert record.policy_version == 3
    # The selector was restarted too and knows of the third step alone; the learner repeats its last report.
    files.step(StepMetrics(step=2, values=_finished(3).values), {})
    assert [line["step"] for line in _lines(paths)] == [0]
    told = files.step(StepMetrics(step=2, values={"reward/mean": 0.5, "cancel/rollouts": 9.0}), {})
    assert told is not None and told["cancel/rollouts_in_step"] == 5.0
    assert [line["step"] for line in _lines(paths)] == [0, 1, 2]
    assert _lines(paths)[1]["learner/loss"] == 0.2
    assert "reward/mean" not in _lines(paths)[1]
    # An evaluation that was scored and has no line yet is in the next one; one that is scored again is not doubled.
    assert [line.get("eval/version") for line in _lines(paths)] == [None, 2.0, None]
    again = EvalResult(label="during", policy_version=2, reward=0.02, response_length=9.0, num_rollouts=6)
    assert not files.evaluated(again)
    assert _both(files, 3, cancelled=9.0) is not None
    assert _lines(paths)[3].get("eval/version") is None
    record.add_finished(Finished(role="learner", rank=0, summary={"policy_version": 4.0}))
    summary = files.summarise("done")
    files.close()
    assert (summary["steps"], summary["resumes"], summary["restarts"]) == (4, 1, {"learner-0": 1})
    assert summary["eval"]["before"]["policy_version"] == 0
    assert [found["policy_version"] for found in summary["eval"]["during"]] == [2]
    assert [start.status for start in read_starts(paths.starts)] == ["", "done"]


def test_the_time_of_all_starts_counts(paths: RunPaths):
    paths.starts.write_text('[{"began_at": 1.0, "wall_s": 100.0, "restarts": {"selector-0": 2}, "status": "failed"}]')
    paths.metrics.write_text('{"step": 0, "wall_s": 103.5, "policy_version": 1.0}\n')  # behind its last beat
    history = read_history(paths)
    assert history.starts == [Start(began_at=1.0, wall_s=103.5, restarts={"selector-0": 2}, status="failed")]
    files = RunFiles(paths, RunRecord(restarts={"selector-0": 1}), history)
    _both(files, 1)
    assert 103.5 <= _lines(paths)[1]["wall_s"] < 110
    summary = files.summarise("done")
    files.close()
    assert 103.5 <= summary["wall_s"] < 110
    assert (summary["restarts"], summary["resumes"]) == ({"selector-0": 3}, 1)


@pytest.mark.parametrize("content", [b"", b"[", b'{"a": 1}', b'[{"wall_s": 1}]', b"\x00" * 50])
def test_starts_that_cannot_be_read_are_none(paths: RunPaths, content: bytes):
    paths.starts.write_bytes(content)
    assert read_starts(paths.starts) == []
