"""`darts-async join ADDRESS`: one more generator for a live run, from another host or another shell.

Asks the run's launcher, makes a folder with the config as this host needs it, and keeps one generator process alive
that takes part under the rank it was given. Invariants: the generator and all it has started are gone when this
returns, or is killed; nothing that the run sends is opened as a path, but the folder of its weights when the run's mark
is found there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from darts_async import __version__
from darts_async.algorithms.restarts import RestartPolicy
from darts_async.config import Config, load_config, to_toml
from darts_async.config.paths import RunPaths, model_folder
from darts_async.config.rules import JOIN_PORT, parse_bind
from darts_async.errors import ConfigError, LinkBroken, ProtocolError, RunFailed
from darts_async.launcher import process_group, shared_weights
from darts_async.launcher.gpus import check_gpus, visible_gpus
from darts_async.launcher.model_checks import check_model
from darts_async.launcher.preflight import check_engine_args
from darts_async.launcher.roles import environment
from darts_async.messages import SCHEMA_VERSION
from darts_async.owned_files import read_private, write_private
from darts_async.runtime.join_link import (
    MARK,
    AskJoin,
    JoinClient,
    Joined,
    JoinRefused,
    Leave,
    Standing,
    StillThere,
)
from darts_async.runtime.topology import FarWeightsPlace, Topology, endpoints

__all__ = ["JoinRequest", "join"]

_ANSWER_S: Final = 10.0
_PING_S: Final = 2.0
_KILL_S: Final = 30.0
_SLACK_BYTES: Final = 64 << 20
"""Of a published file beyond the model's own weights: its header, and whatever is stored twice."""
_INTERRUPTED: Final = 130
_NAME: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """What a person asks for."""

    address: str
    """The run's `launch.bind`, as this host reaches it."""
    keys: Path
    """Folder with the run's public key and the join key."""
    model: str = ""
    """The policy's folder on this host; empty: where the run's config says."""
    devices: str = ""
    """GPUs, as a TOML list; empty: all."""
    folder: Path = Path("runs")
    """In it a folder for this generator is made: its config and its log."""
    over_link: bool = False
    """Fetch weights over the link even where the run's folder can be seen."""


async def join(request: JoinRequest, say: Callable[[str], None]) -> int:
    """Take part until the run is over; return the exit status. Raises `ConfigError`."""
    address = parse_bind(request.address)
    if address is None:
        raise ConfigError("ADDRESS", request.address, "must be `tcp://HOST:PORT`", "Take the run's launch.bind.")
    endpoint = f"tcp://{address[0]}:{address[1] + JOIN_PORT}"
    try:
        client = JoinClient(endpoint, f"joiner-{os.getpid()}-{secrets.token_hex(4)}", request.keys)
    except RunFailed as error:
        fix = "Copy the folder keys/join of the live run, with its rights (mode 700, files 600)."
        raise ConfigError("--keys", str(request.keys), str(error), fix) from None
    try:
        return await _Joiner(request, address, endpoint, client, say).run()
    except LinkBroken as error:
        say(f"{error}. Is the address the run's launch.bind, is launch.join set, are these the keys of this start?")
        return 1
    except ProtocolError as error:
        say(str(error))
        return 1
    finally:
        await client.close()


class _Joiner:
    def __init__(
        self,
        request: JoinRequest,
        address: tuple[str, int],
        endpoint: str,
        client: JoinClient,
        say: Callable[[str], None],
    ) -> None:
        self._request = request
        self._address = address
        self._endpoint = endpoint
        self._client = client
        self._say = say
        self._rank: int | None = None
        self._stop = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        policy: RestartPolicy | None = None
        while True:
            answer = await self._client.ask(
                AskJoin(
                    schema_version=SCHEMA_VERSION,
                    software=__version__,
                    host=socket.gethostname()[:256],
                    pid=os.getpid(),
                    rank=self._rank,
                ),
                _ANSWER_S,
            )
            if isinstance(answer, JoinRefused):
                self._say(f"the run takes no part of this: {answer.reason}")
                return 1
            if not isinstance(answer, Joined):
                raise ProtocolError(f"{self._endpoint}: {type(answer).__name__} is no answer to a wish to join")
            self._rank = answer.rank
            try:
                config = self._config_here(answer)
                if policy is None:
                    policy = RestartPolicy(config.launch.max_restarts, config.launch.restart_backoff_s)
                status, why = await self._take_part(answer, config)
            except ConfigError as error:
                await self._leave(answer, str(error))
                raise
            await self._leave(answer, why)
            if status is not None:
                return status
            delay_s = policy.restart("generator")
            if delay_s is None:
                self._say(f"{why}; launch.max_restarts = {policy.max_restarts} are used up")
                return 1
            self._say(f"{why}: joins again in {delay_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stop.wait()
                    return _INTERRUPTED

    def _config_here(self, answer: Joined) -> Config:
        """The run's config with this host's paths and GPUs, written where this generator's log goes."""
        document = _document(answer.config)
        where = self._request.folder.absolute() / f"{document['run']['name'][:80]}-joined-{answer.rank}"
        where.mkdir(parents=True, exist_ok=True)
        paths = RunPaths(where)
        paths.logs.mkdir(exist_ok=True)
        paths.resolved_config.write_text(answer.config, "utf-8")
        changes = [
            ("run.dir", str(where.parent)),
            ("run.name", where.name),
            ("generator.replicas", "1"),
            ("generator.devices", self._request.devices or "[]"),
            ("learner.devices", "[]"),
        ]
        if self._request.model:
            changes.append(("model.path", str(Path(self._request.model).absolute())))
        config = load_config(str(paths.resolved_config), changes)
        paths.resolved_config.write_text(to_toml(config), "utf-8")
        check_gpus(config, visible_gpus())
        check_engine_args(config)
        if not model_folder(config).is_dir():
            fix = "Say with --model where the policy's folder is on this host."
            raise ConfigError("model.path", config.model.path, "no such folder here", fix)
        return config

    async def _take_part(self, answer: Joined, config: Config) -> tuple[int | None, str]:
        """Run one start of the generator. Return the exit status, None if another start may help, and why it ended."""
        paths = RunPaths.of(config)
        shared = not self._request.over_link and _sees(answer)
        weight_bytes = check_model(config)
        shared_weights.create(paths.weights)
        private = Path(tempfile.mkdtemp(prefix="darts-join-"))
        process: asyncio.subprocess.Process | None = None
        try:
            place = FarWeightsPlace(self._endpoint, str(paths.weights), 4 * weight_bytes + _SLACK_BYTES)
            topology = Topology(
                config=str(paths.resolved_config),
                endpoints=endpoints(self._address, ""),
                keys=str(self._request.keys.absolute()),
                weights=None if shared else place,
            )
            write_private(private / "topology.json", msgspec.json.encode(topology))
            how = "from the run's own folder" if shared else "over the link"
            self._say(
                f"generator-{answer.rank} of {self._request.address} (start {answer.incarnation + 1}); weights come "
                f"{how}; log: {paths.logs / f'generator-{answer.rank}.log'}"
            )
            process = await self._start(answer, config, paths, private / "topology.json")
            return await self._watch(answer, config, process)
        finally:
            if process is not None:
                await process_group.end(process.pid, _KILL_S)
                await process.wait()
            shutil.rmtree(private, ignore_errors=True)
            shared_weights.remove(paths.weights)

    async def _start(
        self, answer: Joined, config: Config, paths: RunPaths, topology: Path
    ) -> asyncio.subprocess.Process:
        with (paths.logs / f"generator-{answer.rank}.log").open("ab") as sink:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "actors.generator",
                "--topology",
                str(topology),
                "--rank",
                str(answer.rank),
                "--incarnation",
                str(answer.incarnation),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                env=environment(config, "generator"),
            )

    async def _watch(
        self, answer: Joined, config: Config, process: asyncio.subprocess.Process
    ) -> tuple[int | None, str]:
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(self._stop.wait())
        asking = asyncio.create_task(self._ask_on(answer, config.launch.silence_s))
        try:
            await asyncio.wait({ended, stopped, asking}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                if ended.result() == 0:
                    self._say("the run is over")
                    return 0, "the run is over"
                code = ended.result()
                return None, f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
            if stopped.done():
                return _INTERRUPTED, "was interrupted"
            known, why = asking.result()
            self._say(why)
            return (None if known else 1), why
        finally:
            for task in (ended, stopped, asking):
                task.cancel()
            await asyncio.gather(ended, stopped, asking, return_exceptions=True)

    async def _ask_on(self, answer: Joined, silence_s: float) -> tuple[bool, str]:
        """Ask now and then whether the run counts on this generator; return when it does not. (False: it is gone.)"""
        while True:
            await asyncio.sleep(_PING_S)
            try:
                standing = await self._client.ask(
                    StillThere(rank=answer.rank, incarnation=answer.incarnation), silence_s
                )
            except LinkBroken:
                return False, f"the run does not answer for launch.silence_s = {silence_s:g} s"
            if isinstance(standing, Standing) and not standing.known:
                return True, "the run has written this generator off"

    async def _leave(self, answer: Joined, why: str) -> None:
        with contextlib.suppress(LinkBroken):
            reason = why[:4096]
            await self._client.ask(Leave(rank=answer.rank, incarnation=answer.incarnation, reason=reason), _PING_S)


def _document(toml: str) -> dict[str, Any]:
    """Parse what the run sent as its config. Raises `ProtocolError` where it names files beyond itself."""
    try:
        document = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"the run's config cannot be read: {error}") from None
    name = document["run"].get("name") if isinstance(document.get("run"), dict) else None
    if "extends" in document or not isinstance(name, str) or not _NAME.match(name):
        raise ProtocolError("the run's config is not a resolved one")
    return document


def _sees(answer: Joined) -> bool:
    """Whether this host sees the folder that the run publishes its weights in."""
    try:
        return read_private(Path(answer.weights_folder) / MARK).decode("utf-8", "replace") == answer.weights_mark
    except (OSError, ValueError):
        return False
