"""What a run trained on, as its ledger tells it: which draws, in which step, with which candidates.

Group numbers are not compared: a draw that was cut off starts again under another one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from darts_async.algorithms.ledger_records import GroupEnded, GroupPlanned, GroupReleased, StepTrained
from darts_async.config.paths import RunPaths
from darts_async.messages import index_of
from darts_async.runtime.ledger_reader import LedgerReader

__all__ = ["Story", "Trained", "differences", "problems", "read_story"]


@dataclass(frozen=True, slots=True, order=True)
class Trained:
    """A group that was trained on."""

    draw: int
    prompt_id: str
    kept: tuple[tuple[int, int, float], ...]
    """Index in the group, tokens and reward of each kept candidate."""


@dataclass(slots=True)
class Story:
    """Of one run."""

    steps: dict[int, list[Trained]] = field(default_factory=dict)
    """Version to its groups, in order of their draws."""
    planned: set[int] = field(default_factory=set)
    """Draws that were ever planned."""
    ends: dict[int, GroupEnded] = field(default_factory=dict)
    """Draw to the end of its last group."""
    redone: int = 0
    """Groups that were planned for a draw that had one before."""

    @property
    def trained(self) -> Counter[int]:
        """How often each draw was trained."""
        return Counter(group.draw for groups in self.steps.values() for group in groups)


def read_story(run: Path) -> Story:
    """Read the ledger of a run that is over. Raises `LedgerDamaged`."""
    story = Story()
    plans: dict[int, GroupPlanned] = {}
    kept: dict[int, GroupReleased] = {}
    for record in LedgerReader(RunPaths(run).ledger, live=False):
        match record:
            case GroupPlanned():
                plans[record.group_id] = record
                story.redone += record.draw in story.planned
                story.planned.add(record.draw)
            case GroupReleased():
                kept[record.group_id] = record
            case GroupEnded():
                story.ends[plans[record.group_id].draw] = record
            case StepTrained():
                story.steps[record.version] = sorted(_trained(plans[one], kept[one]) for one in record.group_ids)
    return story


def _trained(plan: GroupPlanned, release: GroupReleased) -> Trained:
    candidates = sorted((index_of(one.candidate_id), one.tokens, one.reward) for one in release.kept)
    return Trained(plan.draw, plan.prompt_id, tuple(candidates))


def problems(story: Story, *, steps: int, groups_per_step: int) -> list[str]:
    """What is wrong with a run's story by itself: draws that were trained twice or passed over."""
    found = []
    if (made := sorted(story.steps)) != list(range(1, steps + 1)):
        found.append(f"versions {made} were made, not 1 to {steps}")
    short = [version for version, groups in story.steps.items() if len(groups) != groups_per_step]
    if short:
        found.append(f"versions {short} were not made of {groups_per_step} groups")
    if twice := sorted(draw for draw, times in story.trained.items() if times > 1):
        found.append(f"draws {twice} were trained more than once")
    if never := sorted(set(range(max(story.planned, default=-1) + 1)) - story.planned):
        found.append(f"draws {never} were never planned, later ones were")
    # What was cut off by the end of training is behind what was trained, up to what may be under way at a time.
    lost = sorted(
        draw
        for draw, end in story.ends.items()
        if not story.trained[draw] and end.outcome != "rejected" and draw < max(story.planned) - 4 * groups_per_step
    )
    if lost:
        found.append(f"draws {lost} were planned and never trained, though many later ones were")
    return found


def differences(story: Story, unbroken: Story) -> list[str]:
    """Where two runs of the same seed trained on something else (only where staleness is 0 must they agree)."""
    found = []
    for version in sorted(story.steps.keys() | unbroken.steps.keys()):
        here, there = story.steps.get(version, []), unbroken.steps.get(version, [])
        if [group.draw for group in here] != [group.draw for group in there]:
            found.append(f"version {version}: draws {[g.draw for g in here]}, not {[g.draw for g in there]}")
            continue
        for mine, other in zip(here, there, strict=True):
            if mine != other:
                found.append(f"version {version}: {mine}, not {other}")
    return found
