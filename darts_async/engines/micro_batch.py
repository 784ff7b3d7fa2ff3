"""From groups to tensors: the rows of a micro-batch and which of their positions are in the loss.

Bucketed, responses of similar length are rows that are padded on the right; no attention mask is passed: attention is
causal, so no real position sees padding, and positions count from 0 as in the engine. Padding-free, one row holds
responses one after the other, positions start again with each, and attention is kept within each.
Invariant: the i-th loss token of a micro-batch is the same token in all fields of length T and, through `positions`, in
the hidden states. A response is whole in one micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from darts_async.algorithms.packing import join, pack

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.messages import TrainGroup

_OVERHEAD_TOKENS = {"cpu": 100, "cuda": 1000}
"""What one more micro-batch costs, in tokens. CPU: 6 ms beside 0.06 ms a token (quickstart policy, one thread). CUDA:
an estimate, some 30 ms of kernel launches beside 30 us a token for a model of 1.5 B parameters."""


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
    """Tensors of R responses with T loss tokens in all: R rows padded to W tokens, or one row of W tokens."""

    input_ids: torch.Tensor
    """int64 [R, W], or [1, W] padding-free."""
    position_ids: torch.Tensor | None
    """int64 [1, W], from 0 in each response; None where rows are padded (each counts from 0)."""
    segments: tuple[int, ...] | None
    """Padding-free: tokens of each response with its prompt, in the row's order. They sum to W."""
    logits_to_keep: int
    """Loss positions are among this many last ones of a row."""
    positions: torch.Tensor
    """int64 [T]: where each loss token is predicted, as an index into the flattened `input_ids`."""
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
    """int64 [T]: which response a loss token belongs to, 0..R-1."""
    lengths: torch.Tensor
    """int64 [R]: response tokens of each."""
    proximal_logprobs: torch.Tensor | None
    """float32 [T]; None unless all rows have them."""
    reference_logprobs: torch.Tensor | None
    """float32 [T]; None unless all rows have them."""


def plan_micro_batches(rows: Sequence[Row], settings: LearnerSection, device: torch.device) -> list[list[Row]]:
    """Pack rows by `learner.packing` within `learner.micro_batch_tokens`; each row is in exactly one micro-batch."""
    lengths = [row.num_tokens for row in rows]
    if settings.packing == "padding_free":
        packing = join(lengths, settings.micro_batch_tokens)
    else:
        packing = pack(lengths, settings.micro_batch_tokens, _OVERHEAD_TOKENS.get(device.type, 0))
    return [[rows[index] for index in indices] for indices in packing.batches]


def cost_tokens(rows: Sequence[Row], settings: LearnerSection, device: torch.device) -> int:
    """Return what a micro-batch of these rows costs, in tokens: padding included, and the cost of being one."""
    lengths = [row.num_tokens for row in rows]
    padded = sum(lengths) if settings.packing == "padding_free" else max(lengths) * len(lengths)
    return padded + _OVERHEAD_TOKENS.get(device.type, 0)


def micro_batches(rows: Sequence[Row], settings: LearnerSection, device: torch.device) -> Iterator[MicroBatch]:
    """Plan and make the micro-batches of these rows, one at a time."""
    for part in plan_micro_batches(rows, settings, device):
        yield collate(part, device, padding_free=settings.packing == "padding_free")


def collate(rows: Sequence[Row], device: torch.device | str = "cpu", *, padding_free: bool = False) -> MicroBatch:
    """Make one micro-batch of rows. The token at position p is predicted by the hidden state at p - 1."""
    lengths = [row.num_tokens for row in rows]
    if padding_free:
        starts, width = np.cumsum([0, *lengths[:-1]]).tolist(), sum(lengths)
        input_ids = np.zeros((1, width), dtype=np.int64)
    else:
        width = max(lengths)
        starts = [index * width for index in range(len(rows))]
        input_ids = np.zeros((len(rows), width), dtype=np.int64)
    flat = input_ids.reshape(-1)
    positions: list[npt.NDArray[np.int64]] = []
    for row, start in zip(rows, starts, strict=True):
        flat[start : start + row.prompt.size] = row.prompt
        flat[start + row.prompt.size : start + row.num_tokens] = row.response
        first = start + row.prompt.size - 1
        positions.append(np.arange(first, first + row.response.size, dtype=np.int64))
    earliest = rows[0].prompt.size - 1 if padding_free else min(row.prompt.size for row in rows) - 1

    def tensor(array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    def per_token(values: Sequence[float], dtype: type[np.generic]) -> torch.Tensor:
        return tensor(np.repeat(np.array(values, dtype=dtype), [row.response.size for row in rows]))

    def joined(parts: Sequence[npt.NDArray[np.float32] | None]) -> torch.Tensor | None:
        known = [part for part in parts if part is not None]
        return tensor(np.concatenate(known)) if len(known) == len(parts) else None

    return MicroBatch(
        input_ids=tensor(input_ids),
        position_ids=tensor(np.concatenate([np.arange(n) for n in lengths])[None]) if padding_free else None,
        segments=tuple(lengths) if padding_free else None,
        logits_to_keep=width - earliest,
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
