"""Where a run keeps its files. Pure: nothing is made here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darts_async.config.schema import Config

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's shared memory, not a temporary folder
QUICKSTART_POLICY = Path(__file__).resolve().parent.parent / "tasks" / "quickstart_policy"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The run folder's layout (DESIGN: run folder), plus the weights in shared memory."""

    root: Path

    @classmethod
    def of(cls, config: Config) -> RunPaths:
        """Paths of a resolved config (its `run.name` is set)."""
        return cls(Path(config.run.dir).absolute() / config.run.name)

    @property
    def resolved_config(self) -> Path:
        """The config as it runs, every default written out."""
        return self.root / "config.resolved.toml"

    @property
    def live_config(self) -> Path:
        """The config with all that was set while the run went on; absent when nothing was."""
        return self.root / "config.live.toml"

    @property
    def control_file(self) -> Path:
        """Where the run is asked and told, while it goes on."""
        return self.root / "control.json"

    @property
    def starts(self) -> Path:
        """The starts of the run: how long each lasted, and how it ended."""
        return self.root / "starts.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per learner step."""
        return self.root / "metrics.jsonl"

    @property
    def ledger(self) -> Path:
        """Folder of the ledger's MessagePack segments."""
        return self.root / "ledger"

    @property
    def logs(self) -> Path:
        """Folder of `<role>-<rank>.log`."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """Folder of `step_<N>` in Hugging Face format."""
        return self.root / "checkpoints"

    @property
    def spool(self) -> Path:
        """Folder of `step_<v>.spool`, the groups that were trained on since the last checkpoint, and of the journal of
        finished steps."""
        return self.root / "spool"

    @property
    def recovery(self) -> Path:
        """Folder of the one checkpoint, `step_<N>`, that a learner which is started anew goes on from."""
        return self.root / "recovery"

    @property
    def allocator(self) -> Path:
        """Folder of `step_<N>.msgpack`: what the allocator knew when checkpoint N was written."""
        return self.root / "allocator"

    @property
    def trace(self) -> Path:
        """Folder of `<role>-<rank>-<start>.jsonl`: what each process did when."""
        return self.root / "trace"

    @property
    def trace_json(self) -> Path:
        """The same in one file, made when the run ends; for ui.perfetto.dev."""
        return self.root / "trace.json"

    @property
    def summary(self) -> Path:
        """What the run came to."""
        return self.root / "summary.json"

    @property
    def keys(self) -> Path:
        """Folder of the keys of encrypted links, while the run lasts; this user alone can read it."""
        return self.root / "keys"

    @property
    def weights(self) -> Path:
        """Folder of published weight versions, in shared memory where there is some; named by the run folder."""
        tag = hashlib.sha256(str(self.root).encode()).hexdigest()[:16]
        base = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else self.root
        return base / f"darts-async-{tag}"


def model_folder(config: Config) -> Path:
    """The policy's folder: `model.path`, or the policy that ships with the package."""
    return QUICKSTART_POLICY if config.model.path == "quickstart" else Path(config.model.path)
