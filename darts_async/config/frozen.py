"""Which frozen policies a config needs beside the policy under training, and whether tokens are streamed to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darts_async.config.schema import Config

__all__ = ["needs_proximal", "needs_reference", "streams_tokens"]


def needs_reference(config: Config) -> bool:
    """Whether the loss has a KL divergence to a reference policy."""
    return config.learner.kl_weight > 0


def needs_proximal(config: Config) -> bool:
    """Whether the policy at the step's start differs from the policy: only after the first of several updates."""
    return config.learner.updates_per_step > 1


def streams_tokens(config: Config) -> bool:
    """Whether chunks of unfinished responses go to the learner: asked for, and somebody there to score them."""
    return config.queues.chunk_tokens > 0 and (needs_reference(config) or needs_proximal(config))
