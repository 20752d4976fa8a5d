"""A check and what it found; checks side by side, a crash or a hang a failed line of its own."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from golf.runtime.errors import Exit, FairwayError

State = Literal["ok", "warn", "fail", "skipped"]
TEXT_LENGTH = 400  # characters of a foreign error's text


@dataclass(frozen=True)
class Result:
    """One line: what was looked at, how it stands, what was found, and what to do about it.

    ``facts`` are the numbers behind ``found``, for --json.
    """

    name: str
    state: State
    found: str
    todo: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[], Sequence[Result]]


def run(checks: Mapping[str, Check], limit: float) -> list[Result]:
    """The results of all checks, in the order of ``checks``; each has a thread, since most of them wait.

    A check that raises is a failed line of its name, and so is one that has not ended within ``limit`` seconds: its
    thread is left behind, and does not hold up the process's end.
    """
    answers: queue.Queue[tuple[str, Sequence[Result]]] = queue.Queue()

    def work(name: str, check: Check) -> None:
        answers.put((name, _guarded(name, check)))

    for name, check in checks.items():
        threading.Thread(target=work, args=(name, check), daemon=True, name=f"doctor-{name}").start()
    end = time.monotonic() + limit
    found: dict[str, Sequence[Result]] = {}
    with contextlib.suppress(queue.Empty):
        while len(found) < len(checks):
            name, results = answers.get(timeout=max(0.0, end - time.monotonic()))
            found[name] = results
    late = f"no answer within {limit:g} s"
    return [result for name in checks for result in found.get(name, [Result(name, "fail", late)])]


def _guarded(name: str, check: Check) -> Sequence[Result]:
    try:
        return check()
    except FairwayError as error:
        text, _, todo = str(error).partition(". Try: ")
        return [Result(name, "fail", text, todo)]
    except Exception as error:  # whatever it is, the other checks are still worth their lines
        text = " ".join(str(error).split())[:TEXT_LENGTH]
        return [Result(name, "fail", f"the check itself failed: {type(error).__name__}: {text}")]


def child(command: Sequence[str], limit: float) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own and return its outcome; after ``limit`` seconds all of it is killed.

    Raises:
        FairwayError: it took longer; exit code 75.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise FairwayError(
                f"{' '.join(command[1:4])}: no answer within {limit:g} s; ended", code=Exit.RETRY
            ) from None
        finally:
            if process.poll() is None:
                process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
