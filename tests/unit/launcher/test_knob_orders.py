"""Orders that change settings: all roles concerned or none, newcomers told, the ledger's copy last and once."""

import asyncio

import pytest

from darts_async.config import load_config
from darts_async.launcher import knob_orders
from darts_async.launcher.knob_orders import KnobOrders
from darts_async.launcher.roles import RoleProcess
from darts_async.messages import KnobChange, KnobsTaken, SetKnobs


class Gone:
    """A process whose number nobody uses."""

    pid = 1 << 30
    returncode = None

    async def wait(self) -> int:
        return 0


class Roles:
    """Four roles that answer at once, as they are told to."""

    def __init__(self, tmp_path):
        self.roles = {
            name: RoleProcess(role=name.partition("-")[0], rank=0, log=tmp_path / name, process=Gone(), ready=True)
            for name in ("allocator-0", "learner-0", "selector-0", "generator-0")
        }
        self.refusing: dict[str, str] = {}
        self.deaf: set[str] = set()
        self.told: list[tuple[str, SetKnobs]] = []
        self.file = tmp_path / "config.live.toml"
        self.orders = KnobOrders(load_config(None), self.file, lambda: self.roles, self._send)

    async def _send(self, role: RoleProcess, order: SetKnobs) -> None:
        self.told.append((role.name, order))
        if role.name not in self.deaf:
            refused = self.refusing.get(role.name, "")
            self.orders.taken(role, KnobsTaken(role=role.role, rank=0, number=order.number, refused=refused))

    def set(self, *assignments: tuple[str, str]):
        return asyncio.run(self.orders.set(assignments))

    @property
    def names(self):
        return [name for name, _ in self.told]


@pytest.fixture
def roles(tmp_path, monkeypatch):
    monkeypatch.setattr(knob_orders, "_ANSWER_S", 0.05)
    return Roles(tmp_path)


def test_those_concerned_hear_of_it_and_the_selector_last(roles):
    answer = roles.set(("checkpoint.every_steps", "3"), ("queues.min_chunk", "2"))
    assert answer.changed == {"checkpoint.every_steps": KnobChange(0, 3), "queues.min_chunk": KnobChange(1, 2)}
    assert (answer.refused, answer.unconfirmed) == ("", ())
    assert sorted(roles.names[:2]) == ["allocator-0", "learner-0"]
    assert roles.names[2:] == ["selector-0"]
    assert {order.number for _, order in roles.told} == {1}
    assert load_config(str(roles.file)) == roles.orders.config
    assert roles.orders.config.queues.min_chunk == 2


def test_a_refusal_takes_it_back_everywhere(roles):
    roles.refusing["allocator-0"] = "no statistics"
    answer = roles.set(("queues.min_chunk", "2"), ("allocation.budget", "9"))
    assert answer.refused == "allocator-0: no statistics"
    assert not answer.changed
    # The learner took it before the allocator refused: it is told the old value. The ledger has neither.
    assert roles.names == ["learner-0", "allocator-0", "learner-0"]
    assert roles.told[0][1].changes["queues.min_chunk"] == KnobChange(1, 2)
    assert roles.told[2][1].changes["queues.min_chunk"] == KnobChange(2, 1)
    assert not roles.file.exists()
    assert roles.orders.config == load_config(None)
    assert roles.orders.for_newcomer(roles.roles["learner-0"]) == []


def test_a_broken_rule_reaches_nobody(roles):
    assert "group.size" in roles.set(("group.size", "4")).refused
    assert "pipeline.max_staleness" in roles.set(("pipeline.max_staleness", "0")).refused
    assert roles.told == []
    assert roles.set(("queues.min_chunk", "1")).changed == {}  # it is that already
    assert roles.told == []


def test_who_does_not_answer_is_named_and_told_again_when_it_starts_anew(roles):
    roles.deaf.add("allocator-0")
    answer = roles.set(("queues.in_flight_groups", "5"))
    assert answer.unconfirmed == ("allocator-0",)
    assert answer.changed
    (order,) = roles.orders.for_newcomer(roles.roles["allocator-0"])
    assert order.changes == {"queues.in_flight_groups": KnobChange(16, 5)}
    assert order.again


def test_a_newcomer_hears_of_the_sum_of_all_changes(roles):
    roles.set(("queues.in_flight_groups", "5"))
    roles.set(("queues.in_flight_groups", "6"), ("launch.stall_s", "7"))
    roles.set(("launch.stall_s", "300"))  # as it was
    (order,) = roles.orders.for_newcomer(roles.roles["learner-0"])
    assert order.changes == {"queues.in_flight_groups": KnobChange(16, 6)}


def test_what_the_ledger_lacks_is_told_to_the_next_selector_once(roles):
    roles.roles["selector-0"].gone = True
    assert roles.set(("queues.in_flight_groups", "5")).unconfirmed == ("selector-0",)
    assert roles.set(("queues.in_flight_groups", "6")).unconfirmed == ("selector-0",)
    assert roles.names == ["allocator-0", "allocator-0"]
    first, second, now = roles.orders.for_newcomer(roles.roles["selector-0"])
    assert [order.changes["queues.in_flight_groups"] for order in (first, second, now)] == [
        KnobChange(16, 5),
        KnobChange(5, 6),
        KnobChange(16, 6),
    ]
    assert [order.again for order in (first, second, now)] == [False, False, True]
    assert [order.again for order in roles.orders.for_newcomer(roles.roles["selector-0"])] == [True]


def test_an_answer_that_comes_too_late_changes_nothing(roles):
    roles.deaf.add("allocator-0")
    roles.set(("queues.in_flight_groups", "5"))
    late = KnobsTaken(role="allocator", rank=0, number=1, refused="no")
    roles.orders.taken(roles.roles["allocator-0"], late)
    assert roles.orders.config.queues.in_flight_groups == 5
