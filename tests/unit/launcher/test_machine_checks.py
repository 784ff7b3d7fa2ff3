"""Versions, memory and sockets of machines that are handed in, and what `doctor --no-engine` makes of a real one."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.launcher import memory_checks
from darts_async.launcher.machine_checks import check_versions, machine_checks
from darts_async.launcher.memory_checks import (
    available_bytes,
    check_kv_cache,
    check_memory,
    kv_cache_bytes_per_token,
)

GIB = 1 << 30


def _versions(**found: str | None) -> dict[str, str | None]:
    return {"torch": "2.13.0+cpu", "vllm": "0.32.0", "transformers": "5.19.0", "accelerate": "1.15.0"} | found


def _checked(plugins: list[str], **found: str | None) -> list[tuple[str, str]]:
    checks = check_versions(needs_vllm=True, installed=_versions(**found).get, plugins=plugins)
    return [(check.status, check.remedy) for check in checks]


def test_versions_and_the_plugin():
    ours = "darts_async.engines.vllm_plugin:register"
    assert _checked(["other.plugin:register", ours]) == [("pass", ""), ("pass", "")]
    (missing, _), (plugin, remedy) = (_checked([], torch=None)[0], _checked(["other:x"])[1])
    assert (missing, plugin) == ("fail", "fail") and "pip install -e ." in remedy
    assert _checked([ours], vllm="0.33.1")[0] == ("warn", "Tested with vllm 0.32.x: install these, or look twice.")
    assert _checked([ours], transformers="50.0")[0][0] == "warn"  # 5.x is not 50


def test_memory_adds_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory_checks, "_has_gpu", lambda: False)
    config = Config.model_validate({"generator": {"cpu_kvcache_gib": 4, "replicas": 2}, "learner": {"kl_weight": 0.1}})
    # 1 GiB of float32: learner 4 + 1 frozen, two engines 1 + 4 each, three versions 3; the processes come on top.
    bare = 5 + 10 + 3
    processes = (700 + 2 * 2400 + 3 * 150) / 1024
    needed = bare + processes
    assert f"about {needed:.1f} GiB needed" in check_memory(config, GIB, 100 * GIB).measured
    assert check_memory(config, GIB, int((needed + 0.01) / 0.8 * GIB)).status == "pass"
    assert check_memory(config, GIB, int((needed + 0.01) * GIB)).status == "warn"
    assert check_memory(config, GIB, int((needed - 0.01) * GIB)).status == "fail"
    assert check_memory(config, GIB, None).status == "warn"
    # bfloat16: 2 + 2 (weights, gradients) and 4 x 4 (masters, sums, moments) bytes for each two bytes of the file.
    half = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    assert f"about {needed + 10 - 4:.1f} GiB needed" in check_memory(half, GIB, 100 * GIB).measured


def test_this_machine_has_memory():
    assert (available_bytes() or 0) > 1 << 20


def test_kv_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(memory_checks, "_has_gpu", lambda: False)
    # keys and values, 3 heads of 32, 3 layers, two bytes
    assert kv_cache_bytes_per_token(QUICKSTART_POLICY) == 2 * 3 * 32 * 3 * 2
    assert kv_cache_bytes_per_token(tmp_path) is None
    assert check_kv_cache(Config()).status == "pass"
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "policy"))
    document = json.loads((folder / "config.json").read_text())
    # 4,800 layers: 3,686,400 bytes a token in float32, so 1 GiB holds 291 tokens.
    (folder / "config.json").write_text(json.dumps(document | {"num_hidden_layers": 4800}))

    def status(response: int, seqs: int) -> str:
        model = {"path": str(folder), "max_prompt_tokens": 64, "max_response_tokens": response}
        return check_kv_cache(Config.model_validate({"model": model, "generator": {"max_num_seqs": seqs}})).status

    assert status(227, 4) == "pass"
    assert status(228, 4) == "fail"
    assert status(227, 5) == "warn"


def test_a_port_that_is_taken_is_a_row_and_not_an_error(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if not 1024 <= port <= 65_000:
            pytest.skip("the kernel gave a port that no config can have")
        config = Config.model_validate(
            {"run": {"dir": str(tmp_path), "name": "one"}, "launch": {"bind": f"tcp://127.0.0.1:{port}"}}
        )
        checks = {check.name: check for check in machine_checks(config, 1 << 20, engine=False)}
    assert checks["sockets"].status == "fail" and f"port {port}" in checks["sockets"].measured
    assert checks["run folder"].status == "pass"
    assert "vLLM plugin" not in checks


def _doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darts_async.cli", "doctor", "--no-engine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_doctor_without_an_engine(tmp_path: Path):
    good = _doctor("--run.dir", str(tmp_path))
    assert good.returncode == 0, good.stdout + good.stderr
    assert "0 failed" in good.stdout and "left out (--no-engine)" in good.stdout
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "policy"))
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    wrong = _doctor("--model.path", str(folder), "--run.dir", str(tmp_path))
    assert wrong.returncode == 1 and "1 failed" in wrong.stdout and "different ends" in wrong.stdout
    no_model = _doctor("--model.path", str(tmp_path / "none"))
    assert no_model.returncode == 2 and "no such folder" in no_model.stderr and "Traceback" not in no_model.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
