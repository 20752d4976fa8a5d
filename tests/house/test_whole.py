"""Rules 6 and 7: every output is whole or absent, and nothing is pickled."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.imports import imported
from tests.house.source import ROOT, called, calls, files, module_name, parents, tree

MODULES = files("golf", "stages", "pipeline")
FILES = Path("golf/runtime/files.py")
WRITERS = {".write_text", ".write_bytes", ".tofile", "np.save", "np.savez", "np.savez_compressed", "np.savetxt",
           "torch.save", "save_file", "shutil.copyfile", "shutil.copy", "shutil.copytree", "os.link"}  # fmt: skip
SCOPES = {"whole_file", "whole_directory", "files.whole_file", "files.whole_directory", "tempfile.TemporaryDirectory",
          "TemporaryDirectory"}  # fmt: skip
# Not outputs: logs that grow while they are read, and the locks' own text.
EXEMPT = {
    "pipeline/serve.py",
    "pipeline/mlflow_store.py",  # opens its lock; a copy of a database that is not the graph's
    "golf/runtime/isolate.py",  # the kernel's files
}
FORBIDDEN = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def writes(node: ast.Call) -> bool:
    name = called(node)
    if name == "open" or name.endswith(".open"):
        position = 1 if name in ("open", "gzip.open", "lzma.open") else 0
        modes = [word.value for word in node.keywords if word.arg == "mode"] or node.args[position : position + 1]
        return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)
    return name in WRITERS or ("." in name and f".{name.rpartition('.')[2]}" in WRITERS)


def within_a_whole_scope(node: ast.AST) -> bool:
    for parent in parents(node):
        if isinstance(parent, ast.With):
            for item in parent.items:
                if isinstance(item.context_expr, ast.Call) and called(item.context_expr) in SCOPES:
                    return True
    return False


Place = tuple[Path, str]  # a file and a function in it ("" at the top)


def place_of(path: Path, node: ast.AST) -> Place:
    return path, next((parent.name for parent in parents(node) if isinstance(parent, ast.FunctionDef)), "")


def bare_writes() -> dict[Place, str]:
    """Functions that write outside a whole scope: whoever calls one answers for it."""
    found: dict[Place, str] = {}
    for path in MODULES:
        if path != FILES and path.as_posix() not in EXEMPT:
            for node, _ in calls(path):
                if writes(node) and not within_a_whole_scope(node):
                    found[place_of(path, node)] = f"{path}:{node.lineno} {ast.unparse(node)[:70]}"
    return found


def references(place: Place) -> Iterator[tuple[Path, ast.AST]]:
    """Where the function is called or passed on: in its own file, and in those that import it."""
    path, function = place
    module = module_name(path)
    for other in MODULES:
        if other == path or module in imported(ROOT / other, ROOT):
            nodes = list(ast.walk(tree(other)))
            named = other == path or any(
                alias.name == function for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
            )
            for node in nodes:
                bare = isinstance(node, ast.Name) and node.id == function and named
                if bare or (isinstance(node, ast.Attribute) and node.attr == function):
                    yield other, node


def test_every_output_is_whole_or_absent() -> None:
    """A write stands in a ``with whole_...`` block, or in a helper that is only ever called from one."""
    waiting = bare_writes()
    seen: set[Place] = set()
    problems = []
    while waiting:
        place, where = waiting.popitem()
        seen.add(place)
        uses = list(references(place)) if place[1] not in ("", "main") else []
        if not uses:
            problems.append(f"{where}, reached from {place[0]} {place[1]}")
        for path, node in uses:
            caller = place_of(path, node)
            if not within_a_whole_scope(node) and caller not in seen:
                waiting[caller] = where
    assert not problems, "\n".join(["written outside whole_file/whole_directory:", *sorted(problems)])


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_is_pickled(path: Path) -> None:
    roots = {name.partition(".")[0] for name in imported(ROOT / path, ROOT)}
    assert not roots & FORBIDDEN
    for node, name in calls(path):
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{path}:{node.lineno}"
        assert name != "torch.save", f"{where}: safetensors and JSON instead"
        assert keywords.get("allow_pickle", "False") == "False", where
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", f"{where}: torch.load without weights_only=True"
        assert not name.startswith("yaml.") or name in ("yaml.safe_load", "yaml.safe_dump"), where
        assert name not in ("eval", "exec"), where


@pytest.mark.parametrize("path", files("stages"), ids=str)
def test_a_stage_writes_through_the_library_s_helpers(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert not writes(node) or within_a_whole_scope(node), f"{path}:{node.lineno}"
