import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError
from golf.runtime.files import write_json
from golf.train.connect import machine_failures
from golf.train.launch import KILLED, _cause, reported

ROOT = Path(__file__).resolve().parents[3]


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "NCCL error in: ProcessGroupNCCL.cpp:1234, remote process exited or there was a network error",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234",
    ],
)
def test_a_failing_machine_is_worth_a_retry(text: str) -> None:
    with pytest.raises(FairwayError, match="the machine failed: ") as caught, machine_failures():
        fail(RuntimeError(text + "\nmore"))
    assert caught.value.code == Exit.RETRY


def test_our_own_mistakes_and_too_little_memory_are_not() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), machine_failures():
        fail(RuntimeError("The size of tensor a (3) must match"))
    with pytest.raises(FairwayError, match="micro_batch_tokens") as caught, machine_failures():
        fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"))
    assert caught.value.code == Exit.FAILURE
    with pytest.raises(DataError), machine_failures():
        fail(DataError("NCCL in a file's name"))


def test_a_rank_leaves_word_of_what_ended_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf.train.launch.die_with", lambda _: None)
    word = tmp_path / "failure.json"
    assert reported(lambda: None, word) == 0
    assert not word.exists()
    assert reported(lambda: fail(ConfigError("a: found 1, needed 2")), word) == Exit.CONFIG
    assert reported(lambda: fail(DataError("later")), word) == Exit.DATA
    cause = _cause(word, 1)
    assert (str(cause), cause.code) == ("a: found 1, needed 2", Exit.CONFIG)
    word.unlink()
    with pytest.raises(ZeroDivisionError):
        reported(lambda: print(1 // 0), word)
    noted = json.loads(word.read_text())
    assert noted["code"] == Exit.FAILURE
    assert noted["message"].startswith("rank failed: ZeroDivisionError: ")
    assert _cause(tmp_path / "none.json", 1).code == Exit.RETRY
    lost = {"code": 75, "message": "the machine failed: Read error: Connection reset by peer"}
    write_json(word, lost)
    assert "reset by peer" in str(_cause(word, 1))
    assert "one was killed" in str(_cause(word, KILLED)), "which is the cause, and not what its peer says of it"
    write_json(word, {"code": 75, "message": "the machine failed: no first exchange"})
    assert "first exchange" in str(_cause(word, KILLED)), "it killed itself, and has said why"
    with pytest.raises(DataError):
        reported(lambda: fail(DataError("alone")), None)


RANK = """
import os, sys, time
from golf.runtime.errors import DataError, run_main
from golf.train.launch import launch, reported
from golf.train.distributed import started_by_torchrun
from pathlib import Path
def work():
    if sys.argv[1] == "fail":
        raise DataError("shard 3: found 1, needed 2")
    if sys.argv[1] == "killed":
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), 9)
        time.sleep(0.5)
        raise RuntimeError("gloo: Read error: Connection reset by peer")
    Path(sys.argv[2]).mkdir(exist_ok=True)
    (Path(sys.argv[2]) / str(os.getpid())).touch()
    time.sleep(100)
def main():
    if not started_by_torchrun():
        launch("rank", sys.argv[1:3], 2, 1)
        return
    code = reported(work, Path(sys.argv[-1]))
    if code:
        sys.exit(code)
run_main("rank", main)
"""


def start(tmp_path: Path, mode: str) -> subprocess.Popen[str]:
    (tmp_path / "rank.py").write_text(RANK)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-m", "rank", mode, str(tmp_path / "pids")]
    return subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_rank_s_error_is_the_last_line_and_the_exit_code(tmp_path: Path) -> None:
    process = start(tmp_path, "fail")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == Exit.DATA
    assert errors.splitlines()[-1] == "rank: shard 3: found 1, needed 2"
    assert "exitcode: 65" in errors, "torchrun's word"
    assert "Traceback" not in errors


def test_a_rank_that_was_killed_is_told_and_not_that_another_one_lost_it(tmp_path: Path) -> None:
    process = start(tmp_path, "killed")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == Exit.RETRY
    last = errors.splitlines()[-1]
    assert re.search(r"one was killed, as the kernel does when memory runs out. Try: .*micro_batch_tokens", last), last


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ranks_end_with_their_launcher_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "sleep")
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 60
    while not (pids.is_dir() and len(list(pids.iterdir())) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == Exit.RETRY
        assert f"ended by {number.name}" in errors.splitlines()[-1]
        assert "Traceback" not in errors
    deadline = time.monotonic() + 45
    while any(alive(int(path.name)) for path in pids.iterdir()):
        assert time.monotonic() < deadline, "a rank outlived its launcher"
        time.sleep(0.1)
