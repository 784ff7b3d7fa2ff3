"""Whether a model's logits are its output layer applied to its decoder's hidden states, and nothing more.

Some families do more: Gemma caps the logits softly, Cohere and Granite scale them, MiniCPM scales the hidden states.
Fused log-probs would silently be those of another model there, so this is measured, not read from a list of names.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["decoder_of", "is_plain"]

_LARGE = 1e4
"""What the largest logit is blown up to, so that a cap of any size in use shows in any dtype."""


def decoder_of(model: Any) -> Any:
    """Return the part of a causal language model that makes hidden states; the model itself if it has no such part."""
    decoder = getattr(model, "get_decoder", lambda: model)()
    return model if decoder is None else decoder


@torch.no_grad()
def is_plain(model: Any) -> bool:
    """Run the model on four tokens, its output layer's result blown up, and compare at both ends of that layer.

    Needs real weights on one device: call it before the model is wrapped or sharded.
    """
    head, decoder = model.get_output_embeddings(), decoder_of(model)
    if type(head) is not torch.nn.Linear or decoder is model:
        return False
    seen: list[torch.Tensor] = []

    def blow_up(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        large = output * (_LARGE / output.abs().max().clamp(min=1e-6))
        seen.extend((inputs[0], large))
        return large

    ids = torch.arange(4, device=head.weight.device).unsqueeze(0) % head.weight.shape[0]
    hook = head.register_forward_hook(blow_up)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    return len(seen) == 2 and _same(hidden, seen[0]) and _same(logits, seen[1])


def _same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    return mine.shape == theirs.shape and torch.allclose(mine.float(), theirs.float(), rtol=1e-3, atol=1e-3)
