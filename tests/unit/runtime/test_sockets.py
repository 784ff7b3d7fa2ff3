"""All roles' sockets of a run at once, as their processes open them: encrypted, private, and counted."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from darts_async.config import load_config
from darts_async.config.rules import NUM_TCP_PORTS
from darts_async.messages import Credits, GeneratorHello, Role, StepDone, StreamEnd, Warn
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.sockets import ControlHub, Sockets
from darts_async.runtime.topology import LINKS, USED, endpoints

DEADLINE_S = 30.0
CONFIG = load_config(None, [("generator.engine", "sim")])


def _free_ports() -> int:
    """The first of enough ports in a row that nothing listens on."""
    for first in range(20_000 + os.getpid() % 9_000, 32_000, NUM_TCP_PORTS):
        probes = [socket.socket() for _ in range(NUM_TCP_PORTS)]
        try:
            for offset, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        else:
            return first
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")


class _Run:
    def __init__(self, where: dict[str, str], keys: Path | None) -> None:
        self.where = where
        self.keys = None if keys is None else RunKeys.create(keys)
        self.control = ControlHub(where["control"], CONFIG, self.keys)
        self.roles: dict[str, tuple[Sockets, dict[str, Any], Any]] = {}
        for role in USED:
            self.start(role)

    def start(self, role: Role) -> None:
        folder = "" if self.keys is None else str(self.keys.folder)
        sockets = Sockets(role, 0, self.where, CONFIG, folder)
        self.roles[role] = (sockets, sockets.data_links(), sockets.control())

    def link(self, role: str, name: str) -> Any:
        return self.roles[role][1][name]

    async def close(self) -> None:
        for sockets, _, _ in self.roles.values():
            await sockets.close(0.1)
        await self.control.close(0.1)


@pytest.fixture(params=["ipc", "ipc with keys", "tcp"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, str], Path | None]:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    address = ("127.0.0.1", _free_ports()) if request.param == "tcp" else None
    return endpoints(address, str(folder)), None if request.param == "ipc" else tmp_path / "keys"


async def test_every_link_carries_and_a_restarted_role_is_heard_again(
    where: tuple[dict[str, str], Path | None],
) -> None:
    run = _Run(*where)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await _talk(run)
            # The selector is started anew: it binds three links and connects to two.
            await run.roles["selector"][0].close(0)
            run.start("selector")
            await _talk(run)
        gauges = run.roles["selector"][0].gauges()
        assert {name for name in gauges if name.endswith("/dropped_frames")} == {
            f"link/{name}/dropped_frames" for name in ("plans", "trajectories", "cancels", "steps")
        }
        assert set(gauges.values()) == {0.0} and set(run.control.gauges().values()) == {0.0}
    finally:
        await run.close()


async def _talk(run: _Run) -> None:
    """One message over every link that can be used without asking first."""
    for role, (_, _, control) in run.roles.items():
        await control.send(Warn(role=role, rank=0, text="x"))  # type: ignore[arg-type]
    assert {(await run.control.link.recv())[0] for _ in run.roles} == {f"{role}-0" for role in run.roles}
    await run.link("generator", "rollouts").send(Credits(replica=0, granted_total=1))
    assert (await run.link("allocator", "rollouts").recv())[0] == "generator-0"
    await run.link("generator", "cancels").send(GeneratorHello(replica=0))
    assert (await run.link("selector", "cancels").recv())[0] == "generator-0"
    await run.link("generator", "policy").send(GeneratorHello(replica=0))
    assert (await run.link("learner", "policy").recv())[0] == "generator-0"
    await run.link("generator", "trajectories").send(StreamEnd(role="generator", rank=0))
    await run.link("selector", "trajectories").recv()
    await run.link("selector", "groups").send(StreamEnd(role="selector", rank=0))
    await run.link("learner", "groups").recv()
    await run.link("learner", "steps").send(StepDone(version=1, group_ids=(1,)))
    assert (await run.link("selector", "steps").recv()).version == 1


async def test_sockets_of_a_run_are_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    run = _Run(endpoints(None, str(folder)), None)
    try:
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == sorted(LINKS)
        for file in files:
            status = file.stat()
            assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600
    finally:
        os.umask(before)
        await run.close()
