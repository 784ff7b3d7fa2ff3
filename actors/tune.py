"""Searches settings on a twin: `python -m actors.tune --plan FILE`; each trial is told as one JSON line.

The config as it is comes first, so that every later trial can be compared with it; then an optimiser with several
objectives (NSGA-II, after a Latin start by its own random sampler) proposes. A trial is one run on virtual time of a
few steps; the first step is not counted. The fastest few are run again with other seeds in the end. Nothing is kept of
a trial but its figures.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import msgspec
import optuna

from actors.twin import run_twin
from darts_async.config import Config, load_config
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError, RunFailed
from darts_async.runtime.job import Tell, main
from darts_async.twin.figures import Figures, figures_of, mean_of
from darts_async.twin.profile import read_twin
from darts_async.twin.search_space import DIRECTIONS, Choice, Knob, Trial, finalists, knobs_for, overrides
from darts_async.twin.tune_events import TunePlan, encode

_log = logging.getLogger(__name__)
_POPULATION = 16
_FAILURES = (ConfigError, RunFailed, ExceptionGroup)
"""Of a trial, not of the search."""
_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's shared memory: trials write ledgers that nobody reads


class Search:
    """One search, trial by trial."""

    def __init__(self, plan: TunePlan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._twin = read_twin(plan.twin)
        self._base = load_config(plan.config)
        self._knobs = knobs_for(self._base, plan.knobs, self._twin.profile)
        self._seen: dict[tuple[tuple[str, str], ...], Trial] = {}
        self._num = 0
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=plan.seed)
        self._study = optuna.create_study(directions=list(DIRECTIONS), sampler=sampler)

    def first(self) -> Trial:
        """The config as it is."""
        return self._try({})

    def next(self) -> Trial:
        """What the optimiser proposes next. A setting that was tried before is not run again."""
        proposal = self._study.ask()
        settings = {knob.key: _suggest(proposal, knob) for knob in self._knobs}
        key = tuple(sorted(overrides(self._base, settings)))
        known = self._seen.get(key)
        trial = self._seen[key] = self._try(settings) if known is None else known
        if trial.figures is None:
            self._study.tell(proposal, state=optuna.trial.TrialState.FAIL)
        else:
            figures = trial.figures
            self._study.tell(proposal, (figures.tokens_per_s, figures.staleness, figures.wasted))
        return trial

    def final(self, trial: Trial) -> Trial:
        """A setting that was tried, with the mean over further seeds."""
        assert trial.figures is not None
        seeds = range(self._base.run.seed + 1, self._base.run.seed + 1 + self._plan.further_seeds)
        try:
            runs = [trial.figures, *(self._run(trial.settings, seed) for seed in seeds)]
        except _FAILURES as error:
            return msgspec.structs.replace(trial, figures=None, reason=_reason(error))
        return msgspec.structs.replace(trial, figures=mean_of(runs), runs=len(runs))

    def _try(self, settings: dict[str, str]) -> Trial:
        self._num += 1
        trial = Trial(number=self._num - 1, settings=settings, figures=None)
        try:
            return msgspec.structs.replace(trial, figures=self._run(settings, self._base.run.seed))
        except _FAILURES as error:
            return msgspec.structs.replace(trial, reason=_reason(error))

    def _run(self, settings: dict[str, str], seed: int) -> Figures:
        own = [
            *overrides(self._base, settings),
            ("run.dir", str(self._folder)),
            ("run.name", "trial"),
            ("run.seed", str(seed)),
            ("run.steps", str(self._plan.steps)),
            ("eval.prompts", "0"),
            ("metrics.trace", "false"),  # nobody would look at it
        ]
        try:
            return self._figures(load_config(self._plan.config, own))
        finally:
            shutil.rmtree(self._folder / "trial", ignore_errors=True)

    def _figures(self, config: Config) -> Figures:
        paths = RunPaths.of(config)
        for folder in (paths.root, paths.logs, paths.ledger, paths.checkpoints):
            folder.mkdir()
        try:
            summary = run_twin(config, self._twin)
        finally:
            shutil.rmtree(paths.weights, ignore_errors=True)
        if summary["status"] != "done":
            raise RunFailed(f"the trial's run ended as {summary['status']}")
        lines = [msgspec.json.decode(line) for line in paths.metrics.read_bytes().splitlines()]
        return figures_of(summary, lines)


def _reason(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        _log.warning("a trial's run failed", exc_info=error)
        return str(error.exceptions[0])
    return str(error)


def _suggest(proposal: optuna.Trial, knob: Knob) -> str:
    if isinstance(knob, Choice):
        return str(proposal.suggest_categorical(knob.key, knob.values))
    return str(proposal.suggest_int(knob.key, knob.low, knob.high, log=knob.log))


async def _work(plan: bytes, tell: Tell, stopping: asyncio.Event) -> None:
    tune_plan = msgspec.json.decode(plan, type=TunePlan)
    began = time.monotonic()
    within = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="darts-tune-", dir=within) as folder:
        search = await asyncio.to_thread(Search, tune_plan, Path(folder))
        trials = [await asyncio.to_thread(search.first)]
        tell(encode(trials[0]))
        while len(trials) < tune_plan.trials and time.monotonic() - began <= tune_plan.time_limit_s:
            if stopping.is_set():
                return
            trials.append(await asyncio.to_thread(search.next))
            tell(encode(trials[-1]))
        for trial in finalists(trials, tune_plan.finalists, tune_plan.max_staleness):
            if stopping.is_set():
                return
            tell(encode(await asyncio.to_thread(search.final, trial)))


if __name__ == "__main__":
    main("Searches settings on a twin", _work)
