"""Every error this package raises, sorted by what the caller can still do about it.

| class | the caller can |
|---|---|
| `ConfigError` | fix the file or the command line; nothing has started |
| `ProtocolError` | leave: the two ends disagree about the contract |
| `TransportError` and its kinds | reconnect, or end the stream |
| `RolloutError` | write off one candidate and go on |
| `EngineDead` | restart the engine (or the role that owns it) |
| `RunFailed` | read the named log; the run is over |
| `RunInterrupted` | go on with the run, or leave it: a person wanted it to end |

Errors are caught at two places only: the per-rollout boundary and an actor's outermost frame.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ConfigError",
    "DartsError",
    "EndOfStream",
    "EngineDead",
    "LedgerDamaged",
    "LinkBroken",
    "LinkClosed",
    "ProtocolError",
    "RolloutError",
    "RunFailed",
    "RunInterrupted",
    "TransportError",
]


class DartsError(Exception):
    """Base of all errors of this package."""


class ConfigError(DartsError):
    """A setting that cannot work. Carries the key, the value, the rule it breaks and the fix."""

    def __init__(self, key: str, value: object, rule: str, fix: str) -> None:
        super().__init__(key, value, rule, fix)
        self.key = key
        self.value = value
        self.rule = rule
        self.fix = fix

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 200:
            shown = shown[:197] + "..."
        return f"{self.key} = {shown}: {self.rule}. {self.fix}"


class ProtocolError(DartsError):
    """A peer sent something that the contract does not allow (schema, type, bound)."""


class TransportError(DartsError):
    """A link cannot carry messages. See its kinds."""


class LinkClosed(TransportError):
    """This side closed the link."""


class EndOfStream(TransportError):
    """The peer ended the stream in good order; everything it sent has been received."""


class LinkBroken(TransportError):
    """The link failed from outside (address in use, peer gone, send deadline passed)."""


class RolloutError(DartsError):
    """One candidate failed (engine refusal, reward that raised or timed out). The run goes on."""


class EngineDead(DartsError):
    """The inference engine is gone and cannot serve any request again."""


class RunFailed(DartsError):
    """The run is over. The message names the role, what happened and where to read more."""

    folder: Path | None = None
    """Of the run, where the caller may not know it."""


class RunInterrupted(KeyboardInterrupt):
    """A run that was started from Python was interrupted, and has drained. Its folder is complete: it can go on.

    A `KeyboardInterrupt`, so that whatever was to come after the run does not begin.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__(folder)
        self.folder = folder
        """None: it was interrupted before there was one."""

    def __str__(self) -> str:
        if self.folder is None:
            return "interrupted before the run began"
        return f"the run was interrupted and has drained; go on with it: darts_async.run(resume={str(self.folder)!r})"


class LedgerDamaged(RunFailed):
    """A ledger on disk is not what was written: a flipped bit, a missing or swapped record or segment."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(path, offset, what)
        self.path = path
        self.offset = offset
        """Bytes of the file that are good."""
        self.what = what

    def __str__(self) -> str:
        return (
            f"the ledger is damaged: {self.path}, byte {self.offset}: {self.what}. "
            "Put back the file as it was written, from a copy; what stands before that place is good"
        )
