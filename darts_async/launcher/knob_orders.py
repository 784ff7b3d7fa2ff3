"""Changes settings of the live run: checks a wish, tells the roles concerned one after the other, remembers it.

Invariants: a change is in force at every role that works and heeds it, or (one of them refused) at none; a role that
starts anew is told of every change before it begins; every change is in the ledger once, and `config.live.toml` has
the config as it is now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from darts_async.config import Config, to_toml
from darts_async.config.live import LIVE, change, value_of
from darts_async.durable import replace_file
from darts_async.errors import ConfigError
from darts_async.launcher.roles import RoleProcess
from darts_async.messages import KnobChange, KnobsTaken, SetKnobs
from darts_async.runtime.outside_link import SetAnswer

__all__ = ["KnobOrders"]

_ANSWER_S: Final = 5.0
"""A role's event loop is free but for moments; one that takes longer is held up or lost."""


class KnobOrders:
    """The settings of one run as they are now. `set` is called by one task at a time."""

    def __init__(
        self,
        config: Config,
        live_file: Path,
        roles: Callable[[], Mapping[str, RoleProcess]],
        send: Callable[[RoleProcess, SetKnobs], Awaitable[None]],
    ) -> None:
        self.config = config
        """With all changes."""
        self._first = config
        self._live_file = live_file
        self._roles = roles
        self._send = send
        self._began_s = time.monotonic()
        self._number = 0
        self._answers: dict[tuple[str, int], asyncio.Future[str]] = {}
        self._unrecorded: list[SetKnobs] = []
        """Orders that the ledger does not have yet: the selector was away."""

    @property
    def changed(self) -> dict[str, KnobChange]:
        """Settings that differ from those at the start."""
        values = {key: (value_of(self._first, key), value_of(self.config, key)) for key in LIVE}
        return {key: KnobChange(old, new) for key, (old, new) in values.items() if old != new}

    async def set(self, assignments: Sequence[tuple[str, str]]) -> SetAnswer:
        """Carry a wish out, or say why not. Raises `OSError` when only the live config could not be written."""
        try:
            changed, values = change(self.config, assignments)
        except ConfigError as error:
            return SetAnswer(refused=str(error)[:8000])
        changes = {key: KnobChange(old, new) for key, (old, new) in values.items()}
        if not changes:
            return SetAnswer()
        order = self._order(changes)
        told: list[RoleProcess] = []
        unconfirmed: list[str] = []
        for role in self._concerned(changes):
            answer = await self._tell(role, order)
            if answer:
                back = self._order({key: KnobChange(one.new, one.old) for key, one in changes.items()})
                for other in told:
                    await self._tell(other, back)
                return SetAnswer(refused=f"{role.name}: {answer}"[:8000])
            told.append(role)
            if answer is None:
                unconfirmed.append(role.name)
        self.config = changed
        # Last of all, so that the ledger has what is in force and nothing else.
        for role in self._roles().values():
            if role.role == "selector" and await self._tell(role, order) is None:
                self._unrecorded.append(order)
                unconfirmed.append(role.name)
        await asyncio.to_thread(replace_file, self._live_file, to_toml(changed).encode())
        return SetAnswer(changed=changes, unconfirmed=tuple(unconfirmed))

    def taken(self, role: RoleProcess, message: KnobsTaken) -> None:
        """A role's answer. One that comes too late changes nothing: it was told the same again, or will be."""
        answer = self._answers.get((role.name, message.number))
        if answer is not None and not answer.done():
            answer.set_result(message.refused)

    def for_newcomer(self, role: RoleProcess) -> list[SetKnobs]:
        """What a role that starts anew has to be told before it begins."""
        orders: list[SetKnobs] = []
        if role.role == "selector":
            orders, self._unrecorded = self._unrecorded, []
        if self.changed:
            orders.append(self._order(self.changed, again=True))
        return orders

    def _order(self, changes: dict[str, KnobChange], *, again: bool = False) -> SetKnobs:
        self._number += 1
        at_s = time.monotonic() - self._began_s
        return SetKnobs(number=self._number, changes=changes, at_s=at_s, again=again)

    def _concerned(self, changes: Iterable[str]) -> list[RoleProcess]:
        wanted = dict.fromkeys(role for key in changes for role in LIVE[key])
        return [role for kind in wanted for role in self._roles().values() if role.role == kind]

    async def _tell(self, role: RoleProcess, order: SetKnobs) -> str | None:
        """Return why the role refused, an empty string if it took the order, None if it could not be asked."""
        if role.gone or not role.ready or role.finished:
            return None
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[role.name, order.number] = answer
        try:
            await self._send(role, order)
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._answers[role.name, order.number]
