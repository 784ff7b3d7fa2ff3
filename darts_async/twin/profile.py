"""What a twin is told of hardware and workload, as data: a TOML file each, with where every figure comes from.

Times are seconds, lengths tokens. A profile says nothing of what a config says (batch sizes, queues, modes).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import tomli_w

from darts_async.errors import ConfigError
from darts_async.twin.recorded import RecordedGroup

__all__ = [
    "EngineProfile",
    "LearnerProfile",
    "Profile",
    "RewardProfile",
    "Twin",
    "WorkloadProfile",
    "names",
    "read_twin",
    "write_twin",
]

_decode: Final = msgspec.json.Decoder(tuple[RecordedGroup, ...]).decode

NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
AtLeastOne = Annotated[float, msgspec.Meta(ge=1)]


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One generator replica."""

    token_s: Annotated[tuple[tuple[Positive, Positive], ...], msgspec.Meta(min_length=1, max_length=1024)]
    """Per-token latency: (candidates decoding, seconds of a decode step), by rising number. Straight lines between the
    points; beyond the last one its slope goes on, before the first one its value."""
    beside_learner: AtLeastOne = 1.0
    """How much longer a step takes while the learner computes (they share a machine)."""
    start_s: NotNegative = 0.0
    """From a request to its first decode step, beyond what follows; nobody else waits for that."""
    prefill_token_s: NotNegative = 0.0
    """A prompt's token; decoding stands still meanwhile."""
    request_s: NotNegative = 0.0
    """A request's fixed cost; decoding stands still meanwhile."""
    abort_s: NotNegative = 0.0
    """From an abort to the end of its candidates."""
    update_s: NotNegative = 0.0
    """Decoding stands still for a weight swap."""
    kv_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Prompt and response tokens that fit into the cache; 0: any number."""


class LearnerProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The learner, all its processes together."""

    token_s: NotNegative
    """Forward and backward of one token, prompts included."""
    call_s: NotNegative = 0.0
    """Fixed cost of each time that groups are handed to it."""
    step_s: NotNegative = 0.0
    """Optimiser and all that happens once a step."""
    publish_s: NotNegative = 0.0
    """Writing the weights."""
    beside_generator: AtLeastOne = 1.0
    """How much longer everything takes while the engine decodes."""


class RewardProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reward pool."""

    score_s: NotNegative = 0.0
    """One response, in one of its workers."""


class WorkloadProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts, how long their responses are, and which are correct; see `workload.Workload` for the model."""

    prompts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 4096
    prompt_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 32
    median_tokens: Positive = 60.0
    """Median over prompts of their median response length."""
    prompt_sigma: NotNegative = 0.4
    """Spread (standard deviation of the logarithm) of the prompts' medians."""
    sigma: NotNegative = 0.8
    """Spread of lengths within the median prompt."""
    sigma_spread: NotNegative = 0.0
    """Spread of the prompts' own sigmas (standard deviation of their logarithm)."""
    tail_share: Share = 0.0
    """Share of responses from a second, longer log-normal: a heavier tail than one log-normal has."""
    tail_factor: AtLeastOne = 1.0
    """Its median, as a multiple of the prompt's."""
    accuracy: Share = 0.5
    """Of the median prompt."""
    accuracy_spread: NotNegative = 1.0
    """Standard deviation of the prompts' log-odds."""
    length_effect: NotNegative = 0.0
    """Change of the log-odds for each standard deviation of log-length: down in prompts of Pattern I, up in II."""
    pattern_one: Share = 0.6
    """Share of the prompts whose short responses are the better ones."""
    shaping: NotNegative = 0.0
    """How lengths follow selection: each step moves the mean log-length by this times the selection differential
    (mean log-length of what was trained, less the mean of what the policy samples). 0: lengths stay."""
    learning: NotNegative = 0.0
    """How much each step raises the log-odds of a correct response."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine and a workload."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]
    """Where the figures come from."""
    devices: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    """Accelerators in all. The learner's times are with all of them; unless the two take turns on them
    (`pipeline.mode = "sync"`), it has only those that the replicas leave. 0: both have their own."""
    devices_per_replica: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    engine: EngineProfile
    learner: LearnerProfile
    reward: RewardProfile = RewardProfile()
    workload: WorkloadProfile = WorkloadProfile()
    recorded: str = ""
    """A file beside the profile, with lengths and rewards to replay (`recorded`) in the place of the model of them."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A profile with all that belongs to it."""

    profile: Profile
    groups: tuple[RecordedGroup, ...] = ()

    def learner_for(self, replicas: int, *, colocated: bool) -> LearnerProfile:
        """Return the learner beside so many replicas. Raises `ConfigError` when they leave it nothing."""
        profile, learner = self.profile, self.profile.learner
        taken = replicas * profile.devices_per_replica
        if not profile.devices:
            return learner
        left = profile.devices if colocated and taken <= profile.devices else profile.devices - taken
        if left <= 0:
            most = (profile.devices - 1) // profile.devices_per_replica
            rule = (
                f"take {taken} of the {profile.devices} devices of profile {profile.name}: none is left to the learner"
            )
            raise ConfigError("generator.replicas", replicas, rule, f"Set it to {most} or less.")
        slower = profile.devices / left
        return msgspec.structs.replace(learner, token_s=learner.token_s * slower, step_s=learner.step_s * slower)


def names() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(Path(entry.name).stem for entry in _builtin().iterdir() if entry.name.endswith(".toml"))


def read_twin(name_or_path: str) -> Twin:
    """Read a built-in profile by name, or any by path, with its recording. Raises `ConfigError`."""
    folder: Traversable
    if name_or_path.endswith(".toml"):
        folder, file = Path(name_or_path).parent, Path(name_or_path).name
    elif name_or_path in names():
        folder, file = _builtin(), f"{name_or_path}.toml"
    else:
        fix = f"Choose one of {', '.join(names())}, or give the path of a .toml file."
        raise ConfigError("--twin", name_or_path, "is no profile that comes with the package", fix)
    try:
        profile = msgspec.convert(_document(folder, file), Profile)
        groups = _decode((folder / profile.recorded).read_bytes()) if profile.recorded else ()
    except OSError as error:
        raise ConfigError("--twin", name_or_path, f"cannot be read ({error})", "Name a profile's file.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise ConfigError("--twin", name_or_path, f"is not a profile: {error}", "Mend the file.") from error
    points = [count for count, _ in profile.engine.token_s]
    if sorted(set(points)) != points:
        raise ConfigError("engine.token_s", points, "concurrencies must rise", f"Sort the points of {name_or_path}.")
    return Twin(profile, groups)


def _document(folder: Traversable, file: str) -> dict[str, Any]:
    """A profile's TOML. One that `extends` another (a file beside it; one level) has its own keys over that one's."""
    document = tomllib.loads((folder / file).read_text("utf-8"))
    if (base := document.pop("extends", None)) is None:
        return document
    if not isinstance(base, str) or Path(base).name != base:
        raise msgspec.ValidationError(f"extends = {base!r} is no file beside it")
    below = tomllib.loads((folder / base).read_text("utf-8"))
    for key, value in document.items():
        below[key] = {**below[key], **value} if isinstance(value, dict) and isinstance(below.get(key), dict) else value
    return below


def write_twin(twin: Twin, path: Path) -> None:
    """Write a profile, and its recording beside it."""
    profile = twin.profile
    if twin.groups:
        profile = msgspec.structs.replace(profile, recorded=f"{path.stem}.lengths.json")
        (path.parent / profile.recorded).write_bytes(msgspec.json.encode(twin.groups))
    path.write_text(tomli_w.dumps(msgspec.to_builtins(profile)), "utf-8")


def _builtin() -> Traversable:
    return resources.files("darts_async.twin") / "profiles"
