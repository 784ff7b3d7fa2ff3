"""The whole of a run killed and resumed, again and again: `tools/kill_and_resume.py`'s campaigns, as rows.

With the simulated engine and no staleness the run must train on what an unbroken one trains on; with real vLLM, and
with staleness, no draw may be skipped or trained twice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from resuming.campaign import Campaign

from soaks.result import Result, Row

_SIM = {"generator.engine": "sim", "generator.engine_args.token_s": "0.002", "eval.prompts": "8"}
_NO_STALENESS = {"pipeline.mode": "stream", "pipeline.max_staleness": "0"}
_KILLS_SIM, _KILLS_REAL, _KILLS_QUICK = 20, 3, 1


def run(*, quick: bool, folder: Path, said: Callable[[str], None]) -> Result:
    """20 kills with the simulated engine, 3 with vLLM; quick: one, with the simulated engine."""
    began = time.monotonic()
    rows, problems, figures = [], [], {}
    kills = _KILLS_QUICK if quick else _KILLS_SIM
    steps = "8" if quick else "300"
    sim = Campaign(folder / "kill-and-resume" / "sim", _words({**_SIM, **_NO_STALENESS, "run.steps": steps}), kills, 1)
    sim.run(said)
    if not sim.wrong:
        sim.compare(said)
    rows.append(_row(sim, "simulated engine, staleness 0", "trained groups are those of an unbroken run"))
    problems += sim.wrong
    figures["sim"] = sim.facts
    if not quick:
        wanted = {"run.steps": "40", "eval.prompts": "8"}
        real = Campaign(
            folder / "kill-and-resume" / "vllm", _words(wanted), _KILLS_REAL, 2, starting_s=40.0, training_s=15.0
        )
        real.run(said)
        rows.append(_row(real, "real vLLM, staleness up to 1", "no draw trained twice, none skipped"))
        problems += real.wrong
        figures["vllm"] = real.facts
    return Result("kill-and-resume", rows, time.monotonic() - began, problems, quick, figures)


def _words(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", value)]


def _row(campaign: Campaign, what: str, outcome: str) -> Row:
    """Its recovery is from the start of `up --resume` to the first step that is trained."""
    killed = [row for row in campaign.rows if row.phase in {"starting", "training"}]
    times = [row.trained_s for row in campaign.rows[1:] if row.trained_s is not None]
    return Row(
        fault=f"kill -9 of the whole run, then `up --resume` ({what})",
        times=len(killed),
        outcome=f"{outcome}; every step of the run has one line of metrics, ledger check passed"
        if not campaign.wrong
        else campaign.wrong[0].splitlines()[0][:200],
        median_s=statistics.median(times) if times else None,
        worst_s=max(times, default=None),
    )
