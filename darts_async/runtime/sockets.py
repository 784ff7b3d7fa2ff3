"""Opens the ZeroMQ ends of a role's links, as the topology's table says."""

from __future__ import annotations

import asyncio
from typing import Any

import zmq

from darts_async.config import Config
from darts_async.messages import FromSupervisor, Role, ToSupervisor
from darts_async.runtime.topology import CONTROL_HWM, LINKS, LinkName
from darts_async.transport.codec import Codec
from darts_async.transport.zmq_links import ZmqDealer, ZmqHub, zmq_dealer, zmq_hub, zmq_receiver, zmq_sender

_USED: dict[Role, tuple[LinkName, ...]] = {
    "allocator": ("plans", "rollouts", "policy"),
    "generator": ("rollouts", "trajectories", "cancels", "policy", "chunks"),
    "selector": ("plans", "trajectories", "cancels", "groups", "steps"),
    "learner": ("groups", "steps", "policy", "chunks"),
}


class Sockets:
    """All sockets of one role's process. Must be made inside the running event loop."""

    def __init__(self, role: Role, rank: int, endpoints: dict[str, str], config: Config) -> None:
        self._role = role
        self._name = f"{role}-{rank}"
        self._endpoints = endpoints
        self._hwm = {
            "trajectories": config.queues.trajectory_hwm,
            "groups": config.queues.ready_groups,
            # Requests on the way are bounded by the credits that a replica grants.
            "rollouts": 2 * config.generator.max_num_seqs,
        }
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._open: list[Any] = []

    def data_links(self) -> dict[str, Any]:
        """Open every link of the role but the control link, by name."""
        return {name: self._open_link(name) for name in _USED[self._role]}

    def control(self) -> ZmqDealer[ToSupervisor, FromSupervisor]:
        """Open the link to the supervisor."""
        link: ZmqDealer[ToSupervisor, FromSupervisor] = self._open_link("control")
        return link

    async def close(self, linger_s: float) -> None:
        """Send what waits for at most `linger_s` and close everything."""
        await asyncio.gather(*(link.close(linger_s) for link in self._open))
        await asyncio.to_thread(self._context.term)

    def _open_link(self, name: LinkName) -> Any:
        spec, endpoint = LINKS[name], self._endpoints[name]
        hwm = self._hwm.get(name, CONTROL_HWM)
        forward: Codec[Any] = Codec(spec.forward)
        binds = spec.binder == self._role
        link: Any
        if spec.kind == "stream":
            open_end = zmq_receiver if binds else zmq_sender
            link = open_end(self._context, endpoint, forward, bind=binds, hwm=hwm)
        elif binds:
            link = zmq_hub(self._context, endpoint, send=Codec(spec.backward), receive=forward, hwm=hwm)
        else:
            backward: Codec[Any] = Codec(spec.backward)
            link = zmq_dealer(self._context, endpoint, self._name, send=forward, receive=backward, hwm=hwm)
        self._open.append(link)
        return link


class ControlHub:
    """The supervisor's end of the control link, with the context it lives in."""

    def __init__(self, endpoint: str) -> None:
        spec = LINKS["control"]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.link: ZmqHub[FromSupervisor, ToSupervisor] = zmq_hub(
            self._context, endpoint, send=Codec(spec.backward), receive=Codec(spec.forward), hwm=CONTROL_HWM
        )

    async def close(self, linger_s: float) -> None:
        """Close the link and its context."""
        await self.link.close(linger_s)
        await asyncio.to_thread(self._context.term)
