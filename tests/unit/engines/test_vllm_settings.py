"""How the config becomes vLLM's settings; nothing here imports vLLM."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.engines.process import DIE_WITH_PARENT
from darts_async.engines.vllm_settings import continuation, engine_arguments, environment, sampling_arguments
from darts_async.errors import RolloutError
from darts_async.messages import RolloutRequest


def configured(**generator: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"seed": 5},
            "model": {"max_prompt_tokens": 30, "max_response_tokens": 70, "dtype": "bfloat16"},
            "sampling": {"temperature": 0.7},
            "generator": generator,
        }
    )


def test_threads_and_memory_come_from_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    values = environment(configured(cpu_threads=3, cpu_kvcache_gib=2))
    assert values["OMP_NUM_THREADS"] == "3"
    assert values["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert values["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert values["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert values[DIE_WITH_PARENT] == "1"
    assert "VLLM_PLUGINS" not in values


def test_a_list_of_plugins_that_is_set_gets_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in [("other", "other,darts_async"), ("", "darts_async"), ("darts_async,x", "darts_async,x")]:
        monkeypatch.setenv("VLLM_PLUGINS", given)
        assert environment(configured())["VLLM_PLUGINS"] == expected


def test_engine_arguments_have_the_last_word_and_several_workers_their_own_executor() -> None:
    plain = engine_arguments(configured(), on_cpu=True)
    assert (plain["max_model_len"], plain["dtype"], plain["seed"]) == (100, "bfloat16", 5)
    assert (plain["enforce_eager"], plain["distributed_executor_backend"]) == (True, "uni")
    assert plain["logprobs_mode"] == "processed_logprobs"
    two = configured(engine_args={"tensor_parallel_size": 2, "enforce_eager": True, "max_num_batched_tokens": 512})
    arguments = engine_arguments(two, on_cpu=False)
    assert "distributed_executor_backend" not in arguments
    assert (arguments["enforce_eager"], arguments["max_num_batched_tokens"]) == (True, 512)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment(two)


def test_sampling_has_full_support_and_a_seed_that_fits() -> None:
    request = RolloutRequest(
        candidate_id=1,
        prompt_tokens=np.asarray([1], np.int32),
        seed=(1 << 64) - 3,
        max_response_tokens=70,
        min_policy_version=0,
    )
    arguments = sampling_arguments(configured(), request)
    assert arguments["seed"] == (1 << 63) - 3
    assert (arguments["temperature"], arguments["top_p"], arguments["top_k"]) == (0.7, 1.0, -1)
    assert (arguments["max_tokens"], arguments["logprobs"]) == (70, 0)


def test_asking_for_an_engine_loads_neither_torch_nor_vllm() -> None:
    script = (
        "import sys\n"
        "from darts_async.config import Config\n"
        "from darts_async.engines import make_rollout_engine\n"
        "for name in ('sim', 'vllm'):\n"
        "    make_rollout_engine(Config.model_validate({'generator': {'engine': name}}), 0)\n"
        "print([name for name in ('torch', 'vllm', 'transformers', 'safetensors') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_continuation_is_the_longer_prompt_with_what_is_left_of_the_cap() -> None:
    request = RolloutRequest(
        candidate_id=7, prompt_tokens=np.array([3, 4], np.int32), seed=11, max_response_tokens=10, min_policy_version=0
    )
    assert continuation(request, []) is request
    longer = continuation(request, [8, 9, 8])
    assert (longer.prompt_tokens.tolist(), longer.max_response_tokens) == ([3, 4, 8, 9, 8], 7)
    assert longer.prompt_tokens.dtype == np.int32
    assert longer.candidate_id == 7
    seeds = {continuation(request, [8] * num).seed for num in range(10)}
    assert len(seeds) == 10  # each part draws numbers of its own
    assert continuation(request, [1, 2, 3]).seed == longer.seed
    with pytest.raises(RolloutError, match="nothing is left"):
        continuation(request, [8] * 10)
