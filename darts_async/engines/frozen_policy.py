"""One policy whose weights the gradient does not touch: the reference, or the policy at the start of the step.

Scores whole responses in packed batches, and the beginnings of responses that still decode with their keys and values
kept. Invariant: which of the two ways a response took changes its log-probs by rounding only. Nothing here has a
gradient. Blocking; all calls on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from darts_async.algorithms.packing import pack
from darts_async.engines.micro_batch import Row, collate
from darts_async.engines.policy_model import PolicyModel
from darts_async.engines.prefix_scores import PrefixScorer, ScoredPrefix

if TYPE_CHECKING:
    from darts_async.algorithms.streamed_tokens import StreamedResponse
    from darts_async.config import Config

__all__ = ["FrozenPolicy"]

Autocast = Callable[[], AbstractContextManager[Any]]

_OVERHEAD_TOKENS = 100
"""What one more batch costs, in tokens of a forward pass (see `micro_batch`)."""


class FrozenPolicy:
    """A model, placed on a device, and what it has said of streamed responses."""

    def __init__(
        self, model: Any, config: Config, device: torch.device, autocast: Autocast, *, shared: bool = False
    ) -> None:
        """`autocast`: the context that the policy itself is scored in, so that both round alike; with a model that is
        `shared` with the policy, which stays trainable, it also makes the model what is scored with here."""
        self._model = model if shared else model.requires_grad_(False).to(device)
        self._device = device
        self._autocast = autocast
        self._budget = config.learner.micro_batch_tokens
        self._policy = PolicyModel(self._model, config)
        with autocast():
            self._scorer = PrefixScorer(self._model, config, device)
        self._prefixes: dict[int, ScoredPrefix] = {}
        self._num_fed = 0
        """Tokens in all of them together."""

    @property
    def can_stream(self) -> bool:
        """Whether beginnings of responses can be scored."""
        return self._scorer.can_cache

    @property
    def nbytes(self) -> int:
        """Size of the keys and values that are kept."""
        return self._num_fed * self._scorer.token_bytes

    def copy_weights(self, source: Any) -> None:
        """Become a model of the same shape, in place, in what of it is trained; everything said of streamed responses
        so far is void.

        The source may be sharded: then this is a collective operation.
        """
        self._prefixes.clear()
        self._num_fed = 0
        with torch.no_grad():
            for mine, theirs in zip(self._model.parameters(), source.parameters(), strict=True):
                if theirs.requires_grad:
                    mine.copy_(theirs.full_tensor() if hasattr(theirs, "full_tensor") else theirs)

    # --- responses that still decode ----------------------------------------------------------------------------------

    def has_cache(self, candidate_id: int) -> bool:
        """Whether something of this response is kept."""
        return candidate_id in self._prefixes

    def missing_tokens(self, response: StreamedResponse) -> int:
        """Tokens of a response that would have to be fed to score all that is known of it."""
        prefix = self._prefixes.get(response.candidate_id)
        return response.tokens.size - 1 - (0 if prefix is None else prefix.num_fed)

    def missing_bytes(self, response: StreamedResponse) -> int:
        """What they would add to the kept keys and values."""
        return self.missing_tokens(response) * self._scorer.token_bytes

    def extend(self, responses: Sequence[StreamedResponse]) -> None:
        """Score what is not scored yet of these (each lacks something), as one batch."""
        prefixes = [self._prefixes.setdefault(response.candidate_id, ScoredPrefix()) for response in responses]
        self._num_fed += sum(self.missing_tokens(response) for response in responses)
        with self._autocast():
            self._scorer.extend(
                prefixes,
                [response.tokens for response in responses],
                [response.prompt_tokens for response in responses],
            )

    def drop(self, candidate_id: int) -> None:
        """Free what is kept of a response."""
        self._take(candidate_id)

    def _take(self, candidate_id: int) -> ScoredPrefix:
        prefix = self._prefixes.pop(candidate_id, None) or ScoredPrefix()
        self._num_fed -= prefix.num_fed
        return prefix

    # --- responses that are there as a whole --------------------------------------------------------------------------

    def score(self, rows: Sequence[Row], go_on: Callable[[], bool]) -> tuple[list[npt.NDArray[np.float32]], int]:
        """Return each row's log-probs, float32 [response_len], and how many of them were ready. Caches used are freed.

        `go_on` is asked before every batch; once it says no, rows not scored yet get zeros: nobody will use them.
        """
        prefixes = [self._take(row.candidate_id) for row in rows]
        num_ready = sum(prefix.num_scored for prefix in prefixes)
        begun = [index for index, prefix in enumerate(prefixes) if prefix.num_fed]
        whole = [index for index, prefix in enumerate(prefixes) if not prefix.num_fed]
        for batch in self._batches(rows, begun):
            if not go_on():
                break
            lacking = [index for index in batch if prefixes[index].num_fed < rows[index].num_tokens - 1]
            if lacking:
                with self._autocast():
                    self._scorer.extend(
                        [prefixes[index] for index in lacking],
                        [np.concatenate([rows[index].prompt, rows[index].response]) for index in lacking],
                        [rows[index].prompt.size for index in lacking],
                    )
            for index in batch:
                prefixes[index].cache = None
        for batch in self._batches(rows, whole):
            if not go_on():
                break
            self._score_whole([rows[index] for index in batch], [prefixes[index] for index in batch])
        return [_joined(prefix, row.response.size) for prefix, row in zip(prefixes, rows, strict=True)], num_ready

    def _batches(self, rows: Sequence[Row], indices: Sequence[int]) -> list[list[int]]:
        packing = pack([rows[index].num_tokens for index in indices], self._budget, _OVERHEAD_TOKENS)
        return [[indices[place] for place in batch] for batch in packing.batches]

    def _score_whole(self, rows: Sequence[Row], prefixes: Sequence[ScoredPrefix]) -> None:
        with torch.no_grad(), self._autocast():
            logprobs = self._policy.score(collate(rows, self._device)).logprobs.float().cpu().numpy()
        for prefix, part in zip(
            prefixes, np.split(logprobs, np.cumsum([r.response.size for r in rows])[:-1]), strict=True
        ):
            prefix.logprobs.append(part)


def _joined(prefix: ScoredPrefix, length: int) -> npt.NDArray[np.float32]:
    known = np.concatenate([*prefix.logprobs, np.zeros(0, dtype=np.float32)])
    return np.pad(known, (0, length - known.size))
