"""One run, killed again and again at seeded moments and taken up each time, and whether anything came of it."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from rich.console import Console

from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.launcher.replay import replay
from resuming.run_tree import RunTree
from resuming.story import differences, problems, read_story

__all__ = ["Campaign", "Kill"]

_READY = "all roles are ready"


@dataclass(slots=True)
class Kill:
    """One start that was killed, or the last one, which was not."""

    number: int
    phase: str
    at_s: float
    """Since that start."""
    steps: int
    """Steps that the metrics had then."""
    ready_s: float | None = None
    """From that start until all roles were ready."""
    trained_s: float | None = None
    """From that start until its first step had a line in the metrics."""
    everybody: bool = True
    note: str = ""


@dataclass(slots=True)
class Campaign:
    """`run` once; then `wrong` has what was found."""

    folder: Path
    arguments: Sequence[str]
    """Of `up`: config and overrides."""
    kills: int
    seed: int
    starting_s: float = 8.0
    """A kill in the start comes within this time, or within that of the last start that came to be ready."""
    training_s: float = 4.0
    """One in training comes within this time after all roles are ready."""
    patience_s: float = 300.0
    rows: list[Kill] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    """Of the run, when it was judged."""

    def run(self, say: Callable[[str], None]) -> None:
        """Run it. `say` is told how it goes."""
        random_moment = random.Random(self.seed)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        broken = self.folder / "broken"
        first = [*self.arguments, "--run.dir", str(self.folder), "--run.name", "broken"]
        # It is killed before it is complete: the last start is the one that ends.
        for number in range(self.kills + 1):
            arguments = first if not RunPaths(broken).resolved_config.is_file() else ["--resume", str(broken)]
            tree = RunTree(arguments, self.folder / f"start-{number}.txt")
            try:
                done = self._last(tree, number) if number == self.kills else self._strike(tree, number, random_moment)
            finally:
                tree.kill()
            row = self.rows[-1]
            say(f"{number}: {row.phase} at {row.at_s:.1f} s, {row.steps} steps{'; ' + row.note if row.note else ''}")
            if done:
                break
        if not self.wrong:
            self._judge(broken)

    def compare(self, say: Callable[[str], None]) -> None:
        """Run it unbroken, and let the two be the same, step for step."""
        tree = RunTree(
            [*self.arguments, "--run.dir", str(self.folder), "--run.name", "unbroken"], self.folder / "unbroken.txt"
        )
        try:
            status = tree.wait(self.patience_s)
        finally:
            tree.kill()
        say(f"unbroken: {tree.age_s:.1f} s")
        if status != 0:
            self.wrong.append(f"the unbroken run ended with {status}:\n{tree.output[-2000:]}")
            return
        self.wrong += differences(read_story(self.folder / "broken"), read_story(self.folder / "unbroken"))

    def _strike(self, tree: RunTree, number: int, moment: random.Random) -> bool:
        """Kill it some time; return True when there is nothing to go on with."""
        in_start, share, everybody = moment.random() < 0.25, moment.random(), moment.random() < 0.75
        row = Kill(number, "starting" if in_start else "training", 0.0, 0, everybody=everybody)
        self.rows.append(row)
        steps = self._num_lines
        before = steps()
        if in_start:
            known = [kill.ready_s for kill in self.rows if kill.ready_s is not None]
            until = tree.began_s + share * (known[-1] if known else self.starting_s)
            tree.wait_until(lambda: time.monotonic() > until, self.patience_s)
        elif tree.wait_for(_READY, self.patience_s):
            row.ready_s = tree.age_s
            until = time.monotonic() + share * self.training_s
            while time.monotonic() < until and tree.status is None:
                if row.trained_s is None and steps() > before:
                    row.trained_s = tree.age_s
                time.sleep(0.01)
        if row.trained_s is None and steps() > before:
            row.trained_s = tree.age_s
        row.at_s, row.steps = tree.age_s, steps()
        if tree.status is not None:
            row.phase, row.note = "ended", f"it ended by itself with {tree.status}"
            if tree.status:
                self.wrong.append(f"start {number} ended with {tree.status}:\n{tree.output[-3000:]}")
            return True
        if _READY not in tree.output and not in_start:
            self.wrong.append(f"start {number} was not ready in time:\n{tree.output[-3000:]}")
        tree.kill(launcher_only=not everybody)
        return bool(self.wrong)

    def _last(self, tree: RunTree, number: int) -> bool:
        before = self._num_lines()
        row = Kill(number, "to the end", 0.0, 0)
        self.rows.append(row)
        if tree.wait_for(_READY, self.patience_s):
            row.ready_s = tree.age_s
        if tree.wait_until(lambda: self._num_lines() > before, self.patience_s):
            row.trained_s = tree.age_s
        status = tree.wait(self.patience_s)
        row.at_s, row.steps = tree.age_s, self._num_lines()
        if status != 0:
            self.wrong.append(f"the last start ended with {status}:\n{tree.output[-3000:]}")
        elif left := tree.processes():
            self.wrong.append(f"processes are left: {left}")
        return True

    def _num_lines(self) -> int:
        path = RunPaths(self.folder / "broken").metrics
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _judge(self, run: Path) -> None:
        paths = RunPaths(run)
        config = load_config(str(paths.resolved_config))
        audit = replay(run, Console(file=StringIO()))
        self.wrong += audit.violations
        story = read_story(run)
        self.wrong += problems(story, steps=config.run.steps, groups_per_step=config.group.groups_per_step)
        lines = [json.loads(line)["step"] for line in paths.metrics.read_text("utf-8").splitlines()]
        if lines != list(range(config.run.steps)):
            self.wrong.append(f"metrics.jsonl has steps {lines}")
        summary = json.loads(paths.summary.read_text("utf-8"))
        if (summary["status"], summary["policy_version"]) != ("done", config.run.steps):
            self.wrong.append(f"the summary says {summary['status']}, version {summary['policy_version']}")
        for what in ("rollouts", "tokens"):
            books = summary[what]
            if books["generated"] != sum(count for state, count in books.items() if state != "generated"):
                self.wrong.append(f"{what} of the summary do not balance: {books}")
            said = {state: count for state, count in books.items() if state != "generated"}
            if said != getattr(audit.audit, what):
                self.wrong.append(f"{what} of the summary are not the ledger's: {said}, {getattr(audit.audit, what)}")
        left = [path for path in (paths.weights, paths.keys, paths.recovery) if path.exists()]
        if left:
            self.wrong.append(f"left behind: {left}")
        self.facts = {
            "groups planned again": story.redone,
            "resumes": summary["resumes"],
            "wall_s": summary["wall_s"],
            **{f"rollouts {state}": count for state, count in summary["rollouts"].items()},
            "failures": summary["failures"],
        }
