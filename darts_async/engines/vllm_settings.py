"""How a run's config becomes vLLM's settings: environment variables, engine arguments, sampling parameters.

Environment first: it has to be set before vLLM (and torch's OpenMP) is imported, in the process that starts the
engine; the engine's own process inherits it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from darts_async.algorithms.seeding import stable_hash
from darts_async.config import Config
from darts_async.config.paths import model_folder
from darts_async.engines.process import DIE_WITH_PARENT
from darts_async.engines.vllm_plugin import PLUGIN, SHARED_FILE
from darts_async.errors import RolloutError
from darts_async.messages import RolloutRequest

_CPU_BATCHED_TOKENS: Final = 4096
"""Prompt tokens of one engine step on a CPU: vLLM's own default there."""
_SEED_MASK: Final = (1 << 63) - 1  # what a torch generator and a signed 64-bit field take
_PARALLEL: Final = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def environment(config: Config) -> dict[str, str]:
    """Return the variables an engine process needs.

    Threads of the CPU build: its own binding (`VLLM_CPU_OMP_THREADS_BIND=auto`) pins each engine to the same cores and
    takes all but one, so it is off and `OMP_NUM_THREADS` decides. Threads that wait have to sleep: two that spin, on
    two cores with other work, fell from 3,500 to 300 tokens per second; two that sleep stayed at 2,500 (one alone
    makes 3,900 there, so one is the default).

    `VLLM_ENABLE_V1_MULTIPROCESSING=0` does not put the engine into this process (the asynchronous front end always has
    a child); it only keeps the CPU build from replacing the `uni` executor by one with a further process, whose
    scheduler spins on a whole core while it waits for the worker: on 2 cores that costs a quarter of the tokens per
    second, and half a core when idle. (Measured on 0.32.0, November 2026.)
    """
    generator = config.generator
    chosen = os.environ.get("VLLM_PLUGINS")
    plugins = [*chosen.split(","), PLUGIN] if chosen is not None and PLUGIN not in chosen.split(",") else [chosen]
    values = {
        DIE_WITH_PARENT: "1",
        "OMP_NUM_THREADS": str(generator.cpu_threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_CPU_KVCACHE_SPACE": str(generator.cpu_kvcache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_LOGGING_COLOR": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if chosen is not None:
        values["VLLM_PLUGINS"] = ",".join(name for name in plugins if name)
    if not _parallel(config):
        values["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return values


def engine_arguments(config: Config, *, on_cpu: bool) -> dict[str, Any]:
    """Return the keyword arguments of `AsyncEngineArgs`; `generator.engine_args` has the last word."""
    folder = str(model_folder(config))
    arguments: dict[str, Any] = {
        "model": folder,
        "tokenizer": folder,
        "dtype": config.model.dtype,
        "max_model_len": config.model.max_prompt_tokens + config.model.max_response_tokens,
        "max_num_seqs": config.generator.max_num_seqs,
        "stream_interval": config.generator.stream_interval,
        "seed": config.run.seed,
        "logprobs_mode": "processed_logprobs",  # what the learner computes: after temperature
        "disable_log_stats": True,
        "enforce_eager": on_cpu,  # compiling takes minutes there and gains nothing for small models
        "weight_transfer_config": {"backend": SHARED_FILE},
    }
    if on_cpu:
        # A prompt that is prefilled in parts kills the engine there: vLLM rewinds the seeded generator of the request
        # whose sample it throws away, and a CPU generator has no offset to rewind. So every prompt fits into one step.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(_CPU_BATCHED_TOKENS, arguments["max_model_len"])
    if not _parallel(config):
        arguments["distributed_executor_backend"] = "uni"
    return arguments | config.generator.engine_args


def continuation(request: RolloutRequest, prefix: Sequence[int]) -> RolloutRequest:
    """Return the request that goes on after `prefix`: it is part of the prompt, the cap is what is left of it, and the
    seed is another one, so that the random numbers of the first part are not drawn again. Raises `RolloutError` when
    nothing is left.
    """
    if not prefix:
        return request
    left = request.max_response_tokens - len(prefix)
    if left < 1:
        raise RolloutError(f"{len(prefix)} of at most {request.max_response_tokens} tokens are there: nothing is left")
    prompt = np.concatenate((request.prompt_tokens, np.asarray(prefix, np.int32)))
    return msgspec.structs.replace(
        request,
        prompt_tokens=prompt,
        max_response_tokens=left,
        seed=stable_hash("continue", request.seed, len(prefix)),
    )


def sampling_arguments(config: Config, request: RolloutRequest) -> dict[str, Any]:
    """Return the keyword arguments of `SamplingParams` for one candidate, `output_kind` left to the caller.

    EOS ends a response and is its last token; the model folder's `generation_config.json` names the EOS ids.
    """
    sampling = config.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": request.seed & _SEED_MASK,
        "max_tokens": request.max_response_tokens,
        "logprobs": 0,  # the sampled token's alone
        "flat_logprobs": True,  # lists of numbers instead of an object per token
        "detokenize": False,
        "skip_special_tokens": False,
    }


def _parallel(config: Config) -> bool:
    """Whether the engine is asked to span several workers (then vLLM chooses how to run them)."""
    return any(config.generator.engine_args.get(key, 1) != 1 for key in _PARALLEL)
