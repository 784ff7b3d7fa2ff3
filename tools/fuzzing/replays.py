"""Messages that a live run has heard before, as whoever recorded them would send them again.

The groups are those of the learner's spool, byte for byte; the rest is rebuilt from the ledger: candidates that are
over, steps that are done. Streams only: on the other links a sender is known by its name, and a second one of that name
would take the place of the role itself.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np

from darts_async import messages as m
from darts_async.algorithms.ledger_records import CandidateEnded, StepTrained
from darts_async.config.paths import RunPaths
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.runtime.spool import Spool
from darts_async.runtime.topology import LinkName

__all__ = ["old_messages"]


def old_messages(paths: RunPaths, count: int, rng: random.Random) -> dict[LinkName, list[m.Message]]:
    """Return `count` messages for each stream. Raises `LookupError` when the run has not trained yet."""
    records = list(LedgerReader(paths.ledger, live=True))
    ended = [record for record in records if isinstance(record, CandidateEnded)]
    steps = [record for record in records if isinstance(record, StepTrained)]
    groups = _spooled(paths.spool)
    if not (ended and steps and groups):
        raise LookupError(f"{len(ended)} candidates, {len(steps)} steps, {len(groups)} groups are there to repeat")

    def of_generator() -> m.Message:
        record = rng.choice(ended)
        tokens = max(record.tokens, 1)
        match rng.randrange(3):
            case 0:
                return m.Trajectory(
                    candidate_id=record.candidate_id,
                    replica=0,
                    finish_reason="length" if record.capped else "stop",
                    response_tokens=np.zeros(tokens, np.int32),
                    behaviour_logprobs=np.zeros(tokens, np.float32),
                    version_spans=(m.VersionSpan(0, 0),),
                )
            case 1:
                return m.RolloutEnded(
                    candidate_id=record.candidate_id, replica=0, reason="cancelled", num_tokens=record.tokens
                )
        some = rng.choices(ended, k=16)
        return m.Progress(
            replica=0,
            candidate_ids=np.array([record.candidate_id for record in some], np.int64),
            num_tokens=np.array([record.tokens for record in some], np.int32),
        )

    def of_learner() -> m.Message:
        step = rng.choice(steps)
        if rng.random() < 0.5:
            return m.StepDone(version=step.version, group_ids=step.group_ids)
        return m.GroupSwept(group_id=rng.choice(step.group_ids), staleness=3)

    def of_streams() -> m.Message:
        ids = tuple({record.candidate_id for record in rng.choices(ended, k=4)})
        if rng.random() < 0.5:
            return m.ChunksDropped(candidate_ids=ids)
        tokens = np.zeros(8, np.int32)
        return m.TrajectoryChunk(candidate_id=ids[0], start=0, prompt_tokens=tokens, response_tokens=tokens)

    return {
        "trajectories": [of_generator() for _ in range(count)],
        "steps": [of_learner() for _ in range(count)],
        "groups": [rng.choice(groups) for _ in range(count)],
        "chunks": [of_streams() for _ in range(count)],
    }


def _spooled(folder: Path) -> list[m.Message]:
    """Groups that the learner has taken. Read from a copy: reading cuts a torn end off."""
    with tempfile.TemporaryDirectory(prefix="darts-") as copies:
        copy = Path(copies) / "spool"
        shutil.copytree(folder, copy)
        spool = Spool(copy)
        try:
            return [group for step in spool.steps() for group in spool.read(step).groups]
        finally:
            spool.close()
