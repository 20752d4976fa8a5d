import ast
import importlib
import inspect
import io
import json
import lzma
import os
import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import brotli
import pytest
import yaml

from golf.bundle.build import PLAIN, PROGRAM, Built, archive, build, closure, imports, merged, minify, shares
from golf.bundle.optimize import FIXED
from golf.runtime.errors import FairwayError, MissingInput
from golf.runtime.syntax import absolute
from tests.programs import ROOT, checker, shipped

HEAVY = ("torch", "numpy", "scipy")
LEAST_LEFT_OUT = 5_000  # bytes


def document(profile: str = "") -> dict:
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    if profile:
        for name, values in yaml.safe_load((ROOT / f"profiles/{profile}.yaml").read_text()).items():
            sections[name] = sections[name] | values if isinstance(values, dict) else values
    return sections


@cache
def built() -> Built:
    return build(ROOT, document("record"))


def record() -> bytes:
    return built().program


def text_of(program: bytes) -> str:
    """The program's text, as docs/program.md says."""
    with zipfile.ZipFile(io.BytesIO(program)) as file:
        launcher = file.read("__main__.py").decode()
    size = re.search(r"\[:(\d+)\]", launcher)
    assert size is not None, launcher
    codec = brotli if "brotli" in launcher else lzma
    return codec.decompress(program[: int(size[1])]).decode()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "train_gpt.py"
    path.write_bytes(record())
    (path.parent / "check_gpt.py").write_bytes(checker())
    return path


def run(program: Path, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", program.name, *arguments]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False, **more)


def interpret(program: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", code]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)


def package(folder: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for parent in path.relative_to(folder).parents:
            if str(parent) != ".":
                (folder / parent / "__init__.py").touch()
    return folder


def test_the_same_sources_give_the_same_bytes() -> None:
    command = (
        "import json, sys; from golf.bundle.build import build; "
        "sys.stdout.buffer.write(build(document=json.load(sys.stdin)).program)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    again = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT, env=environment, capture_output=True, check=True, input=json.dumps(document("record")).encode(),
    )  # fmt: skip
    assert again.stdout == record()


@pytest.mark.parametrize(
    ("name", "verbs"), [("train_gpt.py", ("train", "evaluate")), ("check_gpt.py", ("audit", "score"))]
)
def test_help_answers_without_torch(program: Path, name: str, verbs: tuple[str, ...]) -> None:
    result = run(program.with_name(name), "--help")
    assert result.returncode == 0
    for verb in verbs:
        assert verb in result.stdout
    if name == "train_gpt.py":
        code = (
            "import runpy, sys; sys.argv = ['train_gpt.py', '--help']\n"
            "try: runpy.run_path('train_gpt.py', run_name='__main__')\n"
            "except SystemExit: pass\n"
            f"print([name for name in {HEAVY} if name in sys.modules])"
        )
        assert interpret(program, code).stdout.splitlines()[-1] == "[]"


def test_all_of_it_runs_and_nothing_is_from_the_repository(program: Path) -> None:
    code = f"""
import inspect, runpy, sys
runpy.run_path("train_gpt.py", run_name="__mp_main__")
module = sys.modules["train_gpt"]
assert not [name for name in sys.modules if name.split(".")[0] in ("golf", "stages", "pipeline")]
repository = {str(ROOT)!r}
paths = [str(getattr(module, "__file__", "") or "") for module in list(sys.modules.values())]
strangers = [path for path in paths if path.startswith(repository)]
assert not [path for path in strangers if "site-packages" not in path], strangers
assert "train_gpt.py" in module.__file__, module.__file__
assert inspect.getsource(module.read_validation).startswith("def read_validation(")
from pathlib import Path
try:
    module.read_validation(Path("nowhere"), Path("nowhere"))
except Exception as error:
    import traceback
    assert "raise" in "".join(traceback.format_exception(error))
print("well")
"""
    result = interpret(program, code)
    assert result.stdout.strip() == "well", result.stderr


def kernels(namespace: dict) -> list[tuple[str, ...]]:
    """Of each Triton kernel, its parameters' annotations; its source must be there to be read, and say ``tl``."""
    found = []
    for value in namespace.values():
        function = getattr(value, "function", None)
        if inspect.isfunction(function) and hasattr(type(value), "compiled"):
            assert "tl.program_id(" in inspect.getsource(function)
            parameters = inspect.signature(function).parameters.values()
            found.append(tuple("" if p.annotation is p.empty else p.annotation for p in parameters))
    return sorted(found)


def test_kernels_are_as_triton_reads_them(program: Path) -> None:
    # In a process of its own: what the program registers with torch under golf's names would take the place of golf's.
    code = f"""
import inspect, json, runpy, sys
runpy.run_path("train_gpt.py", run_name="read")
{inspect.getsource(kernels)}
print(json.dumps(kernels(vars(sys.modules["train_gpt"]))))
"""
    shipped = interpret(program, code)
    assert shipped.returncode == 0, shipped.stderr
    names = ("exclusive", "loss", "mix_norm", "mlp", "rotary")
    modules = [vars(importlib.import_module(f"golf.model.kernels.{name}")) for name in names]
    expected = sorted(kernel for module in modules for kernel in kernels(module))
    assert len(expected) == 9
    assert {"", "tl.constexpr"} == {annotation for kernel in expected for annotation in kernel}
    assert [tuple(kernel) for kernel in json.loads(shipped.stdout)] == expected


def test_it_holds_what_it_needs_and_nothing_else(program: Path) -> None:
    names = set(closure(ROOT, PROGRAM))
    assert {"golf", "golf.codec.container", "golf.model.transformer", "golf.scoring.evaluator", PROGRAM} <= names
    assert not {name for name in names if name.startswith(("golf.stats", "golf.records", "golf.bundle.build"))}
    assert set(built().modules()) <= names
    assert not {"golf.scoring.audit", "golf.scoring.checks", "golf.data.packing", "golf.params.audit"} & set(
        built().modules()
    )
    with zipfile.ZipFile(program) as file:
        assert file.namelist() == ["__main__.py"]
        assert file.testzip() is None


def test_an_audit_finds_the_precision_where_it_sets_it() -> None:
    """Of a model of the program, whose names are others: it would compute in bf16 on a GPU, and no test here see it."""
    assert "compute_dtype=torch.bfloat16 if" in text_of(record())
    assert re.search(r"\(\w+\.compute_dtype\)", text_of(record())), "what reads it"


def test_their_sizes() -> None:
    # recorded steps and documents many in a row are 1,400 of them, Hessians of outputs and gradients 500
    assert len(shipped()) < 57_800
    assert len(record()) < 45_100  # kernels of training and graphs are 6,600 of them
    assert len(shipped()) - len(record()) > LEAST_LEFT_OUT


# What only those components have in their code: a text, a file of theirs, the name of their kernel or parameter.
@pytest.mark.parametrize(
    ("trace", "component"),
    [
        ("documents/", "packed documents"),
        ("BOS (", "packed documents"),
        ("two lanes that begin", "two lanes"),
        ("step-*.safetensors", "checkpoints"),
        ("BarColumn", "the bar"),
        ("H100 PCIe", "peaks of devices"),
        ("dvc repro", "commands of the repository"),
        ("id_to_piece", "the tokenizer"),
        ("document-order", "the audit"),
        ("golf.runtime", "names of modules"),
    ],
)
def test_what_is_left_out_is_not_in_the_text(trace: str, component: str) -> None:
    assert trace not in text_of(record()), component


def test_the_parameters_decide() -> None:
    """The general program has every component; the record's those alone that it uses."""
    general, made = text_of(shipped()), text_of(record())
    for trace in ("documents/", "two lanes that begin"):
        assert trace in general
        assert trace not in made
    for text in (general, made):
        assert "flash_attn_interface" in text  # attention is the machine's choice
        assert "golf::exclude" in text


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "VERB"),
        (["fly"], 2, "invalid choice"),
        (["evaluate"], 2, "required"),
        (
            ["evaluate", *["--artifact", "no.golf", "--shards", ".", "--bytes", "b", "--params", "p", "--out", "o"]],
            66,
            "train_gpt.py evaluate: --artifact no.golf: no such file. Try: ",
        ),
    ],
)
def test_wrong_arguments_cost_one_line(program: Path, arguments: list[str], code: int, text: str) -> None:
    result = run(program, *arguments)
    assert result.returncode == code
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_other_parameters_are_refused(program: Path, tmp_path: Path) -> None:
    """A parameter that was folded has one value; those that were not are free."""
    sections = document("record")
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "shards.json").write_text(json.dumps({"vocab_size": 1024, "bos_id": 1, "splits": {}}))
    (tmp_path / "bytes").touch()
    sections["model"]["smear_gate"] = False
    sections["quant"]["bits"] = 5
    (tmp_path / "params.json").write_text(json.dumps(sections))
    given = [
        f"--shards={folder}",
        f"--bytes={tmp_path}/bytes",
        f"--params={tmp_path}/params.json",
        f"--out={tmp_path}/o",
    ]
    result = run(program, "train", "--seed=1", *given)
    assert result.returncode == 78
    line = result.stderr.strip().splitlines()[-1]
    assert "model.smear_gate: found False, needed True, which this program was built for" in line
    assert "Traceback" not in result.stderr


def test_hardware_is_never_fixed_nor_what_is_tried_in_turn() -> None:
    assert not {"hardware", "audit", "budget"} & set(FIXED)
    assert not {"bits", "embed_bits", "clip_sigma", "damping", "calibration_tokens"} & set(FIXED["quant"])


def test_the_stage_depends_on_what_is_fixed() -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["bundle"]
    for section, keys in FIXED.items():
        assert section in stage["params"] or {f"{section}.{key}" for key in keys} <= set(stage["params"])


def test_stand_ins_have_what_is_asked_of_them() -> None:
    """Every name that the closure imports from a replaced module, and every attribute of its classes that is used."""
    for name, source in closure(ROOT, PROGRAM).items():
        for node in ast.walk(ast.parse(source)):
            base = absolute(node, name.rpartition(".")[0]) if isinstance(node, ast.ImportFrom) else ""
            if base in PLAIN and isinstance(node, ast.ImportFrom):
                defined = vars(importlib.import_module(PLAIN[base]))
                assert {alias.name for alias in node.names} <= set(defined)


def test_the_closure_follows_every_form_of_import(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        {
            "golf/a/one.py": "import golf.b.two\n\ndef f():\n    from golf.b import three, VALUE\n",
            "golf/b/two.py": "from ..c import four\nfrom . import five\nimport os, numpy\n",
            "golf/b/three.py": "try:\n    import golf.d as d\nexcept ImportError:\n    pass\n",
            "golf/b/five.py": "if TYPE_CHECKING:\n    import golf.unused\nelse:\n    import golf.e\n",
            "golf/c/four.py": "",
            "golf/d.py": "import golfing",
            "golf/e.py": "",
            "golf/unused.py": "",
        },
    )
    assert list(closure(root, "golf.a.one")) == [
        "golf", "golf.a", "golf.a.one", "golf.b", "golf.b.five", "golf.b.three", "golf.b.two",
        "golf.c", "golf.c.four", "golf.d", "golf.e",
    ]  # fmt: skip


def test_an_import_of_nothing_is_named(tmp_path: Path) -> None:
    root = package(tmp_path, {"golf/a.py": "import golf.nothing"})
    with pytest.raises(MissingInput, match=r"no module golf\.nothing"):
        closure(root, "golf.a")


def test_relative_imports_of_a_package(tmp_path: Path) -> None:
    root = package(tmp_path, {"golf/a/b.py": ""})
    assert "golf.a.b" in imports("from . import b", "golf.a", root)
    assert imports("from . import b", "golf.a.c", root) == ["golf.a", "golf.a.b"]


def test_a_module_that_is_no_python_is_named(tmp_path: Path) -> None:
    root = package(tmp_path, {"golf/m.py": "x = 1\ny = = 2\n"})
    with pytest.raises(FairwayError, match=r"golf\.m, line 2"):
        closure(root, "golf.m")


def test_minified_source_does_the_same() -> None:
    space: dict = {}
    exec(minify("def add(first, *, second = 2):\n    total = first + second\n    return total\n"), space)
    assert space["add"](3, second=4) == 7


def test_shares_add_up() -> None:
    found = shares({"a": "abc" * 50, "b": "the quick brown fox"}, 1000)
    assert sum(found.values()) == pytest.approx(1000)
    assert found["b"] > found["a"]


@pytest.mark.parametrize("codec", ["lzma", "brotli"])
def test_archives_are_reproducible_and_unpack(codec: str) -> None:
    launcher = (ROOT / "golf/bundle/launcher.py").read_text()
    made = archive(launcher, "x=1", codec)
    assert made == archive(launcher, "x=1", codec)
    assert text_of(made) == "x=1"


def test_imports_are_merged_and_not_made_again() -> None:
    there = {"import sys"}
    text = "import os, sys\nx=1\nfrom a import b\nimport os, re as r\nfrom a import c\n"
    text += "def f():\n import os, json\n import sys\n"
    assert ast.unparse(ast.Module(merged(ast.parse(text).body, there), [])) == (
        "import os, re as r\nfrom a import b, c\nx = 1\n\ndef f():\n    import json\n    pass"
    )
    assert there == {"import sys", "import os", "import re as r", "from a import b", "from a import c"}


def test_no_operator_is_called_with_keywords() -> None:
    """Their schemas have other names for the arguments than the source."""
    tree = ast.parse(text_of(record()).partition("\f")[2])
    operators = {
        n.name for n in tree.body if isinstance(n, ast.FunctionDef) and "custom_op" in ast.unparse(n.decorator_list[:1])
    }
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") in operators
    ]
    assert len(operators) > 10
    assert len(calls) >= len(operators)
    assert not [ast.unparse(call) for call in calls if call.keywords]
