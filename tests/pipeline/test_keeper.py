"""Saves after each stage: in the background, told loudly when they fail, never in the run's way."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from golf.runtime.errors import FairwayError
from pipeline import flows, keeper, share
from pipeline.keeper import PUSH, SAVE, Keeper
from tests.pipeline.prefect_server import make_repository


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saving(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"open('saves', 'a').write('x'); {code}"]


def hear(found: Keeper, stage: str) -> None:
    for line in (f"Running stage '{stage}':", "> python x", "Updating lock file 'dvc.lock'"):
        found.heard(line)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_each_stage_is_saved_once_it_has_ended() -> None:
    told, warned, saved = [], [], []
    with Keeper(saving(""), told.append, warned.append, saved.extend) as found:
        found.heard("Running stage 'train@42':")
        time.sleep(0.2)
        assert not Path("saves").exists()
        hear(found, "train@42")
        wait_for(lambda: saved == ["train@42"])
        found.heard("Stage 'gate@42' didn't change, skipping")
        hear(found, "select@42")
        hear(found, "quantize@42")
    assert saved == ["train@42", "select@42", "quantize@42"]
    assert len(Path("saves").read_text()) in (2, 3), "what ends meanwhile is one save"
    assert told[0].startswith("saved after train@42: ")
    assert not warned


def test_a_save_that_fails_is_told_loudly_tried_again_and_stops_nothing() -> None:
    warned, saved = [], []
    code = "import os, sys; print('fail  cache  remote is full'); sys.exit(74 if len(open('saves').read()) < 3 else 0)"
    with Keeper(saving(code), print, warned.append, saved.extend) as found:
        hear(found, "train@42")
        wait_for(lambda: len(warned) == 1)
        hear(found, "select@42")
        wait_for(lambda: len(warned) == 2)
    assert warned[0] == "NOT SAVED after train@42: fail  cache  remote is full; the run goes on"
    assert "train@42, select@42" in warned[1]
    assert saved == ["train@42", "select@42"]


def test_a_failed_run_is_saved_to_its_last_stage_and_a_cancelled_one_does_not_wait() -> None:
    saved: list[str] = []

    def run(code: str, error: BaseException) -> None:
        before = len(Path("saves").read_text()) if Path("saves").exists() else 0
        with Keeper(saving(code), print, print, saved.extend) as found:
            hear(found, "train@42")
            wait_for(lambda: Path("saves").exists() and len(Path("saves").read_text()) > before)
            raise error

    with pytest.raises(FairwayError):
        run("", FairwayError("gate: too big"))
    assert saved == ["train@42"]
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(600)", KeyboardInterrupt())
    assert time.monotonic() - begin < 10


def test_paid_is_saved_whole_and_shared_is_pushed() -> None:
    assert keeper.command("", paid=True) == keeper.command("", paid=False) == ()
    assert keeper.command("s3://x", paid=False) == PUSH
    assert keeper.command("s3://x", paid=True) == SAVE


@pytest.mark.slow
def test_a_paid_run_is_on_the_remote_stage_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real save: while the last stage computes, a machine that dies takes nothing of the others with it."""
    (tmp_path / "how").write_text("0")
    root = make_repository(tmp_path / "paid", tmp_path, tmp_path / "remote")
    monkeypatch.chdir(root)
    text = (root / "params.yaml").read_text().replace("dollars_per_hour: 0.0", "dollars_per_hour: 20.0")
    (root / "params.yaml").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(share.__file__).removesuffix("/pipeline/share.py"))
    said: list[str] = []
    warned: list[str] = []
    flows.reproduce(["evaluate"], said.append, warned.append)
    assert sum(line.startswith("saved after ") for line in said) >= 1, said + warned
    assert list((tmp_path / "remote/fairway/saves").iterdir())
    (root / ".dvc/config.local").write_text("")
    text = text.replace("matrix_lr: ", "matrix_lr: 1")
    (root / "params.yaml").write_text(text)
    flows.reproduce(["fetch"], said.append, warned.append)
    assert warned[-1].startswith("NOT SAVED: a paid run, and no DVC remote")
