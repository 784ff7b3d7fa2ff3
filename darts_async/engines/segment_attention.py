"""Attention in a row that holds several responses one after the other: each attends within itself alone.

transformers can block attention between them with a mask of row x row, whose cost grows with the square of the row.
Here scaled-dot-product attention runs response by response (on a GPU in half precision: in one variable-length call),
at the cost of the responses alone. Registered with transformers' attention interface under `NAME`; a forward pass that
names no segments gets exactly what `sdpa` gives, masks and KV caches included.

The lengths travel twice: as an argument to the layers, which keep it for the recomputation of gradient checkpointing,
and in a context variable around the forward pass, which tells transformers to make no mask.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

__all__ = ["NAME", "segments_known", "use_segment_attention"]

NAME = "darts_segments"


def _find_varlen() -> Callable[..., torch.Tensor] | None:
    """torch's variable-length attention, where this torch has it with the arguments that are needed here."""
    try:
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    known = inspect.signature(function).parameters
    return function if "window_size" in known and "enable_gqa" in known else None


_varlen = _find_varlen()
_packed: contextvars.ContextVar[bool] = contextvars.ContextVar("darts_segments_packed", default=False)


def use_segment_attention(model: Any) -> bool:
    """Switch a model from `sdpa` to this; return whether it is in use. Other choices of the user's are left alone."""
    if model.config._attn_implementation != "sdpa":  # noqa: SLF001 - no public name
        return bool(model.config._attn_implementation == NAME)  # noqa: SLF001
    transformers.AttentionInterface.register(NAME, segment_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)  # noqa: SLF001


@contextlib.contextmanager
def segments_known() -> Iterator[None]:
    """Around a decoder call that is given `segments`: no mask is made."""
    token = _packed.set(True)
    try:
        yield
    finally:
        _packed.reset(token)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return None if _packed.get() else sdpa_mask(*args, **kwargs)


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Sequence[int] | None = None,
    sliding_window: int | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function of transformers: [1, heads, W, d] in, [1, W, heads, d] out. `segments` sum to W."""
    attend: Callable[..., tuple[torch.Tensor, None]] = sdpa_attention_forward
    if segments is None:
        return attend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if _varlen is not None and query.is_cuda:
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
        if dtype in {torch.bfloat16, torch.float16}:
            q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
            return _in_one_call(_varlen, q, k, v, segments, sliding_window, scaling).unsqueeze(0), None
    outputs = []
    parts = (torch.split(tensor, list(segments), dim=2) for tensor in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        mask = _band(q.shape[2], sliding_window, q.device)
        outputs.append(attend(module, q, k, v, mask, scaling=scaling, is_causal=mask is None, **kwargs)[0])
    return torch.cat(outputs, dim=1), None


def _band(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """bool [1, 1, length, length]: causal and within the sliding window; None where causal says it all."""
    if window is None or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(diagonal=1 - window)[None, None]


def _in_one_call(
    attend: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Sequence[int],
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Half precision on a GPU. [W, heads, d] -> [W, heads, d]"""
    bounds = torch.tensor([0, *itertools.accumulate(segments)], dtype=torch.int32, device=query.device)
    return attend(
        query,
        key,
        value,
        bounds,
        bounds,
        max(segments),
        max(segments),
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
