"""A real offline run of W&B: what is on disk, and that its process is gone."""

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from darts_async.config import Config
from darts_async.config.schema import MetricsSection
from darts_async.errors import ConfigError
from darts_async.messages import EvalResult
from darts_async.owned_files import links_outside
from darts_async.sinks import SinkRun
from darts_async.sinks.registry import check_sinks
from darts_async.sinks.weights_and_biases import FOLDER, make_wandb

pytest.importorskip("wandb")


def _services() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.name() == "wandb-core"]


def read_offline(folder: Path) -> list[Any]:
    """The records of an offline run: a log of LevelDB's form, blocks of 32 KiB that records may span."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data, at, parts, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    assert not parts
    return records


def test_two_starts_offline_are_two_folders_of_one_run(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    config = Config.model_validate({"metrics": {"sinks": ["wandb"]}, "run": {"seed": 7}}).model_dump(mode="json")
    for first, steps in ((0, (0, 1)), (2, (2,))):
        sink = make_wandb(SinkRun("test", tmp_path, config, first_step=first))
        assert len(_services()) == 1
        sink.evaluated(
            EvalResult(label="before", policy_version=first, reward=0.25, response_length=80.5, num_rollouts=4)
        )
        for step in steps:
            sink.line(step, {"reward/mean": step / 4, "learner/loss": float("nan")})
        sink.ended({"status": "done" if first else "interrupted", "tokens": {"trained": 12}})
        sink.close()
        assert not _services()
        assert links_outside(tmp_path) == []  # else the run could not be resumed
    folders = sorted((tmp_path / FOLDER).glob("offline-run-*"))
    assert len(folders) == 2 and len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    rows, exits, summary = [], [], {}
    for folder in folders:
        for record in read_offline(folder):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append((int(row["_step"]), float(row["reward/mean"]), "learner/loss" in row))
            elif kind == "exit":
                exits.append(record.exit.exit_code)
            elif kind == "summary":
                summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
            elif kind == "run":
                assert record.run.display_name == "test" and record.run.project == "darts-async"
                assert {item.key for item in record.run.config.update} >= {"learner", "generator", "metrics"}
    assert rows == [(0, 0.0, False), (1, 0.25, False), (2, 0.5, False)]
    assert exits == [1, 0]
    assert summary["summary.tokens.trained"] == "12" and summary["held_out/before/reward"] == "0.25"


HANGS = """
import contextlib, os, signal, sys, threading
from pathlib import Path
import psutil
from darts_async.config import Config
from darts_async.sinks import SinkRun
from darts_async.sinks.weights_and_biases import kill_services, make_wandb

config = Config.model_validate({"metrics": {"sinks": ["wandb"]}}).model_dump(mode="json")
sink = make_wandb(SinkRun("test", Path(sys.argv[1]), config))
(service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
service.suspend()

def close():
    with contextlib.suppress(Exception):  # what is left of it is W&B's to say
        sink.close()

closing = threading.Thread(target=close, daemon=True)
closing.start()
closing.join(0.3)
print("hangs" if closing.is_alive() else "closed", flush=True)
kill_services()
print("left" if service.is_running() and service.status() != "zombie" else "killed")
"""


@pytest.mark.long
def test_a_service_that_hangs_is_killed_and_does_not_hold_up_the_end(tmp_path):
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, ["hangs", "killed"], "")


NO_NETWORK = """
import asyncio, sys, time
from pathlib import Path
from darts_async.config import Config
from darts_async.sinks import SinkRun
from darts_async.sinks.hub import SinkHub
from darts_async.sinks.weights_and_biases import services

async def main():
    metrics = {"sinks": ["wandb"], "wandb_mode": "online", "sink_timeout_s": 1.0, "sink_queue": 2}
    config = Config.model_validate({"metrics": metrics})
    run = SinkRun("test", Path(sys.argv[1]), config.model_dump(mode="json"))
    hub = SinkHub(config, run, lambda text: print("told:", text))
    hub.open()
    while not services():
        await asyncio.sleep(0.05)
    for step in range(4):
        hub.line({"step": step, "reward/mean": 0.5})
    began = time.monotonic()
    await hub.close({"status": "done"}, asyncio.Event())
    print("took", time.monotonic() - began)

asyncio.run(main())
print("left", len(services()))
"""


@pytest.mark.long
def test_online_with_nobody_there_to_answer(tmp_path):
    nowhere = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", NO_NETWORK, str(tmp_path)]
    environment = {**os.environ, **nowhere}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "told: the sink `wandb` does not keep up: 2 lines" in ended.stdout
    assert "are left behind: `wandb`" in ended.stdout and "left 0" in ended.stdout
    took = next(float(line.split()[1]) for line in ended.stdout.splitlines() if line.startswith("took"))
    assert 1 <= took < 5


def test_online_without_a_key_asks_nobody(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    online = MetricsSection.model_validate({"sinks": ["wandb"], "wandb_mode": "online"})
    with pytest.raises(ConfigError, match="wandb login"):
        check_sinks(online)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    (tmp_path / "netrc").chmod(0o600)
    check_sinks(online)
