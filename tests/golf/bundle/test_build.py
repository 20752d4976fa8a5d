import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from golf.bundle.build import PROGRAM, archive, build, closure, imports, join, minify
from golf.runtime.errors import FairwayError, MissingInput

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "train_gpt.py"
    path.write_bytes(build(ROOT)[0])
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


def test_the_same_sources_give_the_same_bytes(program: Path) -> None:
    command = "import sys; from golf.bundle.build import build; sys.stdout.buffer.write(build()[0])"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    again = subprocess.run([sys.executable, "-c", command], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert again.stdout == program.read_bytes()


def test_help_answers_without_torch(program: Path) -> None:
    result = run(program, "--help")
    assert result.returncode == 0
    for verb in ("train", "evaluate", "audit", "score"):
        assert verb in result.stdout
    code = (
        "import runpy, sys; sys.argv = ['train_gpt.py', '--help']\n"
        "try: runpy.run_path('train_gpt.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'scipy') if name in sys.modules])"
    )
    found = interpret(program, code)
    assert found.stdout.splitlines()[-1] == "[]"


def test_every_module_imports_and_none_from_the_repository(program: Path) -> None:
    code = f"""
import importlib, inspect, runpy, sys
runpy.run_path("train_gpt.py", run_name="__mp_main__")
names = sys.meta_path[0].sources
for name in names:
    importlib.import_module(name)
ours = {{name: module for name, module in sys.modules.items() if name.split(".")[0] in ("golf", "stages", "pipeline")}}
assert set(ours) == set(names), set(ours) ^ set(names)
for name, module in ours.items():
    assert "train_gpt.py" in module.__file__, module.__file__
    assert module.__loader__ is sys.meta_path[0]
repository = {str(ROOT)!r}
paths = [str(getattr(module, "__file__", "") or "") for module in list(sys.modules.values())]
strangers = [path for path in paths if path.startswith(repository)]
assert not [path for path in strangers if "site-packages" not in path], strangers
from golf.codec.container import decode
from golf.model.transformer import Transformer
assert inspect.getsource(decode).startswith("def decode(")
assert "def forward" in inspect.getsource(Transformer)
try:
    decode(b"no")
except Exception as error:
    import traceback
    assert "raise" in "".join(traceback.format_exception(error))
print("well")
"""
    result = interpret(program, code)
    assert result.stdout.strip() == "well", result.stderr


def test_it_holds_what_it_needs_and_nothing_else(program: Path) -> None:
    names = set(closure(ROOT, PROGRAM))
    assert {"golf", "golf.codec.container", "golf.model.transformer", "golf.scoring.evaluator", PROGRAM} <= names
    assert not {name for name in names if name.startswith(("golf.stats", "golf.records", "golf.bundle.build"))}
    with zipfile.ZipFile(program) as file:
        assert file.namelist() == ["__main__.py", "modules.lzma"]
        assert file.testzip() is None


def test_its_size(program: Path) -> None:
    assert program.stat().st_size < 62_000  # the kernels of training are 5,000 of them


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "VERB"),
        (["fly"], 2, "invalid choice"),
        (["evaluate"], 2, "required"),
        (["score", "--artifact", "x"], 2, "one of the arguments"),
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


def test_minified_source_does_the_same() -> None:
    source = '''
"""Docstring."""
from dataclasses import dataclass

@dataclass(frozen=True)
class Point:
    """Another."""
    x: int = 1  # comment
    label: str = "a # b"

def add(first: int, *, second_number: int = 2) -> int:
    """Third."""
    total_of_both: int = first + second_number
    return total_of_both
'''
    short = minify(source, "m")
    assert "Docstring" not in short
    assert "comment" not in short
    assert "total_of_both" not in short
    space: dict = {}
    exec(short, space)
    assert space["add"](3, second_number=4) == 7
    assert space["Point"]().label == "a # b"
    assert space["Point"].__annotations__


def test_names_that_triton_reads_are_kept() -> None:
    kernel = "def kernel(x, BLOCK: 'tl.constexpr'):\n    local_name = x + BLOCK\n    return local_name\n"
    source = "import triton\n@triton.jit\n" + kernel
    short = minify(source, "m")
    assert "BLOCK:" in short
    assert "local_name" in short


def test_a_module_that_is_no_python_is_named() -> None:
    with pytest.raises(FairwayError, match="m, line 2"):
        minify("x = 1\ny = = 2\n", "m")


def test_what_would_part_modules_is_refused() -> None:
    with pytest.raises(FairwayError, match="form feed"):
        join({"m": "x = 1\f\ny = 2"})


def test_archives_are_reproducible() -> None:
    assert archive("pass", "\fm\nx=1") == archive("pass", "\fm\nx=1")
