"""Experiments as processes: ``dvc exp run --temp`` under supervision, one a slot, its output in a file.

Each slot is a lock of :mod:`pipeline.supervise` and, with GPUs, the devices that the run sees. When the sweep is
killed, even by SIGKILL, the supervisor ends what it started.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from golf.data.cores import available_cores
from golf.params.hardware import Hardware
from golf.params.train import Train
from golf.runtime.device import uses_gpu
from golf.runtime.errors import ConfigError, DataError
from pipeline.campaign.sides import Side, kept_experiment
from pipeline.campaign.sweep.candidates import Candidate
from pipeline.campaign.sweep.journal import Outcome
from pipeline.campaign.sweep.workspace import SLOT, workspace_state
from pipeline.flows import experiment_arguments, failure, untracked_inputs
from pipeline.gpus import visible
from pipeline.repro import lanes
from pipeline.supervise import GRACE, started

SETTLE = 60.0  # seconds in which a run must have begun
HEARD = 200  # last lines in which a failure is looked for
_BEGINS = re.compile(r"Running stage '([^'@]+)")
_ENDS = re.compile(r"(?:Stage '|Updating lock file|Ran experiment|ERROR: |Restored stage)")


@dataclass
class Run:
    """A started experiment; ``scope`` holds its process, and closing it ends that."""

    candidate: Candidate
    watcher: subprocess.Popen[str]
    scope: contextlib.ExitStack
    log: Path
    begin: float
    read: int = 0
    heard: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    stage: tuple[str, float] | None = None


class DvcRunner:
    """Runs candidates in the repository ``root``, their output in ``logs``; ``devices``: of each slot, none on CPU.

    Attributes:
        locks: descriptors of the devices' locks, held until the last process of every run is gone.
    """

    def __init__(
        self, root: Path, logs: Path, devices: Sequence[str] = (), state: str = "", grace: float = GRACE
    ) -> None:
        self.root, self.logs, self.devices, self.state, self.grace = root, logs, devices, state, grace
        self.locks: Sequence[int] = ()
        self.copies = untracked_inputs()  # read now, and not while another run begins

    def kept(self, candidate: Candidate) -> Outcome | None:
        """The experiment of that name: the name holds overrides, code and parameters, so it is this result."""
        try:
            side = kept_experiment(candidate.name, self.root)
        except DataError:
            return None
        return None if side is None else _outcome(candidate, side)

    def start(self, candidate: Candidate, slot: int) -> Run:
        """Begin the experiment on ``slot``.

        Raises:
            BusyError: the slot is held, and longer than a killed sweep's run needs to end.
            ConfigError: tracked files are no longer what the sweep began with.
        """
        self._unchanged()
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}  # stages are timed by when DVC names them
        if self.devices:
            env["CUDA_VISIBLE_DEVICES"] = self.devices[slot]
        words = experiment_arguments(candidate.overrides, candidate.name, self.copies)
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", *words]
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{candidate.name}.log"
        with contextlib.ExitStack() as stack:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            stack.callback(os.close, output)
            lock = f"{SLOT}{slot}"
            watcher = stack.enter_context(
                started(command, lock, grace=self.grace, output=output, env=env, held=self.locks)
            )
            return Run(candidate, watcher, stack.pop_all(), log, time.monotonic())

    def _unchanged(self) -> None:
        """Wait until the workspace is as it was: another run may just begin in it. Longer, and somebody edits it."""
        deadline = time.monotonic() + SETTLE
        while self.state and workspace_state(self.root) != self.state:
            if time.monotonic() > deadline:
                raise ConfigError(
                    "sweep: code or parameters changed while it runs: its table would compare two states",
                    hint="undo the change (git diff), and give the same command again",
                )
            time.sleep(0.5)

    def poll(self, run: Run) -> Outcome | None:
        """How it ended; None while it runs."""
        code = run.watcher.poll()
        self._listen(run)
        if code is None:
            return None
        run.scope.close()
        seconds = time.monotonic() - run.begin
        self._enter(run, None)
        if code:
            why, code = failure(run.heard, code)
            return Outcome(run.candidate.name, seconds=seconds, stages=run.stages, why=why, code=code)
        try:
            side = kept_experiment(run.candidate.name, self.root)
            why = f"DVC kept no experiment of that name; see {run.log}"
        except DataError as error:
            side, why = None, str(error)
        if side is None:
            return Outcome(run.candidate.name, seconds=seconds, stages=run.stages, why=why, code=1)
        return _outcome(run.candidate, side, seconds, run.stages)

    def end(self, runs: list[Run]) -> None:
        """End all at once, then wait for each. By SIGINT, upon which DVC puts the workspace in order."""
        for run in runs:
            if run.watcher.poll() is None:
                run.watcher.send_signal(signal.SIGINT)
        for run in runs:
            run.scope.close()

    def _listen(self, run: Run) -> None:
        """Read what the run has said since the last look, and time its stages."""
        with run.log.open("rb") as file:
            file.seek(run.read)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        run.read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            run.heard = [*run.heard[1 - HEARD :], line]
            if found := _BEGINS.match(line):
                self._enter(run, found[1])
            elif _ENDS.match(line):
                self._enter(run, None)

    def _enter(self, run: Run, stage: str | None) -> None:
        now = time.monotonic()
        if run.stage is not None:
            name, since = run.stage
            run.stages[name] = run.stages.get(name, 0.0) + now - since
        run.stage = None if stage is None else (stage, now)


def _outcome(candidate: Candidate, side: Side, seconds: float = 0.0, stages: dict[str, float] | None = None) -> Outcome:
    return Outcome(candidate.name, dict(side.scores), side.total_bytes, seconds, stages or {})


def slots(hardware: Hardware, train: Train, jobs: int) -> tuple[int, list[str]]:
    """How many runs fit beside each other, and the devices of each; ``jobs``: at most, 0 as many as fit.

    On GPUs a run has the devices that its ranks need: ``hardware.processes`` of them, one for 0, or all of
    ``train.gpus`` under ``hardware.strict_clock``. On a CPU it has ``hardware.threads`` cores a rank.
    """
    if not uses_gpu(hardware):
        return jobs or lanes(hardware, available_cores()), []
    need = hardware.processes or (train.gpus if hardware.strict_clock else 1)
    devices = visible()
    count = max(1, len(devices) // need)
    count = min(count, jobs) if jobs else count
    return count, [",".join(devices[i * need : (i + 1) * need]) for i in range(count)]
