"""The largest message that each link may carry, from what the config lets a message be. Pure.

Invariant: a message that a role may legitimately send fits; the bound on memory is that times the link's high-water
mark (and `transport.zmq_socket.INBOX_BYTES` where that would be too much).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from darts_async.algorithms.latency_probe import MAX_PENDING
from darts_async.algorithms.staleness import eta_of
from darts_async.messages import MAX_CANDIDATES

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.runtime.topology import LinkName

__all__ = ["link_limits"]

_FLOOR: Final = 64 << 10
"""Field names, ids, and texts of up to 8,192 characters."""
_CONTROL: Final = 4 << 20
"""Gauges, waits and stacks of a role."""
_INT: Final = 9
"""A whole number in MessagePack, at most."""
_SPAN: Final = 1 + 2 * _INT
_MAX_SPANS: Final = 4096
_OPEN_GROUP: Final = 1 + 2 * _INT + 5 + 4 * 256
_REDO: Final = (1 << 16) * _INT


def link_limits(config: Config) -> dict[LinkName, tuple[int, int]]:
    """Return (to the binder, from the binder) in bytes, all frames of a message together."""
    prompt = 4 * config.model.max_prompt_tokens
    tokens = config.model.max_response_tokens
    response = 8 * tokens + _SPAN * min(tokens, _MAX_SPANS)
    ids = _INT * MAX_CANDIDATES
    running = 12 * 2 * (config.generator.max_num_seqs + MAX_CANDIDATES)
    per_step = config.group.groups_per_step
    admitted = (eta_of(config) + 1) * per_step + config.queues.oversample_groups
    dispatch_state = admitted * _OPEN_GROUP + _REDO + config.run.steps * 3 * _INT
    group = config.group.size * response + prompt + ids + 8 * MAX_CANDIDATES
    learner_state = (config.run.steps + 2) * (per_step + 2) * _INT
    return {
        "control": (_CONTROL, _CONTROL),
        "plans": (_FLOOR + prompt + ids, _FLOOR + dispatch_state + 2 * ids),
        "rollouts": (_FLOOR + 8 * MAX_PENDING, _FLOOR + prompt),
        "trajectories": (_FLOOR + response + running, 0),
        "cancels": (_FLOOR, _FLOOR + ids),
        "groups": (_FLOOR + group, 0),
        "steps": (_FLOOR + learner_state, 0),
        "policy": (_FLOOR, _FLOOR),
        "chunks": (_FLOOR + prompt + 4 * tokens + ids, 0),
    }
