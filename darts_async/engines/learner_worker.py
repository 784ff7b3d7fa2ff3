"""A worker process of the learner: rank 1 and up, doing what rank 0 says, on its share of every step.

Started by `parallel_trainer.ParallelTrainer` as `python -m darts_async.engines.learner_worker PARENT_PID`, with
messages on standard input and output (`worker_messages`) and its log on standard error. It has no links and writes no
files. Invariants: commands are carried out in the order they come; it ends when its input does, whatever it is at.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from darts_async.engines.worker_messages import (
    Command,
    Done,
    FromWorker,
    Here,
    ToWorker,
    WorkerSetup,
    read_frames,
    write_frames,
)
from darts_async.errors import ProtocolError, RunFailed
from darts_async.log import configure
from darts_async.messages import TrainGroup
from darts_async.parent_death import die_with_parent
from darts_async.transport.codec import Codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from darts_async.engines.trainer import PolicyTrainer

__all__ = ["main"]

_log = logging.getLogger(__name__)
_MAX_WAITING: Final = 64
"""Messages read ahead. The reader waits with more: rank 0 sends groups only to a worker that is about to take them."""


class _Inbox:
    """Reads on a thread of its own, so that an `abandon` and the end of the input are noticed during a command."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.on_abandon: Callable[[], None] = lambda: None
        self.closing = False
        self._pipe = pipe
        self._messages: queue.Queue[WorkerSetup | TrainGroup | Command] = queue.Queue(_MAX_WAITING)
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def get(self) -> WorkerSetup | TrainGroup | Command:
        return self._messages.get()

    def _read(self) -> None:
        codec: Codec[WorkerSetup | TrainGroup | Command] = Codec(ToWorker)
        try:
            while (frames := read_frames(self._pipe)) is not None:
                message = codec.decode(frames)
                if isinstance(message, Command) and message.action == "abandon":
                    self.on_abandon()
                    continue
                if isinstance(message, Command) and message.action == "close":
                    self.closing = True
                self._messages.put(message)
        except Exception:  # noqa: BLE001 - the outermost frame of this thread
            _log.exception("the learner sent something that cannot be read")
            os._exit(1)
        if not self.closing:
            _log.error("the learner is gone")
            os._exit(1)


def main() -> None:
    """Serve until told to close. An error ends the process with status 1 and its traceback in the log."""
    die_with_parent(int(sys.argv[1]))
    # The learner decides when its workers end; a Ctrl-C at the terminal is not for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    configure()
    # What a library prints must not break a message.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    inbox = _Inbox(os.fdopen(0, "rb", closefd=False))
    try:
        _serve(inbox, replies)
    except BaseException as error:  # noqa: BLE001 - the outermost frame: logged, and the process ends
        _log.exception("this worker cannot go on")
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log's last line
        os._exit(1)
    # Libraries leave threads behind that can hang.
    os._exit(0)


def _serve(inbox: _Inbox, replies: BinaryIO) -> None:
    setup = inbox.get()
    if not isinstance(setup, WorkerSetup):
        raise ProtocolError(f"the first message to a worker is {type(setup).__name__}")
    codec: Codec[FromWorker] = Codec(FromWorker)

    def reply(message: FromWorker) -> None:
        write_frames(replies, codec.encode(message))

    from darts_async.config import Config  # noqa: PLC0415 - seconds of imports, after the guard is in place
    from darts_async.engines.ranks import join_ranks, leave_ranks  # noqa: PLC0415
    from darts_async.engines.trainer import PolicyTrainer  # noqa: PLC0415

    config = Config.model_validate_json(setup.config)
    reply(Here())
    ranks = join_ranks(setup.rank, setup.processes, Path(setup.store), sharded=config.learner.sharding == "fsdp2")
    trainer = PolicyTrainer(config, ranks=ranks)
    inbox.on_abandon = trainer.abandon
    reply(Done())
    groups: list[TrainGroup] = []
    while True:
        message = inbox.get()
        if isinstance(message, TrainGroup):
            groups.append(message)
        elif isinstance(message, Command):
            if message.action == "close":
                leave_ranks()
                return
            try:
                _carry_out(trainer, message, groups)
            except RunFailed as error:
                _log.error("%s", error)  # rank 0 raises the same, and decides
            groups = []
            reply(Done())
        else:
            raise ProtocolError("a worker is set up once")


def _carry_out(trainer: PolicyTrainer, command: Command, groups: list[TrainGroup]) -> None:
    if len(groups) != command.num_groups:
        raise ProtocolError(f"{command.action} of {command.num_groups} groups came after {len(groups)}")
    if command.action == "accumulate":
        trainer.accumulate(groups)
    elif command.action == "apply_step":
        trainer.apply_step()
    elif command.action == "publish":
        trainer.publish(Path(command.path))
    elif command.action == "save_checkpoint":
        trainer.save_checkpoint(Path(command.path))
    elif command.action == "save_recovery":
        trainer.save_recovery(Path(command.path))
    elif command.action == "load_checkpoint":
        trainer.load_checkpoint(Path(command.path))
    else:
        raise ProtocolError(f"a worker cannot {command.action}")


if __name__ == "__main__":
    main()
