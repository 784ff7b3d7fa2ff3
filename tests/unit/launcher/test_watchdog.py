"""The watchdog over real time: one report for a stall, to the log, to every role, and to the person."""

import asyncio
import time

from darts_async.algorithms.wait_graph import Explanation
from darts_async.launcher.roles import RoleProcess
from darts_async.launcher.watchdog import Watchdog


class NotHere(RoleProcess):
    is_here = False


class Scene:
    def __init__(self, tmp_path, *, deaf=False):
        self.said, self.stacks = [], []
        self.deaf = deaf
        self.role = NotHere(role="learner", rank=0, log=tmp_path / "l", process=None, ready=True)
        self.log = tmp_path / "stalls.log"
        found = Explanation(("learner-0 is training step 3",), ("learner-0",), False, "it comes down to learner-0")
        self.dog = Watchdog(
            0.6, self.log, explain=lambda: found, roles=lambda: [self.role], send=self._send, warn=self.said.append
        )

    async def _send(self, role, message):
        if self.deaf:
            await asyncio.sleep(60)
        self.stacks.append((role.name, message.reason))

    async def watch(self, scene):
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self.dog.watch())
            await scene
            watching.cancel()


async def test_a_stall_is_told_once_and_the_next_one_too(tmp_path):
    scene = Scene(tmp_path)

    async def go():
        scene.dog.begin()
        for progress in range(9):  # it gets on: 0.9 s without a stall
            scene.dog.heard(scene.role, progress)
            await asyncio.sleep(0.1)
        assert scene.said == []
        began_s = time.monotonic()
        while time.monotonic() < began_s + 1.0:  # alive, and no further
            scene.dog.heard(scene.role, 8)
            await asyncio.sleep(0.05)
        assert len(scene.said) == 1
        scene.dog.heard(scene.role, 9)
        await asyncio.sleep(0.9)

    await scene.watch(go())
    assert len(scene.said) == scene.dog.num_stalls == 2
    assert "(launch.stall_s = 0.6): it comes down to learner-0" in scene.said[0]
    assert str(scene.log) in scene.said[0]
    assert scene.log.read_text().count("\nlearner-0 is training step 3\nit comes down to learner-0\n\n") == 2
    assert [name for name, _ in scene.stacks] == ["learner-0", "learner-0"]


async def test_a_role_without_room_on_its_link_holds_up_nothing(tmp_path):
    scene = Scene(tmp_path, deaf=True)

    async def go():
        scene.dog.begin()
        await asyncio.sleep(0.9)
        assert len(scene.said) == 1

    await scene.watch(go())


async def test_patience_may_change_and_an_ended_run_is_not_stalled(tmp_path):
    scene = Scene(tmp_path)

    async def go():
        scene.dog.set_stall_s(60.0)
        scene.dog.begin()
        await asyncio.sleep(0.8)
        assert scene.said == []
        scene.dog.set_stall_s(0.1)
        await asyncio.sleep(0.2)
        assert len(scene.said) == 1
        scene.dog.heard(scene.role, 1)
        scene.dog.end()
        await asyncio.sleep(0.3)

    await scene.watch(go())
    assert len(scene.said) == 1
