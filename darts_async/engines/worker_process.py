"""One worker process of the learner, as rank 0 holds it: its pipes, its log, its end.

Invariant: it is never left behind. It stays in the learner's process group, which the launcher kills as a whole; it
asks the kernel to die with the thread that started it; and it ends when its input does. No torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from darts_async.engines.worker_messages import FromWorker, read_frames, write_frames
from darts_async.errors import ProtocolError, RunFailed
from darts_async.owned_files import open_log
from darts_async.transport.codec import Codec, Frame

__all__ = ["WorkerProcess"]

_EXIT_WAIT_S: Final = 5.0
"""For a process whose pipe has ended to be gone, or one that was asked to end."""
_TAIL_BYTES: Final = 4096


class WorkerProcess:
    """Started on construction. `send` may be called from any thread, the rest is rank 0's torch thread's."""

    def __init__(self, rank: int, log: Path, environment: dict[str, str], on_death: Callable[[], None]) -> None:
        """on_death: called, on a thread of its own, when the process ends without having been asked to."""
        self.rank = rank
        self.log = log
        self.dead = threading.Event()
        self._closing = False
        self._codec: Codec[FromWorker] = Codec(FromWorker)
        self._writing = threading.Lock()
        log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(open_log(log), "ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "darts_async.engines.learner_worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
            )
        threading.Thread(target=self._watch, args=(on_death,), name=f"watch rank {rank}", daemon=True).start()

    def send(self, *messages: Sequence[Frame]) -> None:
        """Write encoded messages. Raises `RunFailed` when the process is gone."""
        assert self.process.stdin is not None
        try:
            with self._writing:
                for frames in messages:
                    write_frames(self.process.stdin, frames)
        except (OSError, ValueError) as error:  # ValueError: the pipe is closed on this side
            raise self.lost() from error

    def receive(self, kind: type[FromWorker]) -> None:
        """Wait for the next message, which must be of this kind. Raises `RunFailed` when the process is gone."""
        assert self.process.stdout is not None
        frames = read_frames(self.process.stdout)
        if frames is None:
            raise self.lost()
        message = self._codec.decode(frames)
        if type(message) is not kind:
            raise ProtocolError(f"rank {self.rank} of the learner sent {type(message).__name__} for {kind.__name__}")

    def lost(self) -> RunFailed:
        """Return the error that says how the process ended and where to read more."""
        self.dead.wait(_EXIT_WAIT_S)
        status = self.process.poll()
        how = "has closed its pipe" if status is None else f"exited with status {status}"
        if status is not None and status < 0:
            how = f"was killed by {_signal_name(-status)}"
        last = self._last_line()
        return RunFailed(
            f"learner: the worker process of rank {self.rank} {how}; its log is {self.log}"
            + (f" and ends with: {last}" if last else "")
        )

    def end(self) -> None:
        """Close the input, wait for the process to end by itself, and kill it if it does not."""
        self._closing = True
        assert self.process.stdin is not None and self.process.stdout is not None
        with self._writing, suppress(OSError):
            self.process.stdin.close()
        if not self.dead.wait(_EXIT_WAIT_S):
            self.process.kill()
            self.dead.wait(_EXIT_WAIT_S)
        self.process.stdout.close()

    def _watch(self, on_death: Callable[[], None]) -> None:
        self.process.wait()
        self.dead.set()
        if not self._closing:
            on_death()

    def _last_line(self) -> str:
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
            return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
