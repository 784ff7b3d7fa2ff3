"""Gradient checkpointing: keep only each layer's input for the backward pass and compute the rest again there.

transformers checkpoints in training mode only, where dropout would act; log-probs must be those of the engine. So the
mode is switched on for the layers' own flag alone: what is inside them stays in evaluation mode.
"""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from darts_async.errors import ConfigError

__all__ = ["checkpoint_activations"]


def checkpoint_activations(model: Any) -> None:
    """Turn it on for all decoder layers, for the life of the model (`model.eval()` turns it off again).

    Raises `ConfigError` for a model that transformers cannot checkpoint layer by layer.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not model.supports_gradient_checkpointing or not layers:
        raise ConfigError(
            "learner.gradient_checkpointing",
            True,
            f"{type(model).__name__} does not support it in transformers",
            "set it to false, and lower learner.micro_batch_tokens to save memory",
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in layers:
        layer.training = True
        for name, value in vars(layer).items():
            if name.endswith("dropout") and isinstance(value, float):  # a probability that the layer itself applies
                setattr(layer, name, 0.0)
