"""A reward worker whose scores hang, raise, are no numbers or end its process, as the prompt id asks; else the task's.

Started by the pool as `python tools/soaks/odd_reward.py PARENT_PID`.
"""

from __future__ import annotations

import os
import signal
import time

from darts_async.runtime.reward_worker import Scorer, Setup, main, task_scorer

FAULTS = ("hang", "raise", "die", "nan")


def load(setup: Setup) -> Scorer:
    """The task's scorer, behind what can go wrong in one: `hang/ID` hangs, `ID` is scored."""
    score = task_scorer(setup)

    def odd(prompt_id: str, tokens: list[int]) -> float:
        fault, _, rest = prompt_id.rpartition("/")
        match fault:
            case "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worst kind: nothing but SIGKILL ends it
                while True:
                    time.sleep(3600)
            case "raise":
                raise KeyError("the verifier has a bug")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "nan":
                return float("nan")
        return score(rest, tokens)

    return odd


if __name__ == "__main__":
    main(load)
