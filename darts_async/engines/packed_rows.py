"""Whether a model keeps responses apart that stand in one row, measured and not believed.

Some models do not hand their layers' arguments on to attention, some carry a state (convolutions, recurrences) past the
end of a response. Each response would silently be scored with another one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["keeps_apart"]


@torch.no_grad()
def keeps_apart(score: Callable[..., tuple[torch.Tensor, Any]], head: torch.nn.Module) -> bool:
    """Compare the log-probs of three short sequences in one row with those of each by itself.

    `score` is a `PolicyScorer` in padding-free use, `head` its output layer. Needs real weights on one device.
    """
    weight: torch.Tensor = head.get_parameter("weight")
    lengths = (4, 3, 5)
    ids = torch.arange(7, 7 + sum(lengths), device=weight.device) * 5 % weight.shape[0]
    alone, positions, start = [], [], 0
    for length in lengths:
        own, at = ids[start : start + length], torch.arange(length - 1, device=weight.device)
        alone.append(score(own.unsqueeze(0), at, own[1:])[0])
        positions.append(at + start)
        start += length
    places = torch.cat(positions)
    restarting = torch.cat([torch.arange(length, device=weight.device) for length in lengths]).unsqueeze(0)
    together, _ = score(ids.unsqueeze(0), places, ids[places + 1], position_ids=restarting, segments=lengths)
    # One hidden state in the wrong company moves log-probs by far more than the rounding of the dtype does.
    tolerance = 1e-4 if weight.dtype in {torch.float32, torch.float64} else 0.1
    return torch.allclose(together, torch.cat(alone), rtol=0, atol=tolerance)
