"""Build the wheel, install it into an environment of its own, and do there what a newcomer does: no checkout in sight.

The environment finds the dependencies of the interpreter that runs this, but not the package itself: what is missing
from the wheel (configs, templates, the quickstart policy, profiles) is missing there. The engine is the simulated one.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_SIM = ("--generator.engine", "sim", "--generator.engine_args.token_s", "0.002", "--eval.prompts", "8")
_SCRIPT = """
from pathlib import Path
import darts_async
with Path("script-ran.txt").open("a") as file:
    file.write("once\\n")
from my_task import MyTask, brief, correct
sim = {"engine": "sim", "engine_args": {"token_s": 0.002}}
steps = {"name": "python", "steps": 2}
result = darts_async.run(task=MyTask, reward=[correct, brief], generator=sim, run=steps, eval__prompts=8)
print(result)
assert result.status == "done" and result.steps == 2 and len(result.metrics()) == 2, result.summary
assert result.checkpoint is not None and result.report().is_file()
assert Path("script-ran.txt").read_text() == "once\\n", "the script was run by more than one process"
"""

_PRESETS = """
from darts_async.config import builtin_configs, load_config
from darts_async.launcher.preflight import check
names = sorted(path.stem for path in builtin_configs().glob("*.toml"))
assert len(names) > 8, names
for name in names:
    config = load_config(name)
    if config.model.path == "quickstart":  # others name a model folder that has to be made first
        assert check(config, name).prompts.train
"""


class Installed:
    """The wheel in an environment of its own, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        """Build and install it."""
        wheels = folder / "wheels"
        self._run(_uv(), "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(_ROOT), where=folder)
        (self.wheel,) = wheels.glob("*.whl")
        home = folder / "environment"
        venv.create(home, with_pip=False, symlinks=True)
        self.python = home / "bin" / "python"
        command = (_uv(), "pip", "install", "--quiet", "--no-deps", "--python", str(self.python), str(self.wheel))
        self._run(*command, where=folder)
        (packages,) = home.glob("lib/python*/site-packages")
        # A line of a .pth file is a folder to look in, last of all; .pth files in there (an editable install) are not
        # read.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.work = folder / "work"
        self.work.mkdir()

    def command(self, *words: str) -> str:
        """Run `darts-async` there; return its output."""
        return self._run(str(self.python.with_name("darts-async")), *words, where=self.work)

    def script(self, text: str) -> str:
        """Run a Python program there; return its output."""
        file = self.work / "script.py"
        file.write_text(text)
        return self._run(str(self.python), str(file), where=self.work)

    def _run(self, *command: str, where: Path) -> str:
        began = time.monotonic()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
        shown = " ".join(Path(word).name if word.startswith("/") else word for word in command)
        print(f"{time.monotonic() - began:6.1f} s  {shown}", flush=True)
        if done.returncode:
            raise SystemExit(f"{shown} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def check(installed: Installed) -> None:
    """Do what a newcomer does. Raises `SystemExit` with the output of what fails."""
    where = installed.script("import darts_async, actors; print(darts_async.__file__, actors.__file__)").split()
    inside = [Path(path).is_relative_to(installed.python.parent.parent) for path in where]
    assert all(inside), f"not the wheel: {where}"
    installed.script(_PRESETS)
    installed.command("up", "--dry-run")
    installed.command("init", "mine")
    installed.work = installed.work / "mine"
    installed.command("up", "my_run.toml", *_SIM, "--run.steps", "2", "--run.name", "starter")
    summary = json.loads((installed.work / "runs" / "starter" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("done", 2), summary
    installed.command("report", "runs/starter")
    installed.command("replay", "runs/starter", "--check")
    installed.command("tune", "--twin", "cpu_quickstart", "--trials", "3")
    installed.command("completion", "bash")
    installed.script(_SCRIPT)


def main() -> int:
    """Check it; return the exit status."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="darts-wheel-") as folder:
        installed = Installed(Path(folder))
        check(installed)
        print(f"{installed.wheel.name} ({installed.wheel.stat().st_size / 1e6:.1f} MB) does it all by itself")
    return 0


if __name__ == "__main__":
    sys.exit(main())
