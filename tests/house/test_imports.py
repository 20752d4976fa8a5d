"""Rule 1: nothing happens at import. And: golf and stages run where only their few packages exist."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.imports import imported
from tests.house.source import ROOT, called, files, module_name, tree

ALLOWED = {"torch", "numpy", "scipy", "sentencepiece", "safetensors", "yaml", "brotli", "zstandard"}
LAZY = {"rich", "huggingface_hub", "triton", "flash_attn", "flash_attn_interface", "pyarrow", "python_minifier",
        "pynvml"}  # fmt: skip
HEAVY = sorted({"mlflow", "prefect", "dvc", "ruamel", "altair", "vl_convert", *LAZY})
CONSTANTS = {  # what may be called at the top of a module: it makes a value and nothing else
    "re.compile", "Path", "frozenset", "set", "tuple", "dict", "TypeVar", "struct.Struct", "Struct", "np.dtype",
    "float", "int", "len", "max", "min", "sum", "range", "math.log", "math.sqrt", "sorted", "field", "MappingProxyType",
    "bytes", "np.array", "NewType", "ContextVar", "logging.getLogger", "importlib.util.find_spec", "namedtuple",
}  # fmt: skip

PROBE = """
import importlib, json, sys
import torch, numpy, scipy.stats, scipy.special, sentencepiece, safetensors.torch, yaml
before, effects = set(sys.modules), []
def watch(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event in ("os.mkdir", "os.remove", "os.rename", "subprocess.Popen", "socket.connect", "os.putenv"):
        effects.append(f"{event} {args[0]}")
sys.addaudithook(watch)
blocked, names = json.loads(sys.argv[1])
for name in blocked:
    sys.modules[name] = None
for name in names:
    try:
        importlib.import_module(name)
    except BaseException as error:
        effects.append(f"import {name}: {type(error).__name__}: {error}")
new = {name.split(".")[0] for name in set(sys.modules) - before if sys.modules[name] is not None}
print(json.dumps({"effects": effects, "new": sorted(new), "cuda": torch.cuda.is_initialized()}))
"""


def probe(names: list[str], blocked: list[str], folder: Path) -> dict:
    command = [sys.executable, "-B", "-c", PROBE, json.dumps([blocked, names])]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_everything_has_no_effect(tmp_path: Path) -> None:
    found = probe([module_name(path) for path in files("golf", "stages", "pipeline")], [], tmp_path)
    assert not found["effects"]
    assert not set(found["new"]) & set(HEAVY), "these belong inside the function that needs them"
    assert not found["cuda"]
    assert not list(tmp_path.iterdir())


def test_golf_and_stages_import_without_the_tools_around_them(tmp_path: Path) -> None:
    found = probe([module_name(path) for path in files("golf", "stages")], [*HEAVY, "pipeline"], tmp_path)
    assert not found["effects"]


@pytest.mark.parametrize("path", files("golf", "stages"), ids=str)
def test_only_the_few_packages(path: Path) -> None:
    own = {"golf", "stages"} if path.parts[0] == "stages" else {"golf"}
    roots = {name.split(".")[0] for name in imported(ROOT / path, ROOT)}
    foreign = roots - set(sys.stdlib_module_names) - ALLOWED - LAZY - own - {"__future__"}
    assert not foreign, f"{path} may not import {sorted(foreign)}"


@pytest.mark.parametrize("path", files("golf", "stages", "pipeline"), ids=str)
def test_the_top_of_a_module_only_defines(path: Path) -> None:
    classes = {node.name for node in tree(path).body if isinstance(node, ast.ClassDef)}
    for node in tree(path).body:
        assert _only_defines(node, classes), f"{path}:{node.lineno} does something at import: {ast.unparse(node)[:80]}"


def _only_defines(node: ast.stmt, classes: set[str]) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        roots = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom) and node.module:
            roots = {node.module.split(".")[0]}
        return not roots & set(HEAVY)
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        made = {called(child) for child in ast.walk(node) if isinstance(child, ast.Call)}
        return all(name in CONSTANTS or name.startswith(".") or name in classes for name in made)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        test = ast.unparse(node.test)
        return test.startswith("__name__ ") or "TYPE_CHECKING" in test or "sys.version_info" in test
    if isinstance(node, ast.Try):
        return all(_only_defines(child, classes) for child in node.body + node.orelse + node.finalbody)
    return False
