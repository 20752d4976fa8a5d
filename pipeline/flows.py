"""The graph as Prefect flows: ``nightly`` (on a schedule) and ``on_demand`` (with DVC overrides).

DVC decides what runs and keeps every result: Prefect caches nothing here. ``nightly`` brings the workspace up to date,
a group of stages after another, so that the page shows where it is and a retry repeats one group only. ``on_demand``
is one DVC experiment with ``overrides`` such as ``quant.bits=5``, in a copy of the workspace (``dvc exp run --temp``):
what a person or the nightly run sees is never changed, and what the overrides leave alone comes from the cache.

Retried is what a machine's failure spoiled (exit code 75), or a lock that somebody holds; never a verdict on the
data or the size (65). ``nightly`` and ``on_demand`` are made when asked for, as importing Prefect takes seconds.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from golf.params.base import load, load_seeds
from golf.params.data import Data
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import ConfigError, Exit, FairwayError, MissingInput
from pipeline import table
from pipeline.preflight import preflight
from pipeline.supervise import run

LOCK = "graph"
GROUPS = (
    ("fetch", "verify", "tokenize", "bundle"),
    ("train",),
    ("select", "quantize", "compress", "gate"),
    ("evaluate", "audit"),
    ("aggregate", "submission", "track"),
)
RETRIES = 2
FIRST_DELAY = 30  # seconds; doubled for each further try
STATES = {  # the exit codes of golf.runtime.errors as names of a failed run's state
    Exit.DATA: "Refused",
    Exit.NO_INPUT: "InputMissing",
    Exit.IO: "DiskFailed",
    Exit.RETRY: "MachineFailed",
    Exit.CONFIG: "Misconfigured",
}
_STAGE_FAILED = re.compile(r"^ERROR: .*failed to reproduce '(?P<stage>[^']+)': .*exited with (?P<code>-?\d+)")
_NO_INPUT = re.compile(r"^ERROR: failed to reproduce '(?P<stage>[^']+)': \[Errno 2\] [^:]*: '(?P<path>[^']+)'")


class StageFailed(FairwayError):
    """A stage failed; ``code`` is its own exit code, which DVC's (255) hides."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[assignment]

    @property
    def state(self) -> str:
        """The name of a flow run's state that this failure ends in."""
        return STATES.get(self.code, "Failed")


def dvc(arguments: Sequence[str], log: Callable[[str], None]) -> None:
    """Run DVC under supervision, each line of its output going to ``log``.

    Raises:
        StageFailed: with the code of the stage that failed, and what it said last.
        BusyError: another run holds the graph.
    """
    lines: list[str] = []

    def heard(line: str) -> None:
        lines.append(line)
        del lines[:-200]
        log(line)

    code = run([sys.executable, "-m", "dvc", "--wait-for-lock", *arguments], LOCK, on_line=heard)
    if code:
        raise StageFailed(*failure(lines, code))


def failure(lines: Sequence[str], code: int) -> tuple[str, int]:
    """What went wrong and the exit code of the stage, from DVC's output and exit code.

    DVC says ``failed to reproduce 'gate@42': failed to run: …, exited with 65`` and exits with 255 itself. Of a stage
    that signal n ended it says -n, or 128 + n: it depends on whether the user's shell stayed between the two. An input
    that is not there it finds before it starts the stage, and tells by the errno alone.
    """
    for line in reversed(lines):
        if found := _NO_INPUT.search(line):
            message = f"{found['stage']}: {found['path']}: no such file or folder, needed as a parameter names it"
            return str(MissingInput(message, hint="dvc params diff")), Exit.NO_INPUT
        if found := _STAGE_FAILED.search(line):
            stage, code = found["stage"], int(found["code"])
            code = code if code >= 0 else 128 - code
            how = f"ended by signal {code - 128}" if code > 128 else f"exit code {code}; see the log"
            prefix = stage.partition("@")[0] + ": "
            said = next((text for text in reversed(lines) if text.startswith(prefix)), "") if code in STATES else ""
            return said or f"{stage}: {how}", code
    said = next((line.removeprefix("ERROR: ") for line in reversed(lines) if line.startswith("ERROR: ")), "")
    return said or f"dvc: exit code {code}", code


def reproduce(group: Sequence[str], log: Callable[[str], None]) -> None:
    """Bring a group of stages, and what it needs, up to date in the workspace."""
    dvc(["repro", *group], log)


def experiment(overrides: Sequence[str], log: Callable[[str], None]) -> str:
    """Run one experiment outside the workspace and return its name.

    Raises:
        ConfigError: an override is not ``section.key=value``.
    """
    names: list[str] = []

    def heard(line: str) -> None:
        if found := re.match(r"(?:Ran experiment\(s\): |\s*dvc exp apply )([\w-]+)", line):
            names.append(found[1])
        log(line)

    dvc(experiment_arguments(overrides), heard)
    return names[-1] if names else ""


def experiment_arguments(overrides: Sequence[str], name: str = "", inputs: Sequence[str] | None = None) -> list[str]:
    """DVC's words for one experiment outside the workspace; without ``name`` DVC makes one up.

    ``inputs``: what :func:`untracked_inputs` found, if it was asked before.

    Raises:
        ConfigError: an override is not ``section.key=value``.
    """
    for override in overrides:
        if not re.fullmatch(r"[+~]{0,2}\w+(\.\w+)*=.+", override):
            raise ConfigError(f"override {override!r}: needed section.key=value", hint="quant.bits=5")
    named = ["--name", name] if name else []
    arguments = [word for override in overrides for word in ("--set-param", override)]
    copies = [word for path in (untracked_inputs() if inputs is None else inputs) for word in ("--copy-paths", path)]
    return ["exp", "run", "--temp", *named, *arguments, *copies]


def untracked_inputs() -> list[str]:
    """The user's own text and tokenizer as far as Git does not have them: a copy of the workspace lacks those."""
    data = load(Data)
    places = [Path(path) for path in (data.path, data.val_path, load(Tokenizer).model)]
    inside = [str(path) for path in places if not path.is_absolute() and ".." not in path.parts and path.exists()]
    if not inside:
        return []
    found = {path.rstrip("/") for path in _git("ls-files", "--others", "--directory", "-z", "--", *inside)}
    return sorted({_copied(Path(path)) for path in found})


def _copied(path: Path) -> str:
    """The path itself; of a file in a folder that Git does not know the folder, as DVC makes none for a file."""
    if path.is_dir() or path.parent == Path() or _git("ls-files", "-z", "--", str(path.parent)):
        return str(path)
    return str(path.parent)


def _git(*arguments: str) -> list[str]:
    listing = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return [path for path in listing.stdout.split("\0") if path]


def build() -> dict[str, Any]:
    """The two flows by name. Imports Prefect."""
    from prefect import flow, get_run_logger, task
    from prefect.artifacts import create_markdown_artifact
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Failed
    from prefect.tasks import exponential_backoff

    def machine_failed(_task: Any, _run: Any, state: Any) -> bool:
        error = state.result(raise_on_failure=False)
        return isinstance(error, FairwayError) and error.code == Exit.RETRY

    supervised = task(
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_DELAY),
        retry_jitter_factor=0.3,
        retry_condition_fn=machine_failed,
        cache_policy=NO_CACHE,
    )

    @supervised
    def repro(group: list[str]) -> None:
        reproduce(group, get_run_logger().info)

    @supervised
    def exp_run(overrides: list[str]) -> str:
        return experiment(overrides, get_run_logger().info)

    def outcome(error: FairwayError) -> Any:
        name = error.state if isinstance(error, StageFailed) else STATES.get(error.code, "Failed")
        return Failed(name=name, message=str(error))

    @flow(name="nightly")
    def nightly() -> Any:
        """Bring the workspace's graph up to date, group by group."""
        try:
            preflight()
            for group in GROUPS:
                repro.with_options(name=" ".join(group))(list(group))
        except FairwayError as error:
            return outcome(error)
        seeds = load_seeds()
        text = f"{table.markdown(table.rows(seeds))}\n\n{table.verdict(seeds)}"
        create_markdown_artifact(text, key="result", description="The result table")
        return None

    @flow(name="on-demand")
    def on_demand(overrides: list[str] | None = None) -> Any:
        """One experiment with DVC overrides, such as quant.bits=5, apart from the workspace."""
        try:
            name = exp_run.with_options(name=" ".join(overrides or ["as it is"]))(overrides or [])
        except FairwayError as error:
            return outcome(error)
        get_run_logger().info("kept as experiment %s. See: dvc exp show; take it over: dvc exp apply %s", name, name)
        return None

    return {"nightly": nightly, "on_demand": on_demand}


def __getattr__(name: str) -> Any:
    if name in ("nightly", "on_demand"):
        globals().update(build())
        return globals()[name]
    raise AttributeError(name)
