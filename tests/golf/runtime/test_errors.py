"""One line and one exit code for what the user can mend; a traceback for what only we can."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError, MissingInput, told

ROOT = Path(__file__).resolve().parents[3]


def outcome(body: str, **limits: int) -> tuple[int, str]:
    # -B: under a limit of the file size the interpreter would leave cut bytecode for everybody after it
    code = f"from golf.runtime.errors import *\ndef main():\n    {body}\nrun_main('demo', main)\n"

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    done = subprocess.run(
        [sys.executable, "-B", "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        preexec_fn=limit,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ("raise FairwayError('x is wrong.', hint='dvc repro')", 1, "demo: x is wrong. Try: dvc repro\n"),
        ("raise ConfigError('a.b: found 1, needed 2')", 78, "demo: a.b: found 1, needed 2\n"),
        ("raise DataError('f: short')", 65, "demo: f: short\n"),
        ("raise MissingInput('f: no such file')", 66, "demo: f: no such file\n"),
        ("raise FairwayError('NCCL', code=Exit.RETRY)", 75, "demo: NCCL\n"),
        ("raise OSError(28, 'No space left on device', 'runs/x')", 74,
         "demo: runs/x: no space left on the device; nothing half-written was kept. "
         "Try: dvc gc --workspace --all-experiments\n"),
        ("raise OSError(28, 'No space left on device', 'here', None, '/nowhere/x')", 74,
         "demo: /nowhere/x: no space left on the device; nothing half-written was kept. Try: df -h /\n"),
        ("raise OSError(30, 'Read-only file system', '/nowhere/x')", 74,
         "demo: /nowhere/x: Read-only file system; the directory must be writable. Try: ls -ld /\n"),
        ("raise PermissionError(13, 'Permission denied', '/etc/passwd')", 74,
         "demo: /etc/passwd: Permission denied; this user must be allowed to use the file. Try: ls -ld /etc/passwd\n"),
        ("open('/etc/passwd/x')", 74, "demo: /etc/passwd/x: Not a directory; needed a folder where a file stands, or a "
         "file. Try: ls -ld /etc/passwd\n"),
        ("pass", 0, ""),
        ("raise FairwayError('two\\nlines')", 1, "demo: two\nlines\n"),
    ],
)  # fmt: skip
def test_exit_code_and_line(body: str, code: int, text: str) -> None:
    assert outcome(body) == (code, text)


@pytest.mark.parametrize("body", ["1 / 0", "raise FileNotFoundError(2, 'No such file', 'x')", "[][1]"])
def test_our_own_mistakes_keep_their_traceback(body: str) -> None:
    code, text = outcome(body)
    assert code == 1
    assert "Traceback" in text


def test_ctrl_c_is_not_an_error_report() -> None:
    code, text = outcome("raise KeyboardInterrupt")
    assert code == 128 + 2
    assert "Traceback" not in text


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """The file-size limit is how a full disk can be had without one."""
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    body = f"{ignore}; from golf.runtime.files import write_bytes; write_bytes({str(tmp_path / 'x')!r}, b'x' * 9999)"
    code, text = outcome(body, RLIMIT_FSIZE=100)
    assert code == 74
    assert text.count("\n") == 1
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


def test_no_disk_that_takes_a_temporary_file() -> None:
    code, text = outcome("import tempfile; tempfile.TemporaryDirectory()", RLIMIT_FSIZE=0)
    assert code == 74
    assert text.startswith("demo: the working directory: No usable temporary directory found in [")
    assert text.endswith("; the disk must take the whole file. Try: df -h .\n")


def test_an_error_of_another_program_built_from_here() -> None:
    class Theirs(Exception):
        code = Exit.DATA

    ours = told(Theirs("a line"))
    assert ours is not None
    assert (type(ours), str(ours), ours.code) == (FairwayError, "a line", 65)
    assert told(DataError("ours already")) is None
    assert told(ValueError("nobody's")) is None


def test_a_lost_connection_between_ranks_may_be_retried() -> None:
    code, text = outcome("raise type('DistBackendError', (RuntimeError,), {})('NCCL error: peer gone')")
    assert code == 75
    assert text.endswith("demo: the machine failed: NCCL error: peer gone\n")
    assert outcome("raise RuntimeError('shape mismatch')")[0] == 1


def test_a_killed_worker_may_be_retried_and_spent_memory_not() -> None:
    pool = "from concurrent.futures.process import BrokenProcessPool"
    code, text = outcome(f"{pool}; raise BrokenProcessPool('a worker ended')")
    assert (code, text.splitlines()[-1]) == (75, "demo: the machine failed: a worker ended")
    for error in ("type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')", "MemoryError()"):
        code, text = outcome(f"raise {error}")
        assert code == 1
        assert "Traceback" in text
        assert text.splitlines()[-1].startswith("demo: memory ran out: ")
        assert text.endswith(". Try: a smaller train.micro_batch_tokens or eval.batch_windows\n")


def test_codes_are_those_of_sysexits() -> None:
    assert [(item.name, item.value) for item in Exit] == [
        ("FAILURE", 1), ("DATA", 65), ("NO_INPUT", 66), ("IO", 74), ("RETRY", 75), ("CONFIG", 78),
    ]  # fmt: skip
    for error, code in ((ConfigError, 78), (DataError, 65), (MissingInput, 66), (FairwayError, 1)):
        assert error("x").code == code
