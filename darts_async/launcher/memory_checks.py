"""What `doctor` reckons of memory before anything is loaded.

Estimates say what they add up: weights, optimiser, cache and processes; not activations, which follow from
`learner.micro_batch_tokens` and the model's depth.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from darts_async.config.paths import model_folder
from darts_async.launcher.model_checks import published_bytes
from darts_async.runtime.job_events import Check

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = ["available_bytes", "check_kv_cache", "check_memory", "kv_cache_bytes_per_token"]

_PROCESS_BYTES: Final = {"vllm": 2400 << 20, "sim": 200 << 20, "learner": 700 << 20, "other": 150 << 20}
"""Resident size of a process that has loaded its libraries and nothing else (vLLM's CPU build: front end and engine
core together; November 2026, rounded up)."""


def check_memory(config: Config, weight_bytes: int, available: int | None) -> Check:
    """Whether a run fits into the machine's memory. weight_bytes: in `model.dtype`. available: None if unknown.

    Learner: weights, gradient sums, float32 masters (of bfloat16 weights) and the two moments of AdamW, or with an
    adapter the weights alone, the adapter's left out; a frozen reference where there is one (with an adapter it takes
    nothing, unless it is another folder's or the policy lies in shards). Engine on a CPU: weights and the KV cache it
    is given. On a GPU both keep but the weights here, while they load. Three published versions lie in shared memory,
    which is memory too.
    """
    name = "memory"
    per_weight = 4 if config.model.dtype == "float32" else 2
    on_gpu = _has_gpu()
    settings = config.learner
    learner_bytes = weight_bytes * (4 * 4 if per_weight == 4 else 2 + 2 + 4 * 4) // per_weight
    if settings.lora_rank:
        learner_bytes = weight_bytes
    sharded = settings.processes > 1 and settings.sharding == "fsdp2"
    shares = settings.lora_rank > 0 and not settings.reference and not sharded
    learner_bytes += weight_bytes * ((settings.kl_weight > 0 and not shares) + (settings.updates_per_step > 1))
    replicas = config.generator.replicas
    parts = {
        "learner": config.learner.processes * ((weight_bytes if on_gpu else learner_bytes) + _PROCESS_BYTES["learner"]),
        "engine": replicas * _PROCESS_BYTES[config.generator.engine],
        "published weights": 3 * published_bytes(config, weight_bytes),
        "other processes": (2 + config.reward.workers) * _PROCESS_BYTES["other"],
    }
    if config.generator.engine == "vllm":
        cache_bytes = 0 if on_gpu else config.generator.cpu_kvcache_gib << 30
        parts["engine"] += replicas * (weight_bytes + cache_bytes)
    needed = sum(parts.values())
    text = (
        f"about {needed / 2**30:.1f} GiB needed (" + ", ".join(f"{k} {v / 2**30:.1f}" for k, v in parts.items()) + ")"
    )
    if available is None:
        return Check(name, "warn", f"{text}; how much is free is not known", "Compare by hand.")
    text += f", {available / 2**30:.1f} GiB available"
    if needed > available:
        remedy = "Lower generator.cpu_kvcache_gib or generator.replicas, take a smaller model, or free memory."
        return Check(name, "fail", text, remedy)
    if needed > 0.8 * available:
        return Check(name, "warn", text, "Tight: activations and the page cache come on top.")
    return Check(name, "pass", text)


def kv_cache_bytes_per_token(folder: Path) -> int | None:
    """Bytes of keys and values of one token in two-byte numbers, from config.json; None where it does not say."""
    try:
        model: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        model = model.get("text_config", model)
        heads = int(model.get("num_key_value_heads") or model["num_attention_heads"])
        width = int(model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"])
        return 2 * 2 * heads * width * int(model["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def check_kv_cache(config: Config) -> Check:
    """How many responses of full length the cache of an engine on a CPU holds at once."""
    name = "KV cache"
    per_token = kv_cache_bytes_per_token(model_folder(config))
    if per_token is None or _has_gpu():
        return Check(name, "pass", "sized by vLLM (gpu_memory_utilization)" if per_token else "model not understood")
    per_token *= 2 if config.model.dtype == "float32" else 1
    tokens = (config.generator.cpu_kvcache_gib << 30) // per_token
    longest = config.model.max_prompt_tokens + config.model.max_response_tokens
    text = (
        f"{tokens:,} tokens in {config.generator.cpu_kvcache_gib} GiB: {tokens // longest} candidates of full length "
        f"({longest}), generator.max_num_seqs = {config.generator.max_num_seqs}"
    )
    if tokens < longest:
        return Check(name, "fail", text, "Not one candidate fits: raise generator.cpu_kvcache_gib.")
    if 4 * tokens < longest * config.generator.max_num_seqs:
        return Check(name, "warn", text, "Candidates will be preempted: raise generator.cpu_kvcache_gib.")
    return Check(name, "pass", text)


def available_bytes() -> int | None:
    """Memory that can be had without swapping: the machine's, or what the control group leaves of its limit."""
    amounts = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        amounts += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((group / "memory.max").read_text("ascii"))
        amounts.append(max(limit - int((group / "memory.current").read_text("ascii")), 0))
    return min(amounts, default=None)


def _has_gpu() -> bool:
    """Whether the NVIDIA driver is loaded (torch, which would know, is not imported here)."""
    return Path("/proc/driver/nvidia/version").exists()
