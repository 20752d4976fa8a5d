"""Progress: a bar in a terminal, plain lines elsewhere, never more than one a second."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from golf.runtime import progress
from golf.runtime.progress import Progress

ROOT = Path(__file__).resolve().parents[3]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_at_most_one_line_a_second_with_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 100) as bar:
        for step in range(100):
            clock.now += 0.125
            bar.advance(1, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert 12 <= len(lines) <= 13
    assert lines[0] == "train:   8% 1s, 12s left  loss 7"
    assert lines[-1].startswith("train: 100% 12s, 0s left")


def test_it_ends_with_one_line_even_when_it_was_quick(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("bundle", 2) as bar:
        bar.update(2, "done")
    assert capsys.readouterr().err == "bundle: 100% 0s, 0s left  done\n"


@pytest.mark.parametrize("total", [0, -1, 0.0, 1e-300])
def test_an_empty_total_is_no_division_by_zero(total: float, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("x", total) as bar:
        bar.advance(0)
        clock.now += 5
        bar.update(0)
        bar.advance(1)
    assert "nan" not in capsys.readouterr().err


def test_going_over_the_total_stays_at_100(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("x", 10) as bar:
        clock.now += 2
        for _ in range(25):
            bar.update(25)
    assert capsys.readouterr().err == "x: 100% 2s, 0s left\n"


def test_in_a_terminal_it_is_a_bar() -> None:
    pytest.importorskip("rich")
    ours, theirs = pty.openpty()
    code = "from golf.runtime.progress import Progress\nwith Progress('train', 3) as bar: bar.advance(3, 'loss 1.5')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=theirs, env={"PYTHONPATH": str(ROOT), "TERM": "xterm"}, check=False
    )
    os.close(theirs)
    text = os.read(ours, 100_000).decode(errors="replace")
    os.close(ours)
    assert done.returncode == 0
    assert "100%" in text
    assert "loss 1.5" in text


def test_without_rich_a_terminal_gets_plain_lines() -> None:
    ours, theirs = pty.openpty()
    code = (
        "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None\n"
        "from golf.runtime.progress import Progress\nwith Progress('train', 3) as bar: bar.advance(3, 'loss 1.5')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, env={"PYTHONPATH": str(ROOT)}, check=False)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert (done.returncode, text.strip()) == (0, "train: 100% 0s, 0s left  loss 1.5")
