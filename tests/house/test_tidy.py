"""What keeps the house habitable: small files, nothing heavy in Git, nothing in DVC's way."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.house.source import ROOT, files, tree

PYTHON = files("golf", "stages", "pipeline", "tests", "benchmarks")


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_no_file_above_400_lines(path: Path) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", files("golf", "stages", "pipeline"), ids=str)
def test_no_function_above_70_lines(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno
            assert length <= 70, f"{path}:{node.lineno} {node.name}: {length} lines"


@pytest.mark.parametrize("path", files("golf"), ids=str)
def test_golf_knows_nothing_above_it(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(?:from|import) (?:stages|pipeline|dvc|prefect|mlflow)\b", text, re.MULTILINE)


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a Git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_nothing_heavy_is_tracked() -> None:
    heavy = [path.name for path in tracked() if path.is_file() and path.stat().st_size > 500_000]
    assert not heavy


def test_no_output_of_the_graph_is_tracked_by_git_and_by_dvc() -> None:
    outputs = ("build/", "data/raw/", "data/shards/", "data/tokenizer/", "runs/", "reports/curves/", "reports/timing/")
    assert not [path for path in tracked() if path.relative_to(ROOT).as_posix().startswith(outputs)]


def test_dvcignore_keeps_by_products_from_rerunning_stages() -> None:
    lines = set((ROOT / ".dvcignore").read_text().splitlines())
    assert {"__pycache__/", "*.pyc", ".venv/", ".locks/", ".checkpoints/", ".prefect/"} <= lines


def test_dvc_calls_nobody_and_links_instead_of_copying() -> None:
    config = (ROOT / ".dvc" / "config").read_text()
    for line in ("analytics = false", "check_update = false", "autostage = false", "hardlink"):
        assert line in config


def test_constraints_pin_exactly_and_for_every_machine() -> None:
    """A local tag (+cpu) would shut out a GPU machine's own torch; a range would let the tested set drift."""
    for name in ("constraints.txt", "constraints-dev.txt", "constraints-report.txt"):
        pins = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins), name
        names = [re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins]
        assert len(names) == len(set(names)), name
    pins = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0\n" in pins
    assert "fastapi==0.150.0\n" in pins


def test_the_developers_tools_do_not_rerun_the_graph() -> None:
    """`fetch` depends on constraints.txt: a new linter must not be a change of the corpus."""
    pins = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not pins & {"ruff", "mypy", "pytest", "pre-commit", "playwright", "altair"}


def test_small_json_is_a_metric_so_that_the_run_cache_stays_on() -> None:
    """An out with ``cache: false`` switches DVC's run-cache off for its stage, and so does ``persist``."""
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        for out in stage.get("outs") or []:
            assert isinstance(out, str), f"{name}: {out}"
        assert "always_changed" not in stage, name
        assert stage.get("deps"), f"{name}: without dependencies it is never restored"


def test_what_is_drawn_is_made_and_has_its_template() -> None:
    document = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    made = [out for stage in document["stages"].values() for out in stage.get("outs") or []]
    assert set(document["artifacts"]) == {"model"}
    assert document["artifacts"]["model"]["path"] in made
    plots = [*document["plots"], *(plot for stage in document["stages"].values() for plot in stage.get("plots") or [])]
    for (path, look), ours in zip((next(iter(plot.items())) for plot in plots), plots, strict=True):
        if ours in document["plots"]:
            assert any(path.startswith(out + "/") for out in made), path
        if "template" in look:
            assert (ROOT / ".dvc/plots" / f"{look['template']}.json").is_file(), path
