"""From groups to padded tensors: the rows of a micro-batch and which of their positions are in the loss.

Rows are padded on the right and no attention mask is passed: attention is causal, so no real position sees padding,
and positions count from 0 as in the engine. Invariant: the i-th loss token of a micro-batch is the same token in
`targets`, `behaviour_logprobs`, `advantages`, `oldest_versions` and, through `positions`, in the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from darts_async.messages import TrainGroup


@dataclass(frozen=True, slots=True)
class Row:
    """One response with its prompt."""

    prompt: npt.NDArray[np.int32]
    response: npt.NDArray[np.int32]
    behaviour_logprobs: npt.NDArray[np.float32]
    oldest_version: int
    """Policy version of the first response token; later ones are never older."""
    advantage: float

    @property
    def num_tokens(self) -> int:
        """Prompt and response together."""
        return self.prompt.size + self.response.size


def rows_of(group: TrainGroup, advantages: npt.NDArray[np.float32], *, mask_truncated: bool) -> Iterator[Row]:
    """Yield the rows of a group that are in the loss; with `mask_truncated`, responses at the cap are not."""
    stops = np.cumsum(group.lengths).tolist()
    for index, stop in enumerate(stops):
        if mask_truncated and group.capped[index]:
            continue
        tokens = slice(stop - int(group.lengths[index]), stop)
        yield Row(
            prompt=group.prompt_tokens,
            response=group.response_tokens[tokens],
            behaviour_logprobs=group.behaviour_logprobs[tokens],
            oldest_version=group.version_spans[index][0].version,
            advantage=float(advantages[index]),
        )


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Tensors of R rows padded to W tokens, with T loss tokens in all."""

    input_ids: torch.Tensor
    """int64 [R, W]."""
    logits_to_keep: int
    """The model computes logits for this many last positions only: the earliest loss position of any row and later."""
    positions: torch.Tensor
    """int64 [T]: index of each loss token's logits in the kept ones, flattened to [R * logits_to_keep, vocab]."""
    targets: torch.Tensor
    """int64 [T]: the sampled tokens."""
    behaviour_logprobs: torch.Tensor
    """float32 [T]."""
    advantages: torch.Tensor
    """float32 [T]."""
    oldest_versions: torch.Tensor
    """int32 [T]: the oldest policy version in the token's response, up to the token itself."""


def collate(rows: Sequence[Row], device: torch.device | str = "cpu") -> MicroBatch:
    """Pad rows into one micro-batch. The token at position p is predicted by the logits at p - 1."""
    width = max(row.num_tokens for row in rows)
    first = min(row.prompt.size for row in rows) - 1
    kept = width - first
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    positions: list[npt.NDArray[np.int64]] = []
    for index, row in enumerate(rows):
        input_ids[index, : row.prompt.size] = row.prompt
        input_ids[index, row.prompt.size : row.num_tokens] = row.response
        start = index * kept + row.prompt.size - 1 - first
        positions.append(np.arange(start, start + row.response.size, dtype=np.int64))

    def tensor(array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    def per_token(values: Sequence[float], dtype: type[np.generic]) -> torch.Tensor:
        return tensor(np.repeat(np.array(values, dtype=dtype), [row.response.size for row in rows]))

    return MicroBatch(
        input_ids=tensor(input_ids),
        logits_to_keep=kept,
        positions=tensor(np.concatenate(positions)),
        targets=tensor(np.concatenate([row.response for row in rows]).astype(np.int64)),
        behaviour_logprobs=tensor(np.concatenate([row.behaviour_logprobs for row in rows])),
        advantages=per_token([row.advantage for row in rows], np.float32),
        oldest_versions=per_token([row.oldest_version for row in rows], np.int32),
    )
