"""Entries of procedural data sets as plain values and back: tuples, sets and large numbers survive, which verifiers may
tell from lists. Never pickles; what has no such form is refused.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["packed", "unpacked"]

_MAX_INT: Final = 1 << 63


def packed(value: Any) -> Any:
    """Return a value that MessagePack can carry. Raises `TypeError` for what has no such form."""
    if isinstance(value, list | tuple | set | frozenset):
        kind = "l" if isinstance(value, list) else "t" if isinstance(value, tuple) else "s"
        return [kind, *map(packed, value)]
    if isinstance(value, dict):
        return ["d", *(packed(part) for pair in value.items() for part in pair)]
    if type(value) is int and not -_MAX_INT <= value < _MAX_INT:
        return ["i", hex(value)]
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if hasattr(value, "tolist"):  # numbers, texts and arrays of numpy
        return packed(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written down")


def unpacked(value: Any) -> Any:
    """Return what was packed. Raises `ValueError` for what never was."""
    if not isinstance(value, list):
        return value
    match value:
        case ["i", str(digits)]:
            return int(digits, 16)
        case ["d", *parts]:
            values = [unpacked(part) for part in parts]
            return dict(zip(values[::2], values[1::2], strict=True))
        case ["l", *parts]:
            return [unpacked(part) for part in parts]
        case ["t", *parts]:
            return tuple(unpacked(part) for part in parts)
        case ["s", *parts]:
            return {unpacked(part) for part in parts}
    raise ValueError("not a packed value")
