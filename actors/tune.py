"""Searches settings on a twin: `python -m actors.tune --plan FILE`; each trial is told as one JSON line.

The config as it is comes first, so that every later trial can be compared with it; then an optimiser with several
objectives (NSGA-II, after a Latin start by its own random sampler) proposes. A trial is one run on virtual time of a
few steps; the first step is not counted. Nothing is kept of a trial but its figures.
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
from darts_async.twin.figures import Figures, figures_of
from darts_async.twin.profile import read_twin
from darts_async.twin.search_space import DIRECTIONS, Choice, Knob, Trial, knobs_for, overrides
from darts_async.twin.tune_events import TunePlan, encode

_log = logging.getLogger(__name__)
_POPULATION = 16
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

    def _try(self, settings: dict[str, str]) -> Trial:
        self._num += 1
        number = self._num - 1
        name = f"trial-{number}"
        own = [
            *overrides(self._base, settings),
            ("run.dir", str(self._folder)),
            ("run.name", name),
            ("run.steps", str(self._plan.steps)),
            ("eval.prompts", "0"),
            ("metrics.trace", "false"),  # nobody would look at it
        ]
        try:
            config = load_config(self._plan.config, own)
            return Trial(number=number, settings=settings, figures=self._figures(config))
        except (ConfigError, RunFailed) as error:
            return Trial(number=number, settings=settings, figures=None, reason=str(error))
        except ExceptionGroup as group:
            _log.warning("trial %d: its run failed", number, exc_info=group)
            return Trial(number=number, settings=settings, figures=None, reason=str(group.exceptions[0]))
        finally:
            shutil.rmtree(self._folder / name, ignore_errors=True)

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
        tell(encode(await asyncio.to_thread(search.first)))
        for _ in range(tune_plan.trials - 1):
            if stopping.is_set() or time.monotonic() - began > tune_plan.time_limit_s:
                return
            tell(encode(await asyncio.to_thread(search.next)))


if __name__ == "__main__":
    main("Searches settings on a twin", _work)
