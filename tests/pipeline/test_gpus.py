"""One run a GPU: by locks that the kernel frees, held by the run and all that it started."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from golf.params.hardware import Hardware
from pipeline import gpus, supervise
from pipeline.supervise import BusyError, started

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from pipeline import gpus
with gpus.held(sys.argv[2:], "train", print, 0, Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervise, "POLL", 0.05)


def holder(folder: Path, *devices: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *devices],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_a_held_gpu_is_refused_by_its_holder_s_name_and_free_when_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with holder(folder, "GPU-b") as process:
        refused = pytest.raises(BusyError, match=rf"GPU-b: held by process {process.pid} since .* in {tmp_path}: train")
        with refused, gpus.held(["GPU-b", "GPU-a"], "evaluate", print, 0, folder):
            pass
        with gpus.held(["GPU-a"], "evaluate", print, 0, folder) as locks:  # the refused one let go of it
            assert len(locks) == 1
        process.kill()
        process.wait()
        with gpus.held(["GPU-b"], "evaluate", print, 0, folder):
            pass


def test_who_waits_says_for_whom_and_gets_it(tmp_path: Path) -> None:
    folder, told = tmp_path / "node", []
    with holder(folder, "GPU-a") as process:
        threading.Timer(0.5, process.kill).start()
        begin = time.monotonic()
        with gpus.held(["GPU-a"], "evaluate", told.append, 30, folder):
            assert 0.3 < time.monotonic() - begin < 20
    assert len(told) == 1, "each holder once"
    assert f"GPU-a: held by process {process.pid}" in told[0]


def test_the_lock_lives_as_long_as_what_the_dead_run_started(tmp_path: Path) -> None:
    """The engine is killed, its rank ignores SIGTERM: the device is not free before the rank is gone."""
    folder = tmp_path / "node"
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    with (
        gpus.held(["GPU-a"], "train", print, 0, folder) as locks,
        started([sys.executable, "-c", deaf], "x", grace=1.0, output=subprocess.PIPE, held=locks) as watcher,
    ):
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "up\n"
        os.close(locks[0])  # as the kernel does when the engine dies
        try:
            with pytest.raises(BusyError), gpus.held(["GPU-a"], "next", print, 0, folder):
                pass
            watcher.terminate()
            with gpus.held(["GPU-a"], "next", print, 30, folder):
                assert watcher.wait(5) == 128 + 9
        finally:
            locks[0] = os.open(os.devnull, os.O_RDONLY)
            os.dup2(locks[0], locks[0])


def test_without_gpus_nothing_is_locked_and_nothing_waits(tmp_path: Path) -> None:
    assert gpus.needed(Hardware(device="cpu")) == []
    with gpus.held([], "a", print, 0, tmp_path / "node"), gpus.held([], "b", print, 0, tmp_path / "node"):
        pass
    assert not (tmp_path / "node").exists()


def test_as_many_devices_as_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "uses_gpu", lambda _: True)
    monkeypatch.setattr(gpus, "visible", lambda: ["a", "b", "c"])
    assert gpus.needed(Hardware()) == ["a", "b", "c"]
    assert gpus.needed(Hardware(processes=2)) == ["a", "b"]


def test_every_user_may_hold_it(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with gpus.held(["GPU-a"], "x", print, 0, folder):
        assert (folder / "GPU-a").stat().st_mode & 0o777 == 0o666
        assert folder.stat().st_mode & 0o7777 == 0o1777
