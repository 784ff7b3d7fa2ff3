"""Stable hashes: the only source of randomness decisions are made with. Never Python's `hash` (salted per process)."""

from __future__ import annotations

from hashlib import blake2b


def stable_hash(*parts: int | str) -> int:
    """Return a 63-bit hash of the parts; equal parts give equal hashes on every machine and in every process."""
    digest = blake2b(digest_size=8)
    for part in parts:
        # The type and length keep ("1", "2") apart from ("12",) and from (1, 2).
        data = part.encode() if isinstance(part, str) else str(part).encode()
        digest.update(b"s" if isinstance(part, str) else b"i")
        digest.update(len(data).to_bytes(4, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little") >> 1


def rollout_seed(run_seed: int, prompt_id: str, candidate_id: int, attempt: int = 0) -> int:
    """Return the sampler's seed of one candidate, in [0, 2**31): the same run draws the same samples.

    candidate_id: of the draw and the index in the group (`messages.candidate_id(draw, index)`), so that a group that
    starts again under another number has the same seeds.
    """
    return stable_hash("rollout", run_seed, prompt_id, candidate_id, attempt) % (1 << 31)
