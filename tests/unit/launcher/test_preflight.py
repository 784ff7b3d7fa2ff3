"""What is refused before anything starts, with the key it names; and that a refused run leaves nothing behind."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from darts_async.config import Config, load_config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.errors import ConfigError
from darts_async.launcher import model_checks, preflight


def _config(tmp_path: Path, *overrides: tuple[str, str]) -> Config:
    return load_config(None, [("run.dir", str(tmp_path / "runs")), ("run.name", "one"), *overrides])


def _refused(config: Config) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        preflight.check(config, None)
    return caught.value


def test_a_good_config_passes_and_makes_its_folder(tmp_path: Path):
    plan = preflight.check(_config(tmp_path), None)
    assert not plan.paths.root.exists()
    preflight.create_run_folder(plan)
    try:
        assert load_config(str(plan.paths.resolved_config)) == plan.config
        assert plan.paths.weights.is_dir()
        assert "64 to train on" in preflight.describe(plan)["prompts"]
    finally:
        shutil.rmtree(plan.paths.weights)


def test_name_comes_from_the_config_file(tmp_path: Path):
    config = load_config(None, [("run.dir", str(tmp_path))])
    assert preflight.check(config, "configs/mine.toml").config.run.name.startswith("mine-2")


def test_existing_name_is_refused(tmp_path: Path):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert _refused(_config(tmp_path)).key == "run.name"


def test_a_file_in_the_way_is_refused(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    assert _refused(_config(tmp_path)).key == "run.dir"


def test_folder_that_turns_unwritable_is_a_config_error(tmp_path: Path):
    plan = preflight.check(_config(tmp_path), None)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError) as caught:
        preflight.create_run_folder(plan)
    assert caught.value.key == "run.dir"


def test_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A full disk cannot be had here without mounting one; the number comes from the one call that asks for it.
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    error = _refused(_config(tmp_path))
    assert error.key == "run.dir"
    assert "MiB free" in error.rule


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_model_folder_that_lacks_a_file(tmp_path: Path, missing: str):
    folder = tmp_path / "model"
    shutil.copytree(QUICKSTART_POLICY, folder)
    (folder / missing).unlink()
    error = _refused(_config(tmp_path, ("model.path", str(folder))))
    assert error.key == "model.path"
    assert missing.removeprefix("model") in error.rule


def test_missing_model_folder(tmp_path: Path):
    assert _refused(_config(tmp_path, ("model.path", str(tmp_path / "none")))).key == "model.path"


def test_cap_beyond_the_models_positions(tmp_path: Path):
    positions = json.loads((QUICKSTART_POLICY / "config.json").read_text())["max_position_embeddings"]
    error = _refused(_config(tmp_path, ("model.max_response_tokens", str(positions))))
    assert error.key == "model.max_response_tokens"
    assert str(positions - 64) in error.fix


def test_prompts_too_long_are_skipped_and_an_error_when_all_are(tmp_path: Path):
    lengths = sorted(len(prompt.tokens) for prompt in preflight.check(_config(tmp_path), None).prompts.train)
    middle = lengths[len(lengths) // 2]
    prompts = preflight.check(_config(tmp_path, ("model.max_prompt_tokens", str(middle))), None).prompts
    assert 0 < len(prompts.train) < 64
    assert prompts.num_skipped > 0
    error = _refused(_config(tmp_path, ("model.max_prompt_tokens", str(lengths[0] - 1))))
    assert error.key == "model.max_prompt_tokens"
    assert str(lengths[-1]) in error.fix


def test_port_in_use(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first = min(port - 3, 65_000)
        error = _refused(_config(tmp_path, ("launch.bind", f"tcp://127.0.0.1:{first}")))
    assert error.key == "launch.bind"


def test_unknown_argument_of_the_simulated_engine(tmp_path: Path):
    overrides = [("generator.engine", "sim"), ("generator.engine_args.bogus", "3")]
    assert _refused(_config(tmp_path, *overrides)).key == "generator.engine_args"


def test_unknown_task(tmp_path: Path):
    assert _refused(_config(tmp_path, ("task.name", "nothing"))).key == "task.name"


def test_own_functions_are_looked_for_and_not_run(tmp_path: Path):
    absent = f"{tmp_path}/absent.py:f"
    for key in ("learner.loss", "learner.advantage"):
        error = _refused(_config(tmp_path, (key, absent)))
        assert (error.key, error.value) == (key, absent)
    assert _refused(_config(tmp_path, ("learner.shadow", f'[{{loss = "{absent}"}}]'))).key == "learner.shadow.0.loss"
    (tmp_path / "loud.py").write_text("raise RuntimeError('imported')\n")
    preflight.check(_config(tmp_path, ("learner.loss", f"{tmp_path}/loud.py:f")), None)


def test_a_reference_policy_has_to_be_there_and_share_the_vocabulary(tmp_path: Path):
    folder = tmp_path / "reference"
    given = [("learner.reference", str(folder)), ("learner.kl_weight", "0.1")]
    assert "cannot be read" in str(_refused(_config(tmp_path, *given)))
    preflight.check(_config(tmp_path, given[0]), None)  # not in use
    folder.mkdir()
    shutil.copy(QUICKSTART_POLICY / "config.json", folder)
    assert "lacks *.safetensors" in str(_refused(_config(tmp_path, *given)))
    shutil.copy(QUICKSTART_POLICY / "model.safetensors", folder)
    preflight.check(_config(tmp_path, *given), None)
    (folder / "config.json").write_text('{"vocab_size": 300}')
    error = _refused(_config(tmp_path, *given))
    assert error.key == "learner.reference" and "300 tokens in its vocabulary, the policy has 271" in str(error)


def test_an_adapters_folder_is_no_model_and_shards_have_to_be_complete(tmp_path: Path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    error = _refused(_config(tmp_path, ("model.path", str(adapter))))
    assert error.key == "model.path" and "holds an adapter" in error.rule and "folder around it" in error.fix
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "sharded"))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 1 file (model-2.safetensors)" in _refused(_config(tmp_path, ("model.path", str(folder)))).rule
    index["weight_map"]["b"] = "model-1.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = preflight.check(_config(tmp_path), None).weight_bytes
    assert preflight.check(_config(tmp_path, ("model.path", str(folder))), None).weight_bytes == whole
    half = _config(tmp_path, ("model.path", str(folder)), ("model.dtype", "bfloat16"))
    assert preflight.check(half, None).weight_bytes == whole // 2  # what they are in use, whatever the file has


def test_positions_of_a_model_with_several_parts(tmp_path: Path):
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "parts"))
    (folder / "config.json").write_text('{"text_config": {"max_position_embeddings": 100}}')
    error = _refused(_config(tmp_path, ("model.path", str(folder))))
    assert error.key == "model.max_response_tokens" and "100 positions" in error.rule


def test_a_folder_without_chat_template_and_what_to_do(tmp_path: Path):
    folder = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "base"))
    (folder / "chat_template.jinja").unlink()
    given = ("model.path", str(folder))
    error = _refused(_config(tmp_path, given))
    assert error.key == "model.path" and "no chat template" in error.rule and "model.chat_template" in error.fix
    plain = preflight.check(_config(tmp_path, given, ("model.chat_template", "plain")), None).prompts.train[0]
    templated = preflight.check(_config(tmp_path), None).prompts.train[0]
    assert plain.tokens.tolist() == templated.tokens.tolist()[1:-1]  # the two marks around the message
    assert _refused(_config(tmp_path, given, ("model.chat_template", "no.jinja"))).key == "model.chat_template"


def test_an_adapter_is_told_of_and_takes_little_shared_memory(tmp_path: Path):
    config = _config(tmp_path, ("learner.lora_rank", "4"), ("learner.lora_targets", '["q_proj"]'))
    plan = preflight.check(config, None)
    assert model_checks.published_bytes(config, plan.weight_bytes) == 3 * 4 * 4 * (96 + 96)  # layers, bytes, rank
    assert "an adapter of rank 4 is trained, 0.01 MB an update" in preflight.describe(plan)["policy"]


@pytest.mark.parametrize("target", ["nonsense", "lm_head"])  # the output layer is the embedding here
def test_an_adapters_layers_have_to_be_there(tmp_path: Path, target: str):
    given = [("learner.lora_rank", "4"), ("learner.lora_targets", f'["q_proj", "{target}"]')]
    error = _refused(_config(tmp_path, *given))
    assert error.key == "learner.lora_targets" and f"no layer `{target}`" in error.rule
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in error.fix


def test_an_optimisers_state_to_begin_with_has_to_be_there(tmp_path: Path):
    assert _refused(_config(tmp_path, ("learner.init_optimiser", "true"))).key == "learner.init_optimiser"
