"""Overlong shaping: a response that comes close to the cap is worth less. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def soft_overlong(
    rewards: npt.NDArray[np.float32],
    lengths: npt.NDArray[np.int32],
    *,
    max_response_tokens: int,
    buffer_tokens: int,
    penalty: float,
) -> npt.NDArray[np.float32]:
    """Return rewards minus `penalty` times how far into the buffer before the cap each response goes. [n] float32.

    Nothing up to `max_response_tokens - buffer_tokens`, then linear, the whole penalty at the cap. `buffer_tokens` 0 is
    off. Source: DAPO (arXiv 2503.14476), section 3.4, equation 13 ("soft overlong punishment"), where the penalty is 1
    and responses beyond the cap, which cannot be here, get -1.

    Selection and `selection.zero_variance` judge the rewards as they are before shaping, as DAPO's filter does.
    """
    if buffer_tokens == 0:
        return rewards
    over = lengths.astype(np.float64) - (max_response_tokens - buffer_tokens)
    return (rewards - penalty * np.clip(over / buffer_tokens, 0.0, 1.0)).astype(np.float32)
