"""A user's own loss: loaded once by its import path, and held to the contract at every call.

The contract is `function(tokens, reference, settings)`, with the types of `loss_tokens`, `loss_terms` and the config's
[learner] section. It returns `LossTerms`, or the losses [T] alone where nothing is clipped. Losses are per token, with
gradient with respect to `tokens.policy`, neither averaged nor multiplied by `reference.weights` (the objective does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from darts_async.config.import_path import call_failed, load_function
from darts_async.engines.loss_terms import Loss, LossTerms
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_terms import Reference
    from darts_async.engines.loss_tokens import LossTokens


def load_loss(key: str, value: str) -> Loss:
    """Import a loss by its path. Raises `ConfigError`; so does the loss, when it fails or breaks the contract."""
    function = load_function(key, value, ("tokens", "reference", "settings"))

    def loss(tokens: LossTokens, reference: Reference, settings: LearnerSection) -> LossTerms:
        try:
            found = function(tokens, reference, settings)
        except Exception as error:
            raise call_failed(key, value, error) from error
        if isinstance(found, torch.Tensor):
            found = LossTerms(found, torch.zeros_like(tokens.policy, dtype=torch.bool))
        return _checked(key, value, found, tokens)

    return loss


def _checked(key: str, value: str, found: Any, tokens: LossTokens) -> LossTerms:
    size = tokens.policy.shape
    fix = "Return LossTerms(losses, clipped), or losses alone: one number a token, not summed or averaged."
    if not isinstance(found, LossTerms):
        raise ConfigError(key, value, f"must return LossTerms or a tensor, not {type(found).__name__}", fix)
    parts: tuple[tuple[str, Any], ...] = (("losses", found.losses), ("clipped", found.clipped))
    for name, tensor in parts:
        if not isinstance(tensor, torch.Tensor) or tensor.shape != size:
            shape = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ConfigError(key, value, f"must return `{name}` of shape {list(size)} (tokens), not {shape}", fix)
    if found.clipped.dtype != torch.bool:
        raise ConfigError(key, value, f"must return `clipped` of type bool, not {found.clipped.dtype}", fix)
    if tokens.policy.requires_grad and not found.losses.requires_grad:
        raise ConfigError(
            key,
            value,
            "returns losses without a gradient: nothing would be learned",
            "Compute them from tokens.policy.",
        )
    return found
