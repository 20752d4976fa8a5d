import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from golf.runtime.errors import Exit, FairwayError, MissingInput
from golf.runtime.sandbox import run_program


def program(folder: Path, body: str) -> Path:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(body))
    return path


def run(path: Path, destination: Path, *args: str, out: tuple[str, ...] = ("out/seen.txt",), **more):
    destination.mkdir(exist_ok=True)
    return run_program(path, list(args), out=out, destination=destination, **{"files": {}, **more})


def test_program_sees_only_the_named_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.setenv("FAIRWAY_SECRET", "1")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "val_000000.bin").write_bytes(b"tokens")
    path = program(
        tmp_path,
        """
        import os, sys
        from pathlib import Path
        names = sorted(str(p) for p in Path().rglob("*") if p.is_file())
        env = [name for name in os.environ if name.startswith(("FAIRWAY", "PYTHON"))]
        try:
            import tests.golf
            env.append("repository")
        except ImportError:
            pass
        Path("out/seen.txt").write_text("\\n".join([*sys.argv[1:], *names, *env]))
        """,
    )
    outputs = run(path, tmp_path / "got", "score", "--x", files={"data": tmp_path / "shards"})
    seen = outputs["out/seen.txt"]
    assert seen == tmp_path / "got" / "seen.txt"
    assert seen.read_text().split("\n") == ["score", "--x", "data/val_000000.bin", "program.py"]


def test_no_network_where_the_kernel_allows_it(tmp_path: Path) -> None:
    path = program(
        tmp_path,
        """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        local = socket.create_connection(server.getsockname(), 5)
        outer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            outer.connect(("192.0.2.1", 9))
            text = "reachable"
        except OSError:
            text = "unreachable"
        open("out/seen.txt", "w").write(text)
        """,
    )
    outputs = run(path, tmp_path / "got")
    if outputs.network != "none":
        pytest.skip(outputs.network)
    assert outputs["out/seen.txt"].read_text() == "unreachable"


@pytest.mark.parametrize(("code", "expected"), [(65, Exit.DATA), (3, Exit.FAILURE), (75, Exit.RETRY)])
def test_exit_code_is_kept(tmp_path: Path, code: int, expected: Exit) -> None:
    with pytest.raises(FairwayError, match=f"program.py audit: exit code {code}") as caught:
        run(program(tmp_path, f"raise SystemExit({code})"), tmp_path / "got", "audit")
    assert caught.value.code == expected
    assert list((tmp_path / "got").iterdir()) == []


def test_missing_output_missing_input_and_overrun_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FairwayError, match=r"left no out/seen\.txt"):
        run(program(tmp_path, "pass"), tmp_path / "got")
    with pytest.raises(MissingInput, match=r"model\.golf"):
        run(program(tmp_path, "pass"), tmp_path / "got", files={"model.golf": tmp_path / "model.golf"})
    with pytest.raises(FairwayError, match=r"still running after 0\.3 s"):
        run(program(tmp_path, "import time; time.sleep(60)"), tmp_path / "got", limit_seconds=0.3)
    with pytest.raises(FairwayError, match="killed by SIGKILL"):
        run(program(tmp_path, "import os; os.kill(os.getpid(), 9)"), tmp_path / "got")


RANKS = """
    import os, sys, time
    if os.environ["RANK"] == "1":
        {ends}
    time.sleep(0 if {ends!r} == "pass" else 60)
    open("out/seen.txt", "a").write("rank\\n")
    """


def test_several_ranks_end_as_the_first_that_failed(tmp_path: Path) -> None:
    """torchrun's own exit code is 1, whatever a rank said, and its account hides what the rank told."""
    for ends, code, text in (
        ("sys.exit(65)", Exit.DATA, "exit code 65; its own message stands above"),
        ("os.kill(os.getpid(), 9)", Exit.RETRY, "killed by SIGKILL"),
    ):
        with pytest.raises(FairwayError, match=text) as caught:
            run(program(tmp_path, RANKS.format(ends=ends)), tmp_path / "got", processes=2)
        assert caught.value.code == code
    outputs = run(program(tmp_path, RANKS.format(ends="pass")), tmp_path / "got", processes=2)
    assert outputs["out/seen.txt"].read_text() == "rank\n" * 2


def test_what_the_program_started_ends_with_it(tmp_path: Path) -> None:
    body = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open("out/seen.txt", "w").write(str(child.pid))
        """
    child = int(run(program(tmp_path, body), tmp_path / "got")["out/seen.txt"].read_text())
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_program_ends_with_its_parent(tmp_path: Path, number: int) -> None:
    pid = tmp_path / "pid"
    body = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "from pathlib import Path; from golf.runtime.sandbox import run_program; "
        f"run_program(Path({str(program(tmp_path, body))!r}), [], files={{}}, out=[], destination=Path('.'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 20
        while not (pid.is_file() and pid.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child = int(pid.read_text())
        parent.send_signal(number)
        parent.wait(15)
        while _runs(child):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.wait()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
