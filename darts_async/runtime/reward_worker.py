"""A reward worker: one process that decodes responses and scores them, one at a time.

Started by `reward_pool.RewardPool` as `python -m darts_async.runtime.reward_worker PARENT_PID`. It speaks frames (a
4-byte little-endian length, then MessagePack) on the standard input and output it was given: `Setup` in, `Loaded`
out, then `Job` in and `Score` out until the input ends. What a task prints goes to standard error, so that it cannot
break a frame. Must never import torch or a model library: a pool of these has to be cheap to start and to replace.
What somebody's own reward function imports is theirs to say.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, TypeAlias

import msgspec

from darts_async.parent_death import die_with_parent
from darts_async.runtime.reward_scoring import RewardError, RewardFunction, Scored, Scoring

if TYPE_CHECKING:
    from darts_async.tasks.base import Prompt, Task

__all__ = ["FRAME_HEADER_BYTES", "MAX_FRAME_BYTES", "Job", "Loaded", "Score", "Scorer", "Setup", "frame", "main"]

FRAME_HEADER_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 1 << 23
"""A response of `messages.MAX_TOKENS` tokens, and room to spare."""

MAX_ERROR_CHARS: Final = 500
MAX_FUNCTIONS: Final = 32


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What to load, once."""

    task: str
    params: dict[str, Any]
    model_folder: str
    functions: Annotated[list[RewardFunction], msgspec.Meta(max_length=MAX_FUNCTIONS)] = []
    """Empty: the task's own verifier is the reward."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The worker can score, or says why not."""

    error: str = ""
    rss_bytes: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One response to score."""

    prompt_id: str
    tokens: bytes
    """int32 in native byte order."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a job: a finite reward, or the kind of failure and its text."""

    reward: float = 0.0
    components: Annotated[dict[str, float], msgspec.Meta(max_length=MAX_FUNCTIONS)] = {}
    """Label of each reward function that applied to its value."""
    failure: str = ""
    error: str = ""
    rss_bytes: int = 0


Scorer: TypeAlias = Callable[[str, list[int]], float | Scored]
"""(prompt id, response token ids) to reward; may raise whatever it likes."""


def frame(message: msgspec.Struct) -> bytes:
    """Encode one message with its length. Raises `ValueError` when it is too long for a frame."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(FRAME_HEADER_BYTES, "little") + body


def task_scorer(setup: Setup) -> Scorer:
    """Return the scorer of a config's task and reward functions. Raises `ConfigError` for what cannot be loaded."""
    from darts_async.tasks import load_task  # noqa: PLC0415 - a test's worker needs no task
    from darts_async.tasks.chat import ChatTokenizer  # noqa: PLC0415

    task = load_task(setup.task, setup.params)
    tokenizer = ChatTokenizer(setup.model_folder)
    find = _finder(task)
    scoring = Scoring(task, setup.functions)
    scoring.prepare()

    def score(prompt_id: str, tokens: list[int]) -> Scored:
        try:
            prompt = find(prompt_id)
        except KeyError:
            raise RewardError(
                "raised",
                f"task `{setup.task}` gave no prompt {prompt_id!r} here: it must give the same ones every time",
            ) from None
        return scoring.score(prompt, tokenizer.decode(tokens), len(tokens))

    return score


def _finder(task: Task) -> Callable[[str], Prompt]:
    """A task with many prompts finds one by itself; of the others all are held."""
    find: Callable[[str], Prompt] | None = getattr(task, "find", None)
    if find is not None:
        return find
    prompts = {prompt.prompt_id: prompt for prompt in (*task.train_prompts(), *task.held_out_prompts())}
    return prompts.__getitem__


def main(load: Callable[[Setup], Scorer] = task_scorer) -> None:
    """Serve until the input ends. `load` is for tests, which bring their own scorer."""
    die_with_parent(int(sys.argv[1]))
    # The role decides when its workers end; a Ctrl-C at the terminal is not for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests = os.fdopen(0, "rb", closefd=False)
    body = _read(requests)
    if body is None:
        return
    try:
        scorer = load(msgspec.msgpack.decode(body, type=Setup))
    except Exception as error:  # noqa: BLE001 - whatever a task raises is reported to the pool
        replies.write(frame(Loaded(error=_text(error))))
        return
    replies.write(frame(Loaded(rss_bytes=_rss_bytes())))
    while (body := _read(requests)) is not None:
        replies.write(frame(_score(scorer, msgspec.msgpack.decode(body, type=Job))))


def _score(scorer: Scorer, job: Job) -> Score:
    tokens = array("i")
    tokens.frombytes(job.tokens)
    try:
        result = scorer(job.prompt_id, tokens.tolist())
        scored = result if isinstance(result, Scored) else Scored(float(result))
    except RewardError as error:
        return Score(failure=error.kind, error=str(error)[:MAX_ERROR_CHARS], rss_bytes=_rss_bytes())
    except Exception as error:  # noqa: BLE001 - a reward may raise anything; only its candidate fails
        return Score(failure="raised", error=_text(error), rss_bytes=_rss_bytes())
    if not math.isfinite(scored.reward):
        return Score(failure="not_finite", error=f"the reward is {scored.reward}", rss_bytes=_rss_bytes())
    return Score(reward=scored.reward, components=dict(scored.components), rss_bytes=_rss_bytes())


def _read(requests: BinaryIO) -> bytes | None:
    """The next frame's body, or None at the end of the input."""
    header = requests.read(FRAME_HEADER_BYTES)
    if len(header) < FRAME_HEADER_BYTES:
        return None
    size = int.from_bytes(header, "little")
    body = requests.read(size)
    return body if len(body) == size else None


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]


def _rss_bytes() -> int:
    """Resident memory of its own, mapped files aside; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - read once per score
            _, resident, shared, *_ = statm.read().split()
            return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    main()
