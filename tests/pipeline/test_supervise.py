"""A supervised command: alone, ended whole, its exit code kept."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.supervise import BusyError, locked, run

ROOT = Path(__file__).resolve().parents[2]

# A command whose grandchild has a session of its own and, when asked to, ignores SIGTERM, as a hung worker does.
TREE = """
import pathlib, signal, subprocess, sys, time
deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if sys.argv[2] == "deaf" else ""
grandchild = f"import signal, time; {deaf}print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", grandchild], start_new_session=True, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another folder, and signals as a terminal has them: children inherit what nohup, or a script's &, made deaf."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def written(path: Path) -> bool:
    return path.exists() and path.read_text().strip().isdigit()


def supervised(tmp_path: Path, kind: str, sleep: float, grace: float) -> tuple[subprocess.Popen, int]:
    pids = tmp_path / "pid"
    command = [sys.executable, "-c", TREE, str(pids), kind, str(sleep)]
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "pipeline.supervise", "--grace", str(grace), "tree", "--", *command]
    )
    wait_for(lambda: written(pids))
    return supervisor, int(pids.read_text())


@pytest.mark.parametrize("code", [0, 1, 65, 75])
def test_exit_code_is_the_command_s(code: int) -> None:
    assert run([sys.executable, "-c", f"raise SystemExit({code})"], "x") == code


def test_a_signal_s_exit_code_is_a_shell_s() -> None:
    assert run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "x") == 128 + 9


def test_a_missing_command_says_so() -> None:
    lines: list[str] = []
    assert run(["no-such-command"], "x", on_line=lines.append) == 127
    assert lines == ["supervise: no-such-command: No such file or directory"]


def test_descriptors_have_numbers_above_a_thousand() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"no more than {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1030):
            opened.enter_context(open(os.devnull))
        assert run([sys.executable, "-c", "raise SystemExit(65)"], "x") == 65


def test_output_comes_line_by_line() -> None:
    lines: list[str] = []
    code = "import sys; print('a'); sys.stdout.flush(); print('b', file=sys.stderr)"
    assert run([sys.executable, "-c", code], "x", on_line=lines.append) == 0
    assert lines == ["a", "b"]


def test_python_is_this_python() -> None:
    lines: list[str] = []
    run(["python", "-c", "import sys; print(sys.prefix)"], "x", on_line=lines.append)
    assert lines == [sys.prefix]


def test_the_lock_says_who_holds_it() -> None:
    with locked("graph"):
        with pytest.raises(BusyError, match=rf"\.locks/graph: held by process {os.getpid()} since 20\d\d-"):
            run(["true"], "graph")
        assert run(["true"], "another") == 0
    assert run(["true"], "graph") == 0


@pytest.mark.parametrize("kind", ["polite", "deaf"])
def test_killing_the_supervisor_ends_children_and_grandchildren(tmp_path: Path, kind: str) -> None:
    supervisor, grandchild = supervised(tmp_path, kind, 600, grace=1.0)
    child = int(Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[1])
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not alive(child) and not alive(grandchild))
    wait_for(lambda: _free("tree"))


def _free(name: str) -> bool:
    with contextlib.suppress(BusyError), locked(name):
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_whole_tree(tmp_path: Path, number: int) -> None:
    supervisor, grandchild = supervised(tmp_path, "polite", 600, grace=20.0)
    begin = time.monotonic()
    supervisor.send_signal(number)
    assert supervisor.wait(15) in (128 + number, 1)  # 1: Python's own KeyboardInterrupt
    assert not alive(grandchild)
    assert time.monotonic() - begin < 10, "nobody was deaf: no need to wait for the end of the grace"


def test_a_deaf_grandchild_is_killed_after_the_grace(tmp_path: Path) -> None:
    supervisor, grandchild = supervised(tmp_path, "deaf", 600, grace=1.0)
    supervisor.terminate()
    assert supervisor.wait(20) == 128 + signal.SIGTERM
    assert not alive(grandchild)


def test_without_proc_the_command_is_ended_all_the_same(tmp_path: Path) -> None:
    """macOS has no /proc to find processes in; a Ctrl-C there must still end what it can reach."""
    code = "import os, pathlib, sys; from pipeline import watcher; watcher.descendants = dict; " \
        "sys.exit(watcher.Watcher(os.pipe()[0], 0, 2.0).run(sys.argv[1:]))"  # fmt: skip
    pids = tmp_path / "pid"
    child = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, sys.executable, "-c", child])
    wait_for(lambda: written(pids))
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert not alive(int(pids.read_text()))


def test_what_a_finished_command_left_running_is_ended(tmp_path: Path) -> None:
    supervisor, grandchild = supervised(tmp_path, "polite", 0, grace=20.0)
    assert supervisor.wait(15) == 0
    assert not alive(grandchild)


def test_the_lock_is_held_until_the_last_process_is_gone(tmp_path: Path) -> None:
    supervisor, grandchild = supervised(tmp_path, "deaf", 600, grace=2.0)
    supervisor.kill()
    supervisor.wait()
    with pytest.raises(BusyError):
        run(["true"], "tree")
    wait_for(lambda: not alive(grandchild))


def test_an_exception_in_the_wait_ends_the_command(tmp_path: Path) -> None:
    class Cancelled(BaseException):
        pass

    def cancel(line: str) -> None:
        (tmp_path / "pid").write_text(line)
        raise Cancelled

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(Cancelled):
        run([sys.executable, "-c", code], "x", on_line=cancel)
    assert not alive(int((tmp_path / "pid").read_text()))


def command_line(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.supervise", *words], capture_output=True, text=True, check=False
    )


def test_the_command_line_passes_everything_after_the_dashes() -> None:
    done = command_line("x", "--", sys.executable, "-c", "import sys; print(sys.argv)", "-n", "--", "a b")
    assert done.stdout == "['-c', '-n', '--', 'a b']\n"


def test_no_command_is_an_error() -> None:
    assert command_line("x").returncode == 2


def test_a_busy_lock_exits_with_the_code_that_is_retried() -> None:
    with locked("x"):
        done = command_line("x", "--", "true")
    assert done.returncode == 75
    assert done.stderr.startswith("supervise: .locks/x: held by process")


def test_a_command_that_ends_at_once_is_never_missed() -> None:
    """A hundred of them: the exit code of a child that is gone before anyone waits must still arrive."""
    assert [run([sys.executable, "-S", "-c", ""] if i % 10 == 0 else ["true"], "x") for i in range(100)] == [0] * 100
    assert [run(["false"], "x") for _ in range(30)] == [1] * 30


def test_a_supervisor_with_a_thousand_open_files_still_runs_and_ends_a_command() -> None:
    """What it passes on then has numbers that select refuses."""
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert run([sys.executable, "-S", "-c", "raise SystemExit(3)"], "many") == 3


def test_a_lock_that_another_process_makes_meanwhile_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "new", os.open

    def slow(name: object, flags: int, *more: int) -> int:
        if name == path and flags & os.O_CREAT:
            os.close(real(path, os.O_WRONLY | os.O_CREAT))  # somebody else is quicker
        return real(name, flags, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", slow)
    with locked("new", tmp_path), pytest.raises(BusyError), locked("new", tmp_path):
        pass
