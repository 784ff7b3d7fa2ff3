"""Fail when a light module imports torch or a model library: the base install and `--dry-run` must do without.

The light modules are everything outside `darts_async.engines`. Each group is imported in a fresh interpreter in which
the heavy packages cannot be found at all, so a late or indirect import is caught too.
"""

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "vllm", "transformers", "accelerate", "safetensors")
_PROBE = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ImportError(f"{{name}} must not be imported here")
sys.meta_path.insert(0, Refuse())
for module in {modules!r}:
    importlib.import_module(module)
"""


def light_modules(root: Path) -> list[str]:
    """Names of all modules of the package that must import without the heavy packages."""
    files = sorted((root / "darts_async").rglob("*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    light = [name.removesuffix(".__init__") for name in names if ".engines" not in name]
    return [*light, "darts_async.engines", "actors.allocator", "actors.selector"]


def main() -> int:
    """Import the light modules; return the exit status."""
    root = Path(__file__).resolve().parent.parent
    modules = light_modules(root)
    result = subprocess.run(
        [sys.executable, "-c", _PROBE.format(heavy=HEAVY, modules=modules)],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        print(result.stderr.strip().splitlines()[-1])
        print("a light module imports a heavy package; the traceback:\n" + result.stderr)
        return 1
    print(f"{len(modules)} light modules import without {', '.join(HEAVY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
