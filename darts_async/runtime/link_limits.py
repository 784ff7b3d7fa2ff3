"""The largest message that each link may carry, from what the config lets a message be. Pure.

Invariant: a message that a role may legitimately send fits; the bound on memory is that times the link's high-water
mark (and `transport.zmq_socket.INBOX_BYTES` where that would be too much).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from darts_async.algorithms.latency_probe import MAX_PENDING
from darts_async.algorithms.selection import RULES
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
_LOST_DRAW: Final = 1 + 2 * _INT + 2 + max(map(len, RULES))
_DRAWS: Final = 1 << 16
"""Of each list of draws that an allocator goes on from."""
_MAX_ETA: Final = 64
_LIVE_OVERSAMPLE: Final = 4096
"""Groups by which `queues.oversample_groups` may be raised while the run goes on, as far as room here is concerned."""
_KEPT_STEPS: Final = 1 << 10


def link_limits(config: Config) -> dict[LinkName, tuple[int, int]]:
    """Return (to the binder, from the binder) in bytes, all frames of a message together."""
    prompt = 4 * config.model.max_prompt_tokens
    tokens = config.model.max_response_tokens
    response = 8 * tokens + _SPAN * min(tokens, _MAX_SPANS)
    ids = _INT * MAX_CANDIDATES
    running = 12 * 2 * (config.generator.max_num_seqs + MAX_CANDIDATES)
    per_step = config.group.groups_per_step
    admitted = (_MAX_ETA + 1) * per_step + config.queues.oversample_groups + _LIVE_OVERSAMPLE
    dispatch_state = admitted * _OPEN_GROUP + _DRAWS * (_LOST_DRAW + 2 * _INT) + config.run.steps * (1 + 3 * _INT)
    group = config.group.size * response + prompt + ids + 8 * MAX_CANDIDATES
    learner_state = (min(config.run.steps, _KEPT_STEPS) + 2) * (per_step + 2) * _INT
    return {
        "control": (_CONTROL, _CONTROL),
        "plans": (_FLOOR + prompt + ids, _FLOOR + dispatch_state + 2 * ids),
        "rollouts": (_FLOOR + 8 * MAX_PENDING, _FLOOR + prompt),
        "trajectories": (_FLOOR + response + running, 0),
        "cancels": (_FLOOR, _FLOOR + ids),
        "groups": (_FLOOR + max(group, admitted * _INT), 0),
        "steps": (_FLOOR + learner_state, 0),
        "policy": (_FLOOR, _FLOOR),
        "chunks": (_FLOOR + prompt + 4 * tokens + ids, 0),
    }
