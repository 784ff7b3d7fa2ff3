"""Event files, read back record by record: lengths, checksums and what is in them."""

import struct
from pathlib import Path

import pytest

from darts_async.config import Config
from darts_async.messages import EvalResult
from darts_async.sinks import SinkRun
from darts_async.sinks.tensorboard import FOLDER, make_tensorboard

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

_TABLE = []
for number in range(256):
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)  # noqa: PLW2901 - Castagnoli, reflected
    _TABLE.append(number)


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(folder: Path) -> list[object]:
    """All records of a folder, checked as TensorBoard checks them."""
    events = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length, of_length = struct.unpack_from("<QI", data, at)
            body = data[at + 12 : at + 12 + length]
            (of_body,) = struct.unpack_from("<I", data, at + 12 + length)
            assert of_length == _masked_crc(data[at : at + 8])
            assert of_body == _masked_crc(body)
            events.append(event_pb2.Event.FromString(body))
            at += 16 + length
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_two_starts_of_a_run_are_one_run_with_the_right_steps(tmp_path):
    config = Config.model_validate({"run": {"seed": 7}}).model_dump(mode="json")
    first = make_tensorboard(SinkRun("test", tmp_path, config))
    first.evaluated(EvalResult(label="before", policy_version=0, reward=0.25, response_length=80.5, num_rollouts=4))
    first.line(0, {"reward/mean": 0.5, "learner/loss": float("nan"), "wall_s": 1.5})
    first.line(1, {"reward/mean": 0.75})
    first.ended({"status": "interrupted", "steps": 2})
    first.close()
    second = make_tensorboard(SinkRun("test", tmp_path, config, first_step=2))
    second.line(2, {"reward/mean": 1.0})
    second.ended({"status": "done", "steps": 3})
    second.close()

    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    found = scalars(tmp_path / FOLDER)
    assert found["reward/mean"] == [(0, 0.5), (1, 0.75), (2, 1.0)]
    assert found["held_out/reward"] == [(0, 0.25)]
    assert found["held_out/response_length"] == [(0, 80.5)]
    assert "learner/loss" not in found
    texts = [
        (value.tag, event.step, value.tensor.string_val[0].decode())
        for event in read_events(tmp_path / FOLDER)
        for value in event.summary.value
        if value.tag.endswith("/text_summary")
    ]
    assert [(tag.partition("/")[0], step) for tag, step, _ in texts] == [
        ("config", 0),
        ("summary", 1),
        ("config", 2),
        ("summary", 2),
    ]
    assert '"seed": 7' in texts[0][2] and '"status": "done"' in texts[3][2]
    plugin = next(
        value.metadata.plugin_data
        for event in read_events(tmp_path / FOLDER)
        for value in event.summary.value
        if value.tag == "_hparams_/session_start_info"
    )
    assert plugin.plugin_name == "hparams" and b"learner.lr" in plugin.content


def test_a_full_disk_is_an_error_of_that_line_and_nothing_hangs(tmp_path):
    (tmp_path / FOLDER).mkdir()
    sink = make_tensorboard(SinkRun("test", tmp_path, {}))
    writer = sink._file._py_recordio_writer
    disk = writer._writer
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer._writer = full
        with pytest.raises(OSError, match="No space left"):
            sink.line(0, {"reward/mean": 0.5})
    writer._writer = disk  # there is room again
    sink.line(1, {"reward/mean": 0.75})
    sink.close()
    assert scalars(tmp_path / FOLDER)["reward/mean"] == [(1, 0.75)]
