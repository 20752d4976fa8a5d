"""The command: quick to start, an example for each verb, an error one line and its exit code."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline import cli

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "numpy", "dvc", "mlflow", "prefect", "rich", "yaml", "scipy", "pyarrow"}
VERBS = sorted(typer.main.get_command(cli.build()).commands)  # type: ignore[attr-defined]


def fairway(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_starts_in_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        begin = os.times()
        done = fairway("--help")
        end = os.times()
        spent = (end.children_user + end.children_system) - (begin.children_user + begin.children_system)
        seconds.append(spent)  # of a processor, which others may want, too
        assert done.returncode == 0
        assert all(verb in done.stdout for verb in VERBS)
    assert min(seconds) < 0.5  # whoever shares the core only adds


def test_no_verb_is_paid_for_before_it_is_called() -> None:
    code = "import sys; from pipeline import cli; cli.build(); print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(verb: str) -> None:
    done = CliRunner().invoke(cli.build(), [verb, "--help"])
    assert done.exit_code == 0
    assert f"Example: fairway {verb}" in done.stdout


def test_the_command_is_the_package_s_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fairway": "pipeline.cli:main"}


@pytest.mark.parametrize(("arguments", "code"), [(["nope"], 2), (["use", "--nope"], 2), (["use", "nope"], 78)])
def test_a_mistake_is_told_without_a_traceback(arguments: list[str], code: int) -> None:
    done = fairway(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "nope" in done.stderr


def test_outside_a_checkout_the_next_step_is_told(tmp_path: Path) -> None:
    done = fairway("use", "smoke", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fairway: ")


def test_the_list_explains_every_profile() -> None:
    told = fairway("use", "--list").stdout
    for path in (ROOT / "profiles").glob("*.yaml"):
        first = path.read_text().splitlines()[0].lstrip("# ")
        assert " ".join(first.split()[:5]) in told
        assert f"\n{path.stem}" in told
