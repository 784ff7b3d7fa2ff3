"""The process shell around an actor: arguments, logging, sockets, the event loop, and the exit status.

It is the only place that opens sockets for an actor, and the outermost frame that catches its errors: a failure is
reported to the supervisor in one line, with the traceback in the role's log, and ends the process with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from darts_async.config import Config, load_config
from darts_async.errors import DartsError, EngineDead, TransportError
from darts_async.log import configure
from darts_async.messages import Role
from darts_async.parent_death import die_with_parent
from darts_async.runtime.far_weights import FarWeights
from darts_async.runtime.join_link import JoinClient
from darts_async.runtime.links import AllocatorLinks, GeneratorLinks, LearnerLinks, SelectorLinks
from darts_async.runtime.sockets import Sockets
from darts_async.runtime.supervision import SupervisorClient
from darts_async.runtime.topology import Topology
from darts_async.runtime.traces import open_trace
from darts_async.tracing import record_as, trace_of

_log = logging.getLogger(__name__)
_LINGER_S = 2.0

_BUNDLES = {
    "allocator": AllocatorLinks,
    "generator": GeneratorLinks,
    "selector": SelectorLinks,
    "learner": LearnerLinks,
}


def main(role: Role, run: Callable[[Any, Config], Awaitable[None]]) -> None:
    """Run one role as a process: `python -m actors.<role> --topology FILE --rank N`. Never returns."""
    parser = argparse.ArgumentParser(description=f"The {role} of a darts-async run (started by the launcher).")
    parser.add_argument("--topology", required=True, type=Path, help="JSON file written by the launcher")
    parser.add_argument("--rank", type=int, default=0, help="which replica of the role this is")
    parser.add_argument("--incarnation", type=int, default=0, help="how often the role was started before")
    arguments = parser.parse_args()
    die_with_parent()
    # The launcher's Ctrl-C reaches roles as an order to stop; a role never acts on the terminal's own signal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    configure()
    topology = msgspec.json.decode(arguments.topology.read_bytes(), type=Topology)
    status = uvloop.run(_shell(role, arguments.rank, arguments.incarnation, topology, run))
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries leave threads and exit handlers behind that can hang; everything that matters is on disk by now.
    os._exit(status)


async def _shell(
    role: Role, rank: int, incarnation: int, topology: Topology, run: Callable[[Any, Config], Awaitable[None]]
) -> int:
    config = load_config(topology.config)
    name = f"{role}-{rank}"
    trace_file = open_trace(config, name)
    trace = trace_of(trace_file, name, 0 if trace_file is None else trace_file.start)
    record_as(trace)  # everything that is started from here on
    sockets = Sockets(role, rank, topology.endpoints, config, topology.keys)
    supervisor = SupervisorClient(
        sockets.control(),
        role,
        rank,
        os.getpid(),
        topology.heartbeat_s,
        incarnation=incarnation,
        resumed=topology.resumed,
        link_gauges=sockets.gauges,
    )
    far_weights = _far_weights(rank, topology, config)
    try:
        own = {} if far_weights is None else {"weights": far_weights.weights_of}
        links = _BUNDLES[role](rank=rank, supervisor=supervisor, **sockets.data_links(), **own)
        async with asyncio.TaskGroup() as tasks:
            # A role whose reports fail would be deaf and dumb, and pass for silent: it ends with their error instead.
            watching = tasks.create_task(supervisor.run())
            await run(links, config)
            watching.cancel()
    except Exception as error:  # noqa: BLE001 - the outermost frame; reported and logged with its traceback
        return await _report(supervisor, error)
    else:
        return 0
    finally:
        if far_weights is not None:
            await far_weights.close()
        await sockets.close(_LINGER_S)
        trace.close()
        if trace_file is not None:
            trace_file.close()


def _far_weights(rank: int, topology: Topology, config: Config) -> FarWeights | None:
    """What fetches the weights of a generator that joined from elsewhere."""
    place = topology.weights
    if place is None:
        return None
    client = JoinClient(place.endpoint, f"weights-{rank}", Path(topology.keys))
    return FarWeights(place, client, config.generator.update_timeout_s)


async def _report(supervisor: SupervisorClient, error: Exception) -> int:
    for cause in _leaves(error):
        if isinstance(cause, DartsError):
            _log.error("%s: %s", type(cause).__name__, cause)
    _log.error("the role cannot go on", exc_info=error)
    leaves = _leaves(error)
    first = leaves[0]
    # Whatever else is wrong (a config, a contract, a bug) would be wrong again.
    curable = all(isinstance(cause, EngineDead | TransportError) for cause in leaves)
    with contextlib.suppress(TransportError):
        await supervisor.fault(f"{type(first).__name__}: {first}", curable=curable)
    return 1


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside nested exception groups, outermost first."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
