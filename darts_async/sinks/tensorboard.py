"""TensorBoard: an event file under `<run>/tensorboard`, one record a step.

The records are written by this sink's thread itself. tensorboardX's `SummaryWriter` would hand them to a queue and a
thread of its own: when that thread dies of a full disk, nobody hears of it, and the next `close` waits for ever.
A run that goes on gets a further file in the same folder, which TensorBoard reads as the same run.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from darts_async.messages import EvalResult
from darts_async.sinks.base import Sink, SinkRun
from darts_async.sinks.flat import flat

__all__ = ["FOLDER", "TensorboardSink", "make_tensorboard"]

FOLDER: Final = "tensorboard"
_COMPARED: Final = ("reward/mean", "reward/kept", "response_length/kept", "held_out/reward", "held_out/response_length")
"""What the HPARAMS tab shows of a run beside its settings."""


class TensorboardSink(Sink):
    """Of one start of a run."""

    def __init__(self, run: SinkRun) -> None:
        # An extra without types, and slow to import.
        self._event: Any = import_module("tensorboardX.proto.event_pb2").Event
        self._summary: Any = import_module("tensorboardX.summary")
        writer: Any = import_module("tensorboardX.event_file_writer")
        folder = run.root / FOLDER
        folder.mkdir(exist_ok=True)
        # Names are by the second: two starts within one must not share a file, which would be emptied.
        self._file: Any = writer.EventsWriter(str(folder / "events"), f".{run.first_step}.{os.getpid()}")
        knobs = {name: value for name, value in flat(run.config).items() if isinstance(value, bool | int | float | str)}
        experiment, started, self._ended = self._summary.hparams(knobs, dict.fromkeys(_COMPARED, 0.0))
        self._write(experiment, 0)
        self._write(started, 0)
        self._text("config", run.config, run.first_step)
        self._step = run.first_step
        self._file.flush()

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """One record with all scalars."""
        self._step = step
        self._scalars(values, step)

    def evaluated(self, result: EvalResult) -> None:
        """`held_out/...` by policy version, on the axis of the steps: version v is what v steps have made."""
        scores = {"held_out/reward": result.reward, "held_out/response_length": result.response_length}
        self._scalars(scores, result.policy_version)

    def ended(self, summary: Mapping[str, Any]) -> None:
        """The summary as text."""
        self._text("summary", summary, self._step)
        if summary.get("status") == "done":
            self._write(self._ended, self._step)
        self._file.flush()

    def close(self) -> None:
        """Write out and close."""
        self._file.close()

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        merged = self._summary.Summary()
        for name, value in values.items():
            if math.isfinite(value):
                merged.MergeFrom(self._summary.scalar(name, value))
        self._write(merged, step)
        self._file.flush()

    def _text(self, name: str, value: Mapping[str, Any], step: int) -> None:
        shown = json.dumps(value, indent=2, default=str)
        self._write(self._summary.text(name, f"```json\n{shown}\n```"), step)

    def _write(self, summary: Any, step: int) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))


def make_tensorboard(run: SinkRun) -> Sink:
    """Make the sink. Needs tensorboardX."""
    return TensorboardSink(run)
