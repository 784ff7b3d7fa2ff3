"""Opens the ZeroMQ ends of a role's links, as the topology's table says, with the keys and the bounds of each.

Invariant: with keys, every socket of the role is encrypted, and the gate stands before the first one is bound.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import zmq

from darts_async.config import Config
from darts_async.messages import FromSupervisor, Role, ToSupervisor
from darts_async.runtime.link_limits import link_limits
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import CONTROL_HWM, LINKS, USED, LinkName, dealers
from darts_async.transport.codec import Codec
from darts_async.transport.endpoint import Keys
from darts_async.transport.gate import Gate
from darts_async.transport.zmq_links import ZmqDealer, ZmqHub, zmq_dealer, zmq_hub, zmq_receiver, zmq_sender


class Sockets:
    """All sockets of one role's process. Must be made inside the running event loop."""

    def __init__(self, role: Role, rank: int, endpoints: dict[str, str], config: Config, keys: str = "") -> None:
        """`keys`: folder of the run's keys; empty: no encryption."""
        self._role = role
        self._name = f"{role}-{rank}"
        self._endpoints = endpoints
        self._hwm = {
            "trajectories": config.queues.trajectory_hwm,
            "groups": config.queues.ready_groups,
            # Requests on the way are bounded by the credits that a replica grants.
            "rollouts": 2 * config.generator.max_num_seqs,
        }
        self._limits = link_limits(config)
        self._replicas = config.generator.replicas + config.launch.join
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._keys = RunKeys(Path(keys)) if keys else None
        self._gate: Gate | None = None
        bound = tuple(name for name in USED[role] if LINKS[name].binder == role)
        if self._keys is not None and bound:
            self._gate = Gate(self._context, self._keys.allowed(bound))
        self._open: dict[LinkName, Any] = {}

    def data_links(self) -> dict[str, Any]:
        """Open every link of the role but the control link, by name."""
        return {name: self._open_link(name) for name in USED[self._role]}

    def control(self) -> ZmqDealer[ToSupervisor, FromSupervisor]:
        """Open the link to the supervisor."""
        link: ZmqDealer[ToSupervisor, FromSupervisor] = self._open_link("control")
        return link

    def gauges(self) -> dict[str, float]:
        """What was refused, and what waits, at the links that the role listens on."""
        gauges: dict[str, float] = {}
        for name, link in self._open.items():
            if LINKS[name].binder == self._role:
                gauges |= link_gauges(name, link)
        return gauges

    async def close(self, linger_s: float) -> None:
        """Send what waits for at most `linger_s` and close everything."""
        await asyncio.gather(*(link.close(linger_s) for link in self._open.values()))
        if self._gate is not None:
            self._gate.close()
        await asyncio.to_thread(self._context.term)

    def _open_link(self, name: LinkName) -> Any:
        spec, endpoint = LINKS[name], self._endpoints[name]
        hwm = self._hwm.get(name, CONTROL_HWM)
        to_binder, from_binder = self._limits[name]
        forward: Codec[Any] = Codec(spec.forward, max_bytes=to_binder)
        backward: Codec[Any] = Codec(spec.backward, max_bytes=from_binder)
        binds = spec.binder == self._role
        keys: Keys = None
        if self._keys is not None:
            keys = self._keys.serve(name) if binds else self._keys.connect(self._role)
        link: Any
        if spec.kind == "stream":
            open_end = zmq_receiver if binds else zmq_sender
            link = open_end(self._context, endpoint, forward, bind=binds, hwm=hwm, keys=keys)
        elif binds:
            peers = dealers(name, self._replicas)
            link = zmq_hub(self._context, endpoint, send=backward, receive=forward, hwm=hwm, keys=keys, peers=peers)
        else:
            link = zmq_dealer(self._context, endpoint, self._name, send=forward, receive=backward, hwm=hwm, keys=keys)
        self._open[name] = link
        return link


def link_gauges(name: LinkName, link: Any) -> dict[str, float]:
    """Gauges of one link that is listened on."""
    stats = link.stats
    return {
        f"link/{name}/dropped_frames": float(stats.dropped),
        f"link/{name}/refused_peers": float(stats.refused_peers),
        f"link/{name}/waiting_bytes": float(link.waiting_bytes),
    }


class ControlHub:
    """The supervisor's end of the control link, with the context it lives in."""

    def __init__(self, endpoint: str, config: Config, keys: RunKeys | None = None) -> None:
        spec = LINKS["control"]
        to_binder, from_binder = link_limits(config)["control"]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = None if keys is None else Gate(self._context, keys.allowed(("control",)))
        self.link: ZmqHub[FromSupervisor, ToSupervisor] = zmq_hub(
            self._context,
            endpoint,
            send=Codec(spec.backward, max_bytes=from_binder),
            receive=Codec(spec.forward, max_bytes=to_binder),
            hwm=CONTROL_HWM,
            keys=None if keys is None else keys.serve("control"),
            peers=dealers("control", config.generator.replicas + config.launch.join),
        )

    def gauges(self) -> dict[str, float]:
        """What was refused, and what waits."""
        return link_gauges("control", self.link)

    async def close(self, linger_s: float) -> None:
        """Close the link and its context."""
        await self.link.close(linger_s)
        if self._gate is not None:
            self._gate.close()
        await asyncio.to_thread(self._context.term)
