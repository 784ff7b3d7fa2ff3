"""The frozen policies whose log-probs the loss needs, and what they have said of responses that still decode.

The *reference* (with `learner.kl_weight`) never changes; under an adapter it is the policy itself with the adapter off,
unless it is another folder's. The *proximal* policy (with more than one update a step) is a
copy of the policy at the step's start, refreshed in place at each version. Invariants: a row is given log-probs of the
weights of its step, be its tokens streamed or not; the caches of all policies together stay within
`learner.cache_mib`; a response that is dropped frees its caches before anything else is scored.

`put` may be called from any thread; everything else belongs to the thread that does the torch work.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from darts_async import clock
from darts_async.algorithms.streamed_tokens import StreamedResponse, StreamedTokens
from darts_async.config.frozen import needs_proximal, needs_reference, streams_tokens
from darts_async.config.paths import model_folder
from darts_async.engines.frozen_policy import Autocast, FrozenPolicy
from darts_async.engines.policy_model import load_model, load_policy
from darts_async.errors import ConfigError
from darts_async.messages import ChunkNews, ChunksDropped, TrainGroup, TrajectoryChunk, group_of

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.micro_batch import Row

__all__ = ["FrozenPolicies"]

_log = logging.getLogger(__name__)


class FrozenPolicies:
    """None, one or two models, and the caches of what is being streamed."""

    def __init__(self, config: Config, device: torch.device, autocast: Autocast, policy: Any = None) -> None:
        """Load what the config asks for. Raises `ConfigError` for a reference that does not fit the policy.

        policy: the model under training, placed, whose base may be the reference; None: it cannot be run by itself.
        """
        self.reference: FrozenPolicy | None = None
        self.proximal: FrozenPolicy | None = None
        self._limit = config.learner.cache_mib << 20
        self._batch_tokens = config.learner.micro_batch_tokens
        if needs_reference(config):
            if policy is not None and config.learner.lora_rank and not config.learner.reference:
                self.reference = FrozenPolicy(policy, config, device, _without_adapter(policy, autocast), shared=True)
            else:
                self.reference = FrozenPolicy(_load_reference(config), config, device, autocast)
        if needs_proximal(config):
            self.proximal = FrozenPolicy(load_policy(config), config, device, autocast)
        self._policies = [policy for policy in (self.reference, self.proximal) if policy is not None]
        self._streaming = streams_tokens(config) and all(policy.can_stream for policy in self._policies)
        if streams_tokens(config) and not self._streaming:
            _log.warning("a frozen policy keeps more of the past than keys and values: chunks are not scored ahead")
        self._news: deque[ChunkNews] = deque()
        self._streams = StreamedTokens(config.model.max_response_tokens)
        self._arrived_s: dict[int, float] = {}
        self._sums = _Sums()

    def __bool__(self) -> bool:
        return bool(self._policies)

    # --- from the event loop's thread -----------------------------------------------------------------------------

    def put(self, news: ChunkNews) -> None:
        """Hand over what was heard of a streamed response. The caller bounds how much waits (`num_waiting`)."""
        self._news.append(news)

    @property
    def num_waiting(self) -> int:
        """What was put and not taken yet."""
        return len(self._news)

    def arrived(self, group_id: int) -> None:
        """A group is here: the clock until its log-probs are ready starts."""
        if self._policies:
            self._arrived_s[group_id] = clock.now_s()

    # --- responses that still decode --------------------------------------------------------------------------------

    def take_news(self) -> None:
        """Join the chunks that wait, free what was dropped. Cheap: between two micro-batches."""
        while self._news:
            news = self._news.popleft()
            if isinstance(news, ChunksDropped):
                self.drop(news.candidate_ids)
            elif self._streaming:
                self._join(news)

    def score_ahead(self, go_on: Callable[[], bool]) -> bool:
        """Score what has arrived in chunks, batch by batch; return whether `go_on` said no while something was left."""
        self.take_news()
        while (job := self._next_job()) is not None:
            if not go_on():
                return True
            policy, responses = job
            policy.extend(responses)
            self._sums.cache_bytes = max(self._sums.cache_bytes, self.cache_bytes)
            self.take_news()
        return False

    def drop(self, candidate_ids: Iterable[int]) -> None:
        """Forget responses and free their caches."""
        for candidate in candidate_ids:
            self._streams.forget(candidate)
            for policy in self._policies:
                policy.drop(candidate)

    @property
    def cache_bytes(self) -> int:
        """Keys and values kept by all policies together."""
        return sum(policy.nbytes for policy in self._policies)

    def _join(self, chunk: TrajectoryChunk) -> None:
        self._sums.chunk_tokens += chunk.response_tokens.size
        if not self._streams.add(chunk):
            self._broken(chunk.candidate_id, f"a chunk from token {chunk.start} does not join")
            self.drop([chunk.candidate_id])

    def _next_job(self) -> tuple[FrozenPolicy, list[StreamedResponse]] | None:
        """The oldest response that lacks something, and others that fit into its batch. Room for it is made."""
        for policy in self._policies:
            batch: list[StreamedResponse] = []
            width = needed = 0
            for response in list(self._streams):
                missing = policy.missing_tokens(response)
                if not response.cached or missing < 1:
                    continue
                wider = max(width, response.tokens.size)
                if batch and wider * (len(batch) + 1) > self._batch_tokens:
                    break
                more = policy.missing_bytes(response)
                if self._make_room(needed + more, response):
                    batch.append(response)
                    width, needed = wider, needed + more
            if batch:
                return policy, batch
        return None

    def _make_room(self, num_bytes: int, response: StreamedResponse) -> bool:
        """Free caches of newer responses until so many bytes fit; without any, this one's are freed: False."""
        while self.cache_bytes + num_bytes > self._limit:
            newer = [r for r in self._streams if r.order > response.order and self._has_cache(r)]
            victim = max(newer, key=lambda r: r.order, default=response)
            victim.cached = False
            self._sums.uncached += 1
            for policy in self._policies:
                policy.drop(victim.candidate_id)
            if victim is response:
                return False
        return True

    def _has_cache(self, response: StreamedResponse) -> bool:
        return any(policy.has_cache(response.candidate_id) for policy in self._policies)

    # --- whole groups -----------------------------------------------------------------------------------------------

    def fill(self, groups: Sequence[TrainGroup], rows: Sequence[Row], go_on: Callable[[], bool]) -> None:
        """Give the rows of these groups their reference and proximal log-probs; free everything kept of the groups.

        Where `go_on` says no the rest is left unscored: the step is being abandoned.
        """
        if not self._policies:
            return
        self.take_news()
        for row in rows:
            streamed = self._streams.forget(row.candidate_id)
            if streamed is not None and not streamed.begins(row.prompt, row.response):
                self._broken(row.candidate_id, "its chunks are not the beginning of its response")
                self.drop([row.candidate_id])
        for policy in self._policies:
            logprobs, num_ready = policy.score(rows, go_on)
            self._sums.ready_tokens += num_ready
            self._sums.tokens += sum(row.response.size for row in rows)
            for row, values in zip(rows, logprobs, strict=True):
                if policy is self.reference:
                    row.reference_logprobs = values
                else:
                    row.proximal_logprobs = values
        self.drop(candidate for group in groups for candidate in group.candidate_ids)
        now_s = clock.now_s()
        waits = [now_s - self._arrived_s.pop(g.group_id) for g in groups if g.group_id in self._arrived_s]
        self._sums.ready_s += sum(waits)
        self._sums.groups += len(waits)

    def refresh(self, policy: Any) -> None:
        """The policy has new weights, and a step begins: the proximal policy becomes what it is now."""
        if self.proximal is not None:
            self.proximal.copy_weights(policy)

    def take_metrics(self) -> dict[str, float]:
        """Metrics since the last call, by name; nothing without frozen policies."""
        sums, self._sums = self._sums, _Sums()
        if not self._policies:
            return {}
        values = {"learner/cached_share": sums.ready_tokens / max(sums.tokens, 1)}
        if sums.groups:
            values["learner/score_ready_ms"] = 1e3 * sums.ready_s / sums.groups
        if self._streaming:
            values |= {
                "learner/chunk_tokens": float(sums.chunk_tokens),
                "learner/cache_mib": sums.cache_bytes / 2**20,
                "learner/uncached_responses": float(sums.uncached),
                "learner/broken_streams": float(sums.broken),
            }
        return values

    def _broken(self, candidate: int, what: str) -> None:
        self._sums.broken += 1
        if self._sums.broken == 1:
            _log.warning("candidate %d (group %d): %s; it is scored as a whole", candidate, group_of(candidate), what)


class _Sums:
    """What adds up between two reports."""

    def __init__(self) -> None:
        self.chunk_tokens = 0
        self.cache_bytes = 0
        """Most at any time."""
        self.uncached = 0
        self.broken = 0
        self.tokens = 0
        """Log-probs that rows were given, over the policies."""
        self.ready_tokens = 0
        """Of these, known before the group was here."""
        self.ready_s = 0.0
        self.groups = 0


def _without_adapter(policy: Any, autocast: Autocast) -> Autocast:
    from darts_async.engines.lora import without_adapter  # noqa: PLC0415 - peft, where there is an adapter

    @contextlib.contextmanager
    def both() -> Iterator[None]:
        with without_adapter(policy), autocast():
            yield

    return both


def _load_reference(config: Config) -> Any:
    folder = Path(config.learner.reference) if config.learner.reference else model_folder(config)
    model = load_model(folder, config)
    ours = _vocabulary(model_folder(config))
    if ours is not None and model.config.vocab_size != ours:
        raise ConfigError(
            "learner.reference",
            config.learner.reference,
            f"has {model.config.vocab_size} tokens in its vocabulary, the policy has {ours}",
            "Choose a reference policy with the policy's tokenizer.",
        )
    return model


def _vocabulary(folder: Path) -> int | None:
    from transformers import AutoConfig  # noqa: PLC0415 - only where there is a reference

    size: int | None = getattr(AutoConfig.from_pretrained(folder, local_files_only=True), "vocab_size", None)
    return size
