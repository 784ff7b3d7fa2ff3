"""Fail on code that would read or write pickles, or run text as code: what comes from outside is data, never a program.

`python tools/check_no_pickle.py [FILE_OR_FOLDER ...]` (without arguments: darts_async, actors and tools). It reads the
syntax trees, so comments and strings do not count and aliases do: imports of modules that pickle, calls that do so
unless told not to (`torch.load` without `weights_only=True`), collectives and sockets for objects, `multiprocessing`
beyond looking at processes, YAML loaders that build objects, `eval` and `exec`, code of a model's folder.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PICKLING_MODULES = frozenset(
    {"pickle", "_pickle", "cPickle", "pickletools", "copyreg", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    | {"jsonpickle", "multiprocess", "torch.distributed.rpc", "xmlrpc", "ray"}
)
HARMLESS_MULTIPROCESSING = frozenset({"parent_process", "active_children", "current_process", "cpu_count"})
"""They look at processes; everything else there starts some, or sends objects to them."""
HARMLESS_SUBMODULES = frozenset({"multiprocessing.process", "multiprocessing.resource_tracker"})
PICKLING_CALLS = frozenset(
    {"send_pyobj", "recv_pyobj", "send_serialized", "recv_serialized"}
    | {"all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"}
    | {"send_object_list", "recv_object_list", "broadcast_object", "gather_objects"}
    | {"read_pickle", "to_pickle", "loads_pickle", "ProcessPoolExecutor", "SocketHandler", "DatagramHandler"}
)
"""By the last part of their name, whatever they are called on."""
FORBIDDEN_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "torch.save": "pickles; save tensors as safetensors",
    "yaml.load": "builds objects; use safe_load",
    "yaml.load_all": "builds objects; use safe_load_all",
    "yaml.unsafe_load": "builds objects; use safe_load",
    "yaml.unsafe_load_all": "builds objects; use safe_load_all",
    "yaml.full_load": "builds objects; use safe_load",
    "yaml.full_load_all": "builds objects; use safe_load_all",
}
IMPORTERS = frozenset({"importlib.import_module", "import_module", "__import__"})
SAFE_YAML = frozenset({"SafeLoader", "CSafeLoader"})


class _Finder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._names: dict[str, str] = {}
        """What a local name stands for, dotted."""

    def _add(self, node: ast.expr | ast.stmt, what: str) -> None:
        self.found.append((node.lineno, what))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_module(node, alias.name)
            self._names[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level == 0:
            self._check_module(node, module)
        for alias in node.names:
            full = f"{module}.{alias.name}"
            self._names[alias.asname or alias.name] = full
            if node.level:
                continue
            if (_is_pickling(full) and not _is_pickling(module)) or alias.name in PICKLING_CALLS:
                self._add(node, f"import of {full}")
            elif module == "multiprocessing" and not _harmless(full):
                self._add(node, f"import of {full}: sends objects by pickling them")

    def _check_module(self, node: ast.stmt | ast.expr, name: str) -> None:
        if _is_pickling(name):
            self._add(node, f"import of {name}")
        elif name.startswith("multiprocessing.") and name not in HARMLESS_SUBMODULES:
            self._add(node, f"import of {name}: sends objects by pickling them")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._dotted(node)
        if name.count(".") == 1 and name.startswith("multiprocessing.") and not _harmless(name):
            self._add(node, f"{name}: sends objects by pickling them")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._dotted(node.func)
        last = name.rpartition(".")[2]
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if last in PICKLING_CALLS:
            self._add(node, f"call of {last}: pickles")
        elif name == "torch.load" and not _is_constant(keywords.get("weights_only"), True):
            self._add(node, "call of torch.load without weights_only=True")
        elif name in ("yaml.load", "yaml.load_all"):
            loader = keywords.get("Loader", node.args[1] if len(node.args) > 1 else None)
            if loader is None or self._dotted(loader).rpartition(".")[2] not in SAFE_YAML:
                self._add(node, f"call of {name}: {FORBIDDEN_CALLS[name]}")
        elif FORBIDDEN_CALLS.get(name):
            self._add(node, f"call of {name}: {FORBIDDEN_CALLS[name]}")
        elif name in IMPORTERS and node.args and isinstance(node.args[0], ast.Constant):
            self._check_module(node, str(node.args[0].value))
        for flag, what in (("allow_pickle", "pickles"), ("trust_remote_code", "runs code of a model's folder")):
            if flag in keywords and not _is_constant(keywords[flag], False):
                self._add(node, f"{flag} is not False: {what}")
        if "weights_only" in keywords and not _is_constant(keywords["weights_only"], True) and name != "torch.load":
            self._add(node, "weights_only is not True")
        self.generic_visit(node)

    def _dotted(self, node: ast.expr) -> str:
        """The dotted name of an expression, with what its first part was imported as; empty for any other."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            before = self._dotted(node.value)
            return f"{before}.{node.attr}" if before else f"?.{node.attr}"
        return ""


def _is_pickling(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in PICKLING_MODULES)


def _harmless(name: str) -> bool:
    return name.rpartition(".")[2] in HARMLESS_MULTIPROCESSING or name in HARMLESS_SUBMODULES


def _is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def findings(source: str) -> list[tuple[int, str]]:
    """Return (line, what) for everything in a source text that is not allowed. Raises `SyntaxError`."""
    finder = _Finder()
    finder.visit(ast.parse(source))
    return sorted(set(finder.found))


def python_files(places: Sequence[Path]) -> Iterator[Path]:
    """Yield the Python files among and below some places, sorted."""
    for place in places:
        yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


def main(arguments: Sequence[str]) -> int:
    """Check; print what was found; return the exit status."""
    root = Path(__file__).resolve().parent.parent
    places = [Path(argument) for argument in arguments] or [root / name for name in ("darts_async", "actors", "tools")]
    count, bad = 0, 0
    for path in python_files(places):
        count += 1
        for line, what in findings(path.read_text("utf-8")):
            bad += 1
            print(f"{path}:{line}: {what}")
    print(f"{count} files, {bad} findings" if bad else f"{count} files read and write no pickles and run no text")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
