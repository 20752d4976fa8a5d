"""One line and one exit code for what the user can mend; a traceback for what only we can."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError, MissingInput

ROOT = Path(__file__).resolve().parents[3]


def outcome(body: str, **limits: int) -> tuple[int, str]:
    code = f"from golf.runtime.errors import *\ndef main():\n    {body}\nrun_main('demo', main)\n"

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
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
         "demo: runs/x: no space left on the device; nothing half-written was kept. Try: dvc gc --workspace\n"),
        ("raise PermissionError(13, 'Permission denied', 'runs')", 74,
         "demo: runs: Permission denied; the directory must be writable. Try: ls -ld runs\n"),
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


def test_a_lost_connection_between_ranks_may_be_retried() -> None:
    code, text = outcome("raise type('DistBackendError', (RuntimeError,), {})('NCCL error: peer gone')")
    assert code == 75
    assert text.endswith("demo: the machine failed: NCCL error: peer gone\n")
    assert outcome("raise RuntimeError('shape mismatch')")[0] == 1


def test_codes_are_those_of_sysexits() -> None:
    assert [(item.name, item.value) for item in Exit] == [
        ("FAILURE", 1), ("DATA", 65), ("NO_INPUT", 66), ("IO", 74), ("RETRY", 75), ("CONFIG", 78),
    ]  # fmt: skip
    for error, code in ((ConfigError, 78), (DataError, 65), (MissingInput, 66), (FairwayError, 1)):
        assert error("x").code == code
