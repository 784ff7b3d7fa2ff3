"""`darts-async replay RUN`: reads a run's ledger from its first record to its last, adds it up and checks it.

Only reads, and needs nothing of the run but its folder: it works while the run goes on, and on another machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError, LedgerDamaged
from darts_async.messages import LEDGER_STATES
from darts_async.runtime.ledger_reader import LedgerReader

__all__ = ["Replay", "replay", "show", "verdict"]

_SHOW_EVERY: Final = 8192
"""Records between two updates of the progress bar."""
_PROGRESS_BYTES: Final = 32 << 20
"""Smaller ledgers are read before a bar would be seen."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a ledger says."""

    folder: Path
    audit: LedgerAudit
    live: bool
    """Its run is going on."""
    segments: int
    size_bytes: int
    torn_bytes: int
    damage: str = ""
    """Where reading had to stop."""

    @property
    def violations(self) -> list[str]:
        """What is wrong, in words; the first of them."""
        return [*([self.damage] if self.damage else []), *self.audit.violations]

    @property
    def num_violations(self) -> int:
        """How much is wrong."""
        return bool(self.damage) + self.audit.num_violations

    def as_json(self, *, checked: bool) -> dict[str, Any]:
        """The same for machines."""
        audit = self.audit
        generated = {"generated": audit.generated, "in_flight": audit.in_flight}
        return {
            "run": str(self.folder),
            "name": audit.run,
            "live": self.live,
            "closed": audit.closed,
            "reopened": audit.num_reopened,
            "segments": self.segments,
            "bytes": self.size_bytes,
            "torn_bytes": self.torn_bytes,
            "records": audit.num_records,
            "steps": audit.num_steps,
            "policy_version": audit.version,
            "rollouts": {**generated, **audit.rollouts, "replaced": audit.num_replaced},
            "tokens": {"generated": audit.tokens_ended, **audit.tokens, "estimated_rollouts": audit.num_estimated},
            "groups": {"planned": audit.num_groups, "open": audit.open_groups, **audit.outcomes},
            "failures": dict(audit.failures.most_common()),
            "settings_changed": audit.num_set,
            "settings": [
                {"at_s": one.at_s, "changes": {key: [change.old, change.new] for key, change in one.changes.items()}}
                for one in audit.settings
            ],
            "damage": self.damage or None,
            **({"violations": self.violations, "num_violations": self.num_violations} if checked else {}),
        }


def replay(folder: Path, console: Console) -> Replay:
    """Read the ledger of a run folder. Raises `ConfigError` when it is none, or cannot be read."""
    ledger = RunPaths(folder).ledger
    audit = LedgerAudit()
    damage, reader = "", None
    try:
        if not ledger.is_dir():
            raise ConfigError(
                "RUN", str(folder), "has no ledger folder, so it is no run", "Name a run folder: runs/NAME"
            )
        reader = LedgerReader(ledger)
        _feed(reader, audit, console)
    except LedgerDamaged as damaged:
        damage = str(damaged)
    except OSError as error:
        raise ConfigError("RUN", str(folder), f"cannot be read: {error.strerror}", "Check its permissions") from error
    if reader is None:
        return Replay(folder, audit, live=False, segments=0, size_bytes=0, torn_bytes=0, damage=damage)
    if not damage:
        audit.finish(live=reader.live)
    return Replay(
        folder,
        audit,
        live=reader.live,
        segments=len(reader.segments),
        size_bytes=reader.total_bytes,
        torn_bytes=reader.torn_bytes,
        damage=damage,
    )


def _feed(reader: LedgerReader, audit: LedgerAudit, console: Console) -> None:
    columns = (TextColumn("reading the ledger"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    silent = reader.total_bytes < _PROGRESS_BYTES or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        task = progress.add_task("", total=reader.total_bytes)
        for record in reader:
            audit.feed(record, reader.sequence - 1)
            if not audit.num_records % _SHOW_EVERY:
                progress.update(task, completed=reader.bytes_read)


def show(result: Replay, console: Console, *, checked: bool, as_json: bool) -> None:
    """Print it."""
    if as_json:
        console.print(json.dumps(result.as_json(checked=checked)), soft_wrap=True, markup=False, highlight=False)
        return
    _line(console, f"{result.folder}: {_state(result)}")
    if result.audit.num_records:
        _show_totals(result, console)
    if result.damage and not checked:
        _line(console, result.damage)
    if checked:
        for text in result.violations:
            _line(console, f"violation: {text}")
        unnamed = result.num_violations - len(result.violations)
        if unnamed:
            _line(console, f"and {unnamed} more")
        _line(console, verdict(result))


def _show_totals(result: Replay, console: Console) -> None:
    audit = result.audit
    _line(
        console,
        f"{_count(audit.num_records, 'record')}, {result.size_bytes:,} bytes in {_count(result.segments, 'segment')}; "
        f"{_count(audit.num_steps, 'step')}, policy version {audit.version}",
    )
    console.print(_states(audit))
    groups = [f"{count} {outcome}" for outcome, count in audit.outcomes.most_common()]
    groups += [f"{audit.open_groups} open"] if audit.open_groups else []
    _line(console, f"groups: {audit.num_groups} planned" + "".join(f", {text}" for text in groups))
    if audit.failures:
        _line(console, "failures: " + ", ".join(f"{count} {reason}" for reason, count in audit.failures.most_common(8)))
        _line(console, f"  {_count(audit.num_replaced, 'replacement')} dispatched")
    for one in audit.settings:
        changes = ", ".join(f"{key} {change.old} -> {change.new}" for key, change in one.changes.items())
        _line(console, f"set after {one.at_s:,.0f} s: {changes}")
    if audit.num_estimated:
        _line(
            console, f"estimates: the token counts of {_count(audit.num_estimated, 'candidate')} are the last progress"
        )


def _state(result: Replay) -> str:
    audit = result.audit
    if result.damage:
        state = "damaged" + ("; what follows is what stands before the damage" if audit.num_records else "")
    elif result.live:
        state = "the run is going on" + ("" if audit.num_records else ", nothing was written yet")
    elif audit.closed:
        state = "closed in good order"
    elif audit.num_records:
        state = "the run is over, its books were not closed"
    else:
        state = "nothing was written"
    if audit.num_reopened:
        state += f"; reopened {_count(audit.num_reopened, 'time')}"
    if result.torn_bytes:
        what = "of a record that is being written" if result.live else "of a record that was not written to its end"
        state += f"; {result.torn_bytes} bytes {what}"
    return state


def verdict(result: Replay) -> str:
    """What the check came to, in a line."""
    audit = result.audit
    if result.num_violations:
        return f"check failed: {_count(result.num_violations, 'violation')}"
    flying = f", {audit.in_flight:,} in flight" if audit.in_flight else ""
    ended = audit.generated - audit.in_flight
    return (
        f"check passed: of {_count(audit.generated, 'candidate')} {ended:,} ended exactly once{flying}; "
        f"{_count(audit.tokens_ended, 'token')} balance"
    )


def _states(audit: LedgerAudit) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("candidates", "%", "tokens", "%"):
        table.add_column(title, justify="right")
    for state in LEDGER_STATES:
        table.add_row(
            state, *_share(audit.rollouts[state], audit.generated), *_share(audit.tokens[state], audit.tokens_ended)
        )
    if audit.in_flight:
        table.add_row("in flight", *_share(audit.in_flight, audit.generated), "", "")
    table.add_row("generated", f"{audit.generated:,}", "", f"{audit.tokens_ended:,}", "")
    return table


def _share(count: int, total: int) -> tuple[str, str]:
    return f"{count:,}", f"{100 * count / total:.1f}" if total else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
