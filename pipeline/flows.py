"""The graph as Prefect flows: ``nightly``, ``weekly_record``, ``sweep`` and ``on_demand``; prefect.yaml deploys them.

DVC decides what runs and keeps every result: Prefect caches nothing here. ``nightly`` brings the workspace up to date,
a group of stages after another, so that the page shows where it is and a retry repeats one group only. ``on_demand``
is one DVC experiment with ``overrides`` such as ``quant.bits=5``, in a copy of the workspace (``dvc exp run --temp``):
what a person or the nightly run sees is never changed, and what the overrides leave alone comes from the cache.
``weekly_record`` is such an experiment with a profile's parameters, ``sweep`` the sweep of a file.

Retried is what a machine's failure spoiled (exit code 75); never a verdict on the data or the size (65). What another
run holds is waited for, by name. A run whose engine died is started again by its worker, and goes on where it was: DVC
has every stage that ended, ``.checkpoints`` the training, the journal the sweep. The flows are made when asked for, as
importing Prefect takes seconds.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from golf.params.base import PARAMS_FILE, from_dict, load, read_document
from golf.params.data import Data
from golf.params.hardware import Hardware
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import ConfigError, Exit, FairwayError, MissingInput
from pipeline import gpus, supervise
from pipeline.borrowed import Borrowed
from pipeline.keeper import Keeper, Tell
from pipeline.keeper import command as saved_by
from pipeline.sampler import Sampler
from pipeline.share import claimed, overridden, remote_address, stage_keys
from pipeline.supervise import locked, patiently, run

FLOWS = ("nightly", "weekly_record", "sweep", "on_demand")
LOCK = "graph"
GROUPS = (
    ("fetch", "verify", "tokenize", "bundle"),
    ("train",),
    ("select", "quantize", "compress", "gate"),
    ("evaluate", "audit"),
    ("aggregate", "submission", "track"),
)
GPU_STAGES = {"train", "select", "quantize", "evaluate", "audit"}
GRACE = supervise.GRACE
RETRIES = 2
RESUMES = 3  # times that a run whose engine died is started again
FIRST_DELAY = 30  # seconds; doubled for each further try
STATES = {  # the exit codes of golf.runtime.errors as names of a failed run's state
    Exit.DATA: "Refused",
    Exit.NO_INPUT: "InputMissing",
    Exit.IO: "DiskFailed",
    Exit.RETRY: "MachineFailed",
    Exit.CONFIG: "Misconfigured",
}
_STAGE_FAILED = re.compile(r"^ERROR: .*failed to reproduce '(?P<stage>[^']+)': .*exited with (?P<code>-?\d+)")
_RUN_ENDED = re.compile(r"(?P<run>[\w-]+): [\d.]+ bpb, ")
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


def dvc(arguments: Sequence[str], log: Tell, held: Sequence[int] = ()) -> None:
    """Run DVC under supervision, each line of its output going to ``log``; ``held``: locks that all of it holds.

    Raises:
        StageFailed: with the code of the stage that failed, and what it said last.
        BusyError: what an earlier run started is not gone yet.
    """
    lines: list[str] = []

    def heard(line: str) -> None:
        lines.append(line)
        del lines[:-200]
        log(line)

    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    code = run(command, "dvc", grace=GRACE, on_line=heard, held=held)
    if code:
        raise StageFailed(*failure(lines, code))


def compute(
    words: Sequence[str], stages: Sequence[str], log: Tell, *, overrides: Sequence[str] = (), warn: Tell | None = None,
    patience: float = 0.0, before: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Run DVC alone: in this checkout, on these ``stages`` among those who share the remote, on the GPUs they need.

    Each stage that ends goes to the remote (:mod:`pipeline.keeper`). ``patience``: seconds to wait for others; ``warn``
    hears what fails and stops nothing; ``before`` is called once the checkout is this run's.

    Raises:
        StageFailed: a stage did.
        BusyError: another run holds what is needed.
    """
    root, what = Path.cwd(), " ".join(words[:2] if overrides else words)
    with contextlib.ExitStack() as stack:
        graph = patiently(lambda: stack.enter_context(locked(LOCK, what=what)), log, patience)
        before()
        remote = remote_address(root)
        keys = stage_keys(root, overrides) if remote else {}
        mine = {stage: keys[stage] for stage in stages if stage in keys}
        claims = stack.enter_context(claimed(remote, mine, f"{root}: {what}", log, patience))
        hardware = from_dict(Hardware, overridden(read_document(PARAMS_FILE), overrides)["hardware"], str(PARAMS_FILE))
        devices = gpus.needed(hardware) if set(stages) & GPU_STAGES else []
        paid = hardware.dollars_per_hour > 0
        if paid and not remote:
            (warn or log)("NOT SAVED: a paid run, and no DVC remote to save it to: dvc remote add -d NAME URL")
        saves = saved_by(remote, paid=paid)
        # entered before the devices, so that the last save keeps nobody from them
        keeper = stack.enter_context(Keeper(saves, log, warn or log, claims.release))
        locks = stack.enter_context(gpus.held(devices, what, log, patience))
        stack.enter_context(Sampler(root))

        def heard(line: str) -> None:
            keeper.heard(line)
            log(line)

        verb = len(words) if words[0] == "repro" else 3  # exp run --temp
        dvc([*words[:verb], *(["--pull"] if remote else []), *words[verb:]], heard, held=[graph, *locks])


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


def reproduce(group: Sequence[str], log: Tell, warn: Tell | None = None, patience: float = 0.0) -> None:
    """Bring a group of stages, and what it needs, up to date in the workspace."""
    compute(["repro", *group], group, log, warn=warn, patience=patience, before=Borrowed([], log).restore)


def experiment(overrides: Sequence[str], log: Tell, warn: Tell | None = None, patience: float = 0.0) -> str:
    """Run one experiment outside the workspace and return its name.

    Killed and started again it goes on: what had ended comes from DVC's run-cache, and training from its checkpoint.

    Raises:
        ConfigError: an override is not ``section.key=value``.
    """
    names: list[str] = []

    def heard(line: str) -> None:
        if found := re.match(r"(?:Ran experiment\(s\): |\s*dvc exp apply )([\w-]+)", line):
            names.append(found[1])
        log(line)

    words, borrowed = experiment_arguments(overrides), Borrowed(overrides, heard)
    every = [stage for group in GROUPS for stage in group]
    try:
        compute(words, every, heard, overrides=overrides, warn=warn, patience=patience, before=borrowed.begin)
    except StageFailed as error:
        if error.code < 128:  # DVC itself ended as it should
            borrowed.end()
        raise
    borrowed.end()
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


def profile_overrides(name: str) -> list[str]:
    """What the profile ``name`` would change in params.yaml, as overrides.

    Raises:
        ConfigError: there is no such profile.
    """
    from pipeline.campaign.sweep.spec import rendered
    from pipeline.use import settings

    document = read_document(PARAMS_FILE)
    found = []
    for place, value in sorted(settings(name).items()):
        here = document.get(place[0])
        if (here.get(place[1]) if len(place) > 1 and isinstance(here, dict) else here) != value:
            found.append(f"{'.'.join(place)}={rendered(value)}")
    return found


def swept(words: Sequence[str], log: Tell, warn: Tell, patience: float = 0.0) -> None:
    """Run ``fairway sweep`` with these words, or go on with it; each run that ends goes to the remote.

    Raises:
        StageFailed: it could not be completed; the message is its last line.
        BusyError: another run holds this checkout.
    """

    def free() -> None:
        with locked(LOCK):
            pass

    patiently(free, log, patience)
    lines = [""]
    saves = saved_by(remote_address(Path.cwd()), paid=load(Hardware).dollars_per_hour > 0)
    with Keeper(saves, log, warn) as keeper:

        def heard(line: str) -> None:
            if found := _RUN_ENDED.match(line):
                keeper.ended(found["run"])
            lines.extend([line] if line else [])
            del lines[:-5]
            log(line)

        code = run([sys.executable, "-m", "pipeline.cli", "sweep", *words], "flow-sweep", grace=GRACE, on_line=heard)
    if code:
        raise StageFailed(lines[-1].removeprefix("fairway: "), code)


def build() -> dict[str, Any]:
    """The flows by name. Imports Prefect."""
    from pipeline.scheduled import build

    return build()


def __getattr__(name: str) -> Any:
    if name in FLOWS:
        globals().update(build())
        return globals()[name]
    raise AttributeError(name)
