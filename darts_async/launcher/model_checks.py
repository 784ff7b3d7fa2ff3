"""What can be known of a run's models from their folders' text and headers: no torch, no tensor data.

Each breach is a `ConfigError` that names the key and says what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from darts_async.config.frozen import needs_reference
from darts_async.config.paths import model_folder
from darts_async.engines.lora_file import adapter_bytes, targeted
from darts_async.engines.restart_points import FOLDER as STATE_FOLDER
from darts_async.engines.restart_points import HEADER as STATE_HEADER
from darts_async.engines.weights_file import model_shapes, num_weights
from darts_async.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = [
    "check_adapter_targets",
    "check_init_optimiser",
    "check_model",
    "check_positions",
    "check_reference",
    "policy_text",
    "published_bytes",
]

_WEIGHT_BYTES: Final = {"float32": 4, "bfloat16": 2}


def check_model(config: Config) -> int:
    """The model folder is complete. Return the size of the weights in `model.dtype`, in bytes. Raises `ConfigError`."""
    folder = model_folder(config)
    if not folder.is_dir():
        raise ConfigError(
            "model.path", config.model.path, "no such folder", "Give a folder in Hugging Face format, or `quickstart`."
        )
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(
            "model.path",
            config.model.path,
            "the folder holds an adapter, not a model",
            "Give the checkpoint's folder around it, which holds the merged model; an adapter of another tool has to "
            "be merged first (peft: `merge_and_unload`, then `save_pretrained`).",
        )
    absent = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    rule, num = "", 0
    try:
        num = num_weights(folder)
    except ProtocolError as error:
        if any(folder.glob("*.safetensors")):
            rule = str(error)
        else:
            absent.append("*.safetensors")
    if absent or rule:
        raise ConfigError(
            "model.path",
            config.model.path,
            rule or f"the folder lacks {', '.join(absent)}",
            "Save the model and its tokenizer with `save_pretrained` (safetensors format).",
        )
    return num * _WEIGHT_BYTES[config.model.dtype]


def check_positions(config: Config) -> None:
    """The model has positions for the longest prompt with the longest response. Raises `ConfigError`."""
    folder = model_folder(config)
    try:
        settings = json.loads((folder / "config.json").read_text("utf-8"))
        # Models with several parts keep their language model's settings there.
        text = settings.get("text_config") or {}
        limit = settings.get("max_position_embeddings", text.get("max_position_embeddings"))
    except (OSError, ValueError, AttributeError) as error:
        rule = f"config.json cannot be read ({error})"
        raise ConfigError("model.path", config.model.path, rule, "Mend the file.") from None
    total = config.model.max_prompt_tokens + config.model.max_response_tokens
    if isinstance(limit, int) and total > limit:
        raise ConfigError(
            "model.max_response_tokens",
            config.model.max_response_tokens,
            f"prompt and response together ({total} tokens) exceed the model's {limit} positions",
            f"Set it to at most {limit - config.model.max_prompt_tokens}.",
        )


def published_bytes(config: Config, weight_bytes: int) -> int:
    """Size of one published version: of the weights, or about that of their adapter."""
    if not config.learner.lora_rank:
        return weight_bytes
    return adapter_bytes(model_shapes(model_folder(config)), config)


def check_reference(config: Config) -> None:
    """The reference policy, where there is one of its own, has the policy's vocabulary. Raises `ConfigError`."""
    given = config.learner.reference
    if not given or not needs_reference(config):
        return
    folder = Path(given)
    sizes = []
    for path in (folder / "config.json", model_folder(config) / "config.json"):
        try:
            sizes.append(json.loads(path.read_text("utf-8")).get("vocab_size"))
        except (OSError, ValueError, AttributeError) as error:
            rule = f"{path} cannot be read ({error})"
            raise ConfigError("learner.reference", given, rule, "Give a folder in Hugging Face format.") from None
    if not any(folder.glob("*.safetensors")):
        fix = "Save the model with `save_pretrained` (safetensors format)."
        raise ConfigError("learner.reference", given, "the folder lacks *.safetensors", fix)
    if sizes[0] != sizes[1]:
        raise ConfigError(
            "learner.reference",
            given,
            f"has {sizes[0]} tokens in its vocabulary, the policy has {sizes[1]}",
            "Choose a reference policy with the policy's tokenizer.",
        )


def check_adapter_targets(config: Config) -> None:
    """The layers that get an adapter are in the model folder. Raises `ConfigError`."""
    targets = config.learner.lora_targets
    if not config.learner.lora_rank:
        return
    shapes = model_shapes(model_folder(config))
    known = sorted({name.split(".")[-2] for name in targeted(shapes, "all-linear")})
    for target in [targets] if isinstance(targets, str) else targets:
        if not targeted(shapes, target):
            raise ConfigError(
                "learner.lora_targets",
                targets,
                f"{model_folder(config)} has no layer `{target}` with a matrix of its own",
                f'It has {", ".join(known)}. Or write "all-linear".',
            )


def check_init_optimiser(config: Config) -> None:
    """The optimiser's state that training begins with is there. Raises `ConfigError`."""
    folder = model_folder(config)
    if config.learner.init_optimiser and not (folder / STATE_FOLDER / STATE_HEADER).is_file():
        raise ConfigError(
            "learner.init_optimiser",
            True,
            f"{folder} has no {STATE_FOLDER}/{STATE_HEADER}: it is no checkpoint, or was written without one",
            "Set it to false, or model.path to a checkpoint of a run with checkpoint.optimiser.",
        )


def policy_text(config: Config, weight_bytes: int) -> str:
    """The policy, and what of it is trained, in a line."""
    text = f"{model_folder(config)} ({weight_bytes / 1e6:.1f} MB of weights in {config.model.dtype}"
    if config.learner.lora_rank:
        size = published_bytes(config, weight_bytes)
        text += f"; an adapter of rank {config.learner.lora_rank} is trained, {size / 1e6:.2f} MB an update"
    return f"{text})"
