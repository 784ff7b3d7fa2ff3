"""From groups to padded tensors: the rows of a micro-batch and which of their positions are in the loss.

Rows are padded on the right and no attention mask is passed: attention is causal, so no real position sees padding,
and positions count from 0 as in the engine. Invariant: the i-th loss token of a micro-batch is the same token in
all fields of length T and, through `positions`, in the logits.
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


@dataclass(slots=True)
class Row:
    """One response with its prompt."""

    candidate_id: int
    prompt: npt.NDArray[np.int32]
    response: npt.NDArray[np.int32]
    behaviour_logprobs: npt.NDArray[np.float32]
    versions: npt.NDArray[np.int32]
    """int32 [response_len]: the policy version that sampled each token; never falls."""
    advantage: float
    proximal_logprobs: npt.NDArray[np.float32] | None = None
    """float32 [response_len] of the policy at the step's start; None where that is the policy itself."""
    reference_logprobs: npt.NDArray[np.float32] | None = None
    """float32 [response_len]; None without a reference policy."""

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
        length = int(group.lengths[index])
        tokens = slice(stop - length, stop)
        spans = group.version_spans[index]
        yield Row(
            candidate_id=group.candidate_ids[index],
            prompt=group.prompt_tokens,
            response=group.response_tokens[tokens],
            behaviour_logprobs=group.behaviour_logprobs[tokens],
            versions=np.repeat(
                np.array([span.version for span in spans], dtype=np.int32),
                np.diff([*(span.start for span in spans), length]),
            ),
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
    versions: torch.Tensor
    """int64 [T]: the policy version that sampled the token."""
    oldest_versions: torch.Tensor
    """int64 [T]: that of the first token of its response, the oldest there."""
    responses: torch.Tensor
    """int64 [T]: which row a loss token belongs to, 0..R-1."""
    lengths: torch.Tensor
    """int64 [R]: response tokens of each row."""
    proximal_logprobs: torch.Tensor | None
    """float32 [T]; None unless all rows have them."""
    reference_logprobs: torch.Tensor | None
    """float32 [T]; None unless all rows have them."""


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

    def joined(parts: Sequence[npt.NDArray[np.float32] | None]) -> torch.Tensor | None:
        known = [part for part in parts if part is not None]
        return tensor(np.concatenate(known)) if len(known) == len(parts) else None

    return MicroBatch(
        input_ids=tensor(input_ids),
        logits_to_keep=kept,
        positions=tensor(np.concatenate(positions)),
        targets=tensor(np.concatenate([row.response for row in rows]).astype(np.int64)),
        behaviour_logprobs=tensor(np.concatenate([row.behaviour_logprobs for row in rows])),
        advantages=per_token([row.advantage for row in rows], np.float32),
        versions=tensor(np.concatenate([row.versions for row in rows]).astype(np.int64)),
        oldest_versions=per_token([int(row.versions[0]) for row in rows], np.int64),
        responses=per_token(range(len(rows)), np.int64),
        lengths=tensor(np.array([row.response.size for row in rows], dtype=np.int64)),
        proximal_logprobs=joined([row.proximal_logprobs for row in rows]),
        reference_logprobs=joined([row.reference_logprobs for row in rows]),
    )
