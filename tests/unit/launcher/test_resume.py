"""What `up --resume` refuses, with the reason, before anything in the folder is changed; and what it makes ready."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from darts_async.algorithms.finished_step import FinishedStep
from darts_async.algorithms.ledger_records import EvaluationScored, RunClosed, RunOpened, StepTrained
from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.launcher import preflight
from darts_async.launcher.resume import RunIsComplete, find_run, plan_resume, prepare_run_folder
from darts_async.launcher.run_lock import RunLock
from darts_async.runtime.ledger_file import LedgerFile
from darts_async.runtime.step_journal import StepJournal


@pytest.fixture
def run(tmp_path: Path):
    """A run folder as a start leaves it that was killed at once."""
    config = load_config(None, [("run.dir", str(tmp_path / "runs")), ("run.name", "one"), ("run.steps", "3")])
    plan = preflight.check(config, None)
    preflight.create_run_folder(plan)
    yield plan.paths.root
    for folder in ("one", "elsewhere"):
        shutil.rmtree(RunPaths(tmp_path / "runs" / folder).weights, ignore_errors=True)


def _refused(run: Path, *overrides: tuple[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        plan_resume(str(run), overrides, lambda _: None, wait_s=0)
    return caught.value


def _make_steps(run: Path, versions: int, *, ledger: int, ended_by: str = "", closed: bool = False) -> None:
    paths = RunPaths(run)

    async def write() -> None:
        journal = StepJournal(paths.spool)
        for version in range(1, versions + 1):
            step = FinishedStep(
                version=version,
                group_ids=(version,),
                num_responses=8,
                tokens=100,
                reward=0.0,
                staleness_tokens=0,
                staleness_max=0,
                wait_s=0.0,
                elapsed_s=10.0 * version,
                publish_ms=0.0,
                skipped=False,
                num_swept=0,
                ended_by=ended_by if version == versions else "",  # type: ignore[arg-type]
                values={"policy_version": float(version)},
            )
            await journal.append(step)
        journal.close()
        file = LedgerFile.create(paths.ledger)
        file.append(RunOpened(run="one", seed=0, rule="survivor"))
        for version in range(1, ledger + 1):
            file.append(StepTrained(version=version, group_ids=()))
        if closed:
            file.append(
                EvaluationScored(label="after", version=ledger, reward=0.5, response_length=7.0, num_rollouts=4)
            )
            books = {"generated": 24, "trained": 24}
            file.append(RunClosed(rollouts=books, tokens=books, estimated=0))
        await file.close()

    asyncio.run(write())


def test_a_run_is_found_by_its_folder_or_its_name(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run.parent.parent)
    assert find_run("one") == find_run("runs/one") == find_run(str(run)) == run
    for text, why in (
        ("two", "no such run folder"),
        ("runs", "is no run folder"),
        (str(run / "logs"), "no run folder"),
    ):
        with pytest.raises(ConfigError, match=why):
            find_run(text)


def test_a_run_that_was_killed_before_its_first_step_begins_anew_in_its_folder(run: Path):
    paths = RunPaths(run)
    paths.summary.write_text('{"status": "failed"}')
    paths.control_file.write_text("{}")
    (paths.weights / "v000001.safetensors").write_bytes(b"of the killed start")
    plan = plan_resume(str(run), [("queues.in_flight_groups", "7")], lambda _: None)
    assert plan.history is not None and plan.history.version == 0
    assert paths.summary.exists()  # until everything has been checked
    assert load_config(str(paths.resolved_config)).queues.in_flight_groups == 16
    prepare_run_folder(plan)
    assert load_config(str(paths.resolved_config)) == plan.config
    assert plan.config.queues.in_flight_groups == 7
    assert not paths.summary.exists() and not paths.control_file.exists()
    assert [path.name for path in paths.weights.iterdir()] == ["owner"]
    assert plan.lock is not None
    plan.lock.release()


def test_what_was_set_while_it_went_on_stays_set(run: Path):
    paths = RunPaths(run)
    text = paths.resolved_config.read_text().replace("in_flight_groups = 16", "in_flight_groups = 5")
    paths.live_config.write_text(text)
    plan = plan_resume(str(run), [], lambda _: None)
    prepare_run_folder(plan)
    assert load_config(str(paths.resolved_config)).queues.in_flight_groups == 5
    assert not paths.live_config.exists()
    plan.lock.release()  # type: ignore[union-attr]


def test_a_folder_that_was_moved(run: Path):
    moved = run.rename(run.parent / "elsewhere")
    plan = plan_resume(str(moved), [], lambda _: None)
    assert plan.paths.root == moved
    prepare_run_folder(plan)
    assert RunPaths.of(load_config(str(plan.paths.resolved_config))).root == moved
    plan.lock.release()  # type: ignore[union-attr]


def test_a_live_run_is_refused(run: Path):
    lock = RunLock.take(run)
    error = _refused(run)
    assert (error.key, error.value) == ("--resume", str(run))
    assert "the run is alive: its launcher (process " in error.rule
    lock.release()
    ledger = LedgerFile.create(RunPaths(run).ledger)
    assert "its ledger is being written" in _refused(run).rule
    ledger.abandon()
    plan_resume(str(run), [], lambda _: None).lock.release()  # type: ignore[union-attr]


def test_a_refusal_leaves_the_folder_as_it_was_and_free(run: Path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    assert _refused(run, ("group.size", "4")).key == "group.size"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"} == before
    RunLock.take(run).release()


def test_parts_of_two_stories_are_refused(run: Path):
    _make_steps(run, 1, ledger=2)
    assert "the ledger has 2 steps, the learner's journal" in _refused(run).rule


def test_a_damaged_ledger_is_refused_with_its_place(run: Path):
    _make_steps(run, 2, ledger=2)
    segment = RunPaths(run).ledger / "000000.msgpack"
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    assert f"the ledger is damaged: {segment}" in _refused(run).rule


def test_a_complete_run_is_not_gone_on_with_unless_a_limit_is_lifted(run: Path):
    _make_steps(run, 3, ledger=3, ended_by="steps")
    plan_resume(str(run), [], lambda _: None).lock.release()  # type: ignore[union-attr] # not evaluated yet
    RunPaths(run).summary.write_text(json.dumps({"status": "done"}))
    with pytest.raises(RunIsComplete, match=r"complete: 3 steps, ended by run\.steps"):
        plan_resume(str(run), [], lambda _: None)
    plan = plan_resume(str(run), [("run.steps", "5")], lambda _: None)
    assert plan.config.run.steps == 5
    plan.lock.release()  # type: ignore[union-attr]
    with pytest.raises(RunIsComplete, match=r"ended by run\.max_wall_s"):
        plan_resume(str(run), [("run.steps", "5"), ("run.max_wall_s", "30")], lambda _: None)


def test_a_run_that_was_killed_between_its_end_and_its_summary_gets_one(run: Path):
    _make_steps(run, 3, ledger=3, ended_by="steps", closed=True)
    with pytest.raises(RunIsComplete):
        plan_resume(str(run), [], lambda _: None)
    summary = json.loads(RunPaths(run).summary.read_text())
    assert (summary["status"], summary["steps"], summary["policy_version"], summary["ended_by"]) == (
        "done",
        3,
        3,
        "steps",
    )
    assert (summary["rollouts"]["generated"], summary["tokens"]["trained"]) == (24, 24)
    assert summary["eval"]["after"]["reward"] == 0.5
    assert "killed at the very end" in summary["warnings"][0]
