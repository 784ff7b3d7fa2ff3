"""Runs the cells of one seed, one after another, on one engine: `python -m actors.bench --plan FILE`.

All roles of a cell live in this process (`actors.local`), and so does the front end of the engine. What happens goes to
standard output as one JSON object a line (`darts_async.bench.events`), everything else to standard error. Invariants: a
cell that fails or hangs does not touch the next one's figures, because the engine is shown to be empty in between; when
the engine cannot be trusted any more, the process says so and ends, with no further cell begun.

Exit status: 0 all cells were run (done or failed), 1 the engine is gone, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from typing import Final

import msgspec

from actors.evaluate import Evaluation
from actors.local import LocalRun
from actors.twin import run_twin
from darts_async.bench.cell_record import CellRecord
from darts_async.bench.events import CellEnded, CellScored, CellStarted, EngineReady, Event, encode
from darts_async.bench.plan import SeedPlan, engine_config
from darts_async.bench.scores import CheckpointScore, checkpoints_to_score, is_scored
from darts_async.config import Config, load_config
from darts_async.config.paths import RunPaths, model_folder
from darts_async.engines import make_rollout_engine
from darts_async.engines.base import RolloutEngine
from darts_async.engines.rebased import RebasedEngine, original_weights
from darts_async.errors import EngineDead
from darts_async.runtime.job import Tell, main, unless_stopping
from darts_async.runtime.job_events import HeldOutScores
from darts_async.runtime.record import Status
from darts_async.tasks.prompt_set import load_prompts
from darts_async.twin.profile import read_twin

_log = logging.getLogger(__name__)
_SETTLE_S: Final = 5.0
"""How long requests may take to end after their run."""
_GRACE_S: Final = 2.0
"""How long roles may take beyond their own deadline for draining."""


class Bench:
    """One engine and its cells."""

    def __init__(self, plan: SeedPlan, tell: Tell, stopping: asyncio.Event) -> None:
        self._configs = [load_config(path) for path in plan.configs]
        self._limit_s = plan.cell_timeout_s
        self._write = tell
        self._stopping = stopping

    async def run(self) -> None:
        """Run every cell, or until the stop. Raises `EngineDead` when the engine does not start or is lost."""
        weights = original_weights(model_folder(self._configs[0]))
        engine = make_rollout_engine(engine_config(self._configs), 0)
        began = time.monotonic()
        try:
            if not await unless_stopping(self._stopping, engine.start()):
                return
            self._tell(EngineReady(wall_s=time.monotonic() - began))
            shared = RebasedEngine(engine, weights)
            for config in self._configs:
                if self._stopping.is_set():
                    return
                await self._cell(config, shared)
        finally:
            await engine.close()

    async def _cell(self, config: Config, engine: RebasedEngine) -> None:
        """One cell from READY to its summary."""
        name = config.run.name
        self._tell(CellStarted(name))
        await engine.rebase()
        record = CellRecord(config, self._tell, engine.clock)
        run = LocalRun(config, lambda message: record.take(message, run.gauges))
        status: Status = "done"
        reason = ""
        try:
            failure = await self._drive(run, config, engine)
            if self._stopping.is_set() and not record.complete:
                status, reason = "interrupted", "interrupted by the user"
            elif failure is not None:
                status, reason = "failed", f"{type(failure).__name__}: {failure}"
            elif not record.complete:
                status, reason = "failed", "the run ended before its last step"
            if isinstance(failure, EngineDead):
                raise failure
            await engine.settle(_SETTLE_S)
        finally:
            record.end(status, reason)
            record.close()
            shutil.rmtree(RunPaths.of(config).weights, ignore_errors=True)
            if status != "done" or not is_scored(config):
                self._tell(CellEnded(name, status, reason))
        if status == "done" and is_scored(config):
            await self._score(config, engine, record)

    async def _score(self, config: Config, engine: RebasedEngine, record: CellRecord) -> None:
        """What the policy was worth after every so many steps, on the same engine; without the answer the cell is not
        done, whatever its summary says."""
        scores: list[CheckpointScore] = []
        ended: list[HeldOutScores] = []
        prompts = await asyncio.to_thread(load_prompts, config)
        for version, weights in checkpoints_to_score(config, RunPaths.of(config).checkpoints):
            await engine.rebase(weights)
            evaluation = Evaluation(config, engine, lambda e: ended.append(e) if isinstance(e, HeldOutScores) else None)
            if not await unless_stopping(self._stopping, evaluation.run(prompts.held_out)):
                await engine.settle(_SETTLE_S)
                self._tell(CellEnded(config.run.name, "interrupted", "interrupted while its checkpoints were scored"))
                return
            total = ended[-1].total
            if total.pass_at_1 is None or total.response_length is None:
                why = f"no sample of step {version} could be scored: {ended[-1].first_failure}"
                self._tell(CellEnded(config.run.name, "failed", why))
                return
            scores.append(CheckpointScore(version, total.pass_at_1, total.response_length))
            self._tell(CellScored(config.run.name, version))
        record.scored(scores)
        self._tell(CellEnded(config.run.name, "done"))

    async def _drive(self, run: LocalRun, config: Config, engine: RolloutEngine) -> Exception | None:
        """Run it to its end, the deadline or the stop; return what it failed with."""
        job = asyncio.create_task(run.run(engines=[engine]))
        stop = asyncio.create_task(self._stopping.wait())
        late = None
        try:
            await asyncio.wait({job, stop}, timeout=self._limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                if not self._stopping.is_set():
                    states = ", ".join(f"{role}: {state}" for role, state in run.states.items())
                    late = TimeoutError(f"not done within --cell-timeout {self._limit_s:g} s ({states})")
                run.stop("fault" if late else "interrupted")
                await asyncio.wait({job}, timeout=config.launch.drain_timeout_s + _GRACE_S)
            if not job.done():
                job.cancel()
                await asyncio.wait({job}, timeout=_SETTLE_S)
            if not job.done():
                return EngineDead("the roles of the cell do not end; nothing can run beside them")
        finally:
            stop.cancel()
        if job.cancelled():
            return late or TimeoutError("the roles of the cell did not drain in time")
        failure = _first(job.exception())
        return failure if isinstance(failure, EngineDead) else late or failure

    def _tell(self, event: Event) -> None:
        self._write(encode(event))


def _first(error: BaseException | None) -> Exception | None:
    """The first error inside nested exception groups; an engine's death comes before what followed from it."""
    leaves: list[Exception] = []
    groups = [error]
    while groups:
        inner = groups.pop(0)
        if isinstance(inner, BaseExceptionGroup):
            groups += inner.exceptions
        elif isinstance(inner, Exception):
            leaves.append(inner)
    if error is not None:
        _log.error("the cell cannot go on", exc_info=error)
    return next((leaf for leaf in leaves if isinstance(leaf, EngineDead)), leaves[0] if leaves else None)


class TwinBench:
    """Cells on virtual time: no engine, one after another in a thread."""

    def __init__(self, plan: SeedPlan, tell: Tell, stopping: asyncio.Event) -> None:
        self._configs = [load_config(path) for path in plan.configs]
        self._twin = read_twin(plan.twin)
        self._write = tell
        self._stopping = stopping

    async def run(self) -> None:
        """Run every cell, or until the stop (a cell is not cut off)."""
        self._tell(EngineReady(wall_s=0.0))
        for config in self._configs:
            if self._stopping.is_set():
                return
            name = config.run.name
            self._tell(CellStarted(name))
            try:
                await asyncio.to_thread(run_twin, config, self._twin, self._tell)
            except* Exception as failures:  # noqa: BLE001 - the cell's; the others go on
                failure = _first(failures)
                self._tell(CellEnded(name, "failed", f"{type(failure).__name__}: {failure}"))
            else:
                self._tell(CellEnded(name, "done"))
            finally:
                shutil.rmtree(RunPaths.of(config).weights, ignore_errors=True)

    def _tell(self, event: Event) -> None:
        self._write(encode(event))


async def _work(plan: bytes, tell: Tell, stopping: asyncio.Event) -> None:
    seed_plan = msgspec.json.decode(plan, type=SeedPlan)
    await (TwinBench if seed_plan.twin else Bench)(seed_plan, tell, stopping).run()


if __name__ == "__main__":
    main("Runs benchmark cells on one engine", _work)
