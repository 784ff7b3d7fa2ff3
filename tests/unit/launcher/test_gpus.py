"""Which GPUs each process sees."""

import pytest

from darts_async.config import load_config
from darts_async.errors import ConfigError
from darts_async.launcher.gpus import check_gpus, gpu_environment, visible_gpus
from darts_async.launcher.roles import environment


def config_of(**values: str):
    return load_config(None, [(key.replace("__", "."), value) for key, value in values.items()])


def seen(config, gpus: list[str]) -> dict[str, str | None]:
    who = [("generator", 0), ("generator", 1), ("generator", 2), ("learner", 0), ("selector", 0), ("allocator", 0)]
    return {f"{r}-{n}": gpu_environment(config, r, n, gpus).get("CUDA_VISIBLE_DEVICES") for r, n in who}


def test_each_replica_gets_its_own_and_the_learner_the_rest():
    config = config_of(generator__replicas="2", generator__devices="[3, 1]", learner__devices="[0]")
    assert seen(config, ["0", "1", "2", "3"]) == {
        "generator-0": "3",
        "generator-1": "1",
        "generator-2": None,  # one that joined: this machine's are not its
        "learner-0": "0",
        "selector-0": None,
        "allocator-0": None,
    }


def test_an_engine_that_spans_several_gets_as_many_and_a_learner_one_for_each_process():
    config = config_of(
        generator__replicas="2",
        generator__engine_args__tensor_parallel_size="2",
        generator__devices="[0, 1, 2, 3]",
        learner__processes="2",
        learner__devices="[5, 4]",
    )
    assert [v for v in seen(config, list("abcdef")).values() if v] == ["a,b", "c,d", "f,e"]


def test_indices_count_what_the_launcher_itself_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, GPU-bb")
    config = config_of(generator__devices="[1]", learner__devices="[0]")
    assert environment(config, "generator", 0)["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    assert environment(config, "learner")["CUDA_VISIBLE_DEVICES"] == "GPU-aa"
    assert environment(config, "selector")["CUDA_VISIBLE_DEVICES"] == "GPU-aa, GPU-bb"
    check_gpus(config, visible_gpus())
    with pytest.raises(ConfigError, match=r"no GPU 2: 2 can be used here \(CUDA_VISIBLE_DEVICES is 'GPU-aa, GPU-bb'\)"):
        check_gpus(config_of(generator__devices="[2]"), visible_gpus())


def test_what_the_driver_shows(tmp_path):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert visible_gpus({}, tmp_path) == ["0", "1"]
    assert visible_gpus({}, tmp_path / "none") == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"generator__replicas": "2", "generator__devices": "[0]"}, "names 1 GPUs where 2 are needed"),
        ({"generator__engine_args__tensor_parallel_size": "2", "generator__devices": "[0]"}, "1 replicas x 2"),
        ({"generator__replicas": "2", "generator__devices": "[1, 1]"}, "names a GPU twice"),
        ({"generator__devices": "[0]", "learner__devices": "[0]"}, "shares GPU 0 with generator.devices"),
        ({"learner__processes": "2", "learner__devices": "[0]"}, "learner.processes = 2"),
        ({"generator__engine": "sim", "generator__devices": "[0]"}, "computes nothing on a GPU"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(values: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=words):
        config_of(**values)
