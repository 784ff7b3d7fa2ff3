"""A reward worker whose scores hang, raise, are no numbers or end its process; the rest is the task's own.

Which response suffers what is a pure function of the prompt and the response, so that whoever asked knows what to
expect. Started by the pool as `python tools/soaks/odd_reward.py PARENT_PID`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from array import array
from collections.abc import Sequence

from darts_async.runtime.reward_worker import Scorer, Setup, main, task_scorer

FAULTS = ("hang", "raise", "die", "nan")
SHARE = 0.05
"""Of the responses, for each fault."""


def fault_of(prompt_id: str, tokens: Sequence[int]) -> str:
    """What happens to the one who scores this response: one of `FAULTS`, or an empty string."""
    digest = hashlib.blake2b(array("i", tokens).tobytes(), key=prompt_id.encode()[:64], digest_size=8).digest()
    place = int.from_bytes(digest, "little") / 2**64 / SHARE
    return FAULTS[int(place)] if place < len(FAULTS) else ""


def load(setup: Setup) -> Scorer:
    """The task's scorer, behind what can go wrong in one."""
    score = task_scorer(setup)

    def odd(prompt_id: str, tokens: list[int]) -> float:
        match fault_of(prompt_id, tokens):
            case "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worst kind: nothing but SIGKILL ends it
                while True:
                    time.sleep(3600)
            case "raise":
                raise KeyError("the verifier has a bug")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "nan":
                return (float("nan"), float("inf"), float("-inf"))[len(tokens) % 3]
        return score(prompt_id, tokens)

    return odd


if __name__ == "__main__":
    main(load)
