"""`darts-async init`: a config and a task to begin with, written as they stand beside this file.

Both run as they are, with the policy that ships with the package. Invariant: nothing that is there is overwritten;
either all files are written or none.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import Final

from darts_async.errors import ConfigError

__all__ = ["FILES", "write_starter"]

FILES: Final = ("my_run.toml", "my_task.py")
_HERE: Final = Path(__file__).resolve().parent


def write_starter(folder: Path) -> list[str]:
    """Write the files; return what to tell the user. Raises `ConfigError` when one is there already."""
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        rule = f"{' and '.join(taken)} {'is' if len(taken) == 1 else 'are'} there already, and stay as they are"
        raise ConfigError("FOLDER", str(folder), rule, "Name another folder.")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with (folder / name).open("xb") as file:  # "x": whoever was faster keeps it
                written.append(folder / name)
                file.write((_HERE / name).read_bytes())
    except OSError as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        rule = f"cannot be written ({error.strerror or error})"
        raise ConfigError("FOLDER", str(folder), rule, "Name a folder that you may write to.") from None
    enter = [] if folder.absolute() == Path.cwd() else [f"  cd {shlex.quote(str(folder))}"]
    return [
        f"wrote {folder / FILES[0]} (what a run is made of) and {folder / FILES[1]} (its prompts and rewards); next:",
        "",
        *enter,
        f"  darts-async up {FILES[0]} --dry-run     # check everything, start nothing",
        f"  darts-async up {FILES[0]}               # train; some two minutes on two cores, no GPU",
    ]
