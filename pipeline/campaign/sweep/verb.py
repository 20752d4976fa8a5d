"""``fairway sweep``: read, check, plan, drive, and tell what came out."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from golf.params.base import PARAMS_FILE, load, read_document
from golf.params.hardware import Hardware
from golf.params.stats import Stats
from golf.params.train import Train
from golf.runtime.errors import ConfigError, FairwayError
from golf.runtime.files import write_json
from golf.stats.verdict import POWER
from pipeline.campaign.noise import measure
from pipeline.campaign.sweep import ledger
from pipeline.campaign.sweep.candidates import at_rung, configurations
from pipeline.campaign.sweep.drive import drive
from pipeline.campaign.sweep.journal import Journal
from pipeline.campaign.sweep.plan import Plan
from pipeline.campaign.sweep.run import DvcRunner, slots
from pipeline.campaign.sweep.sharing import read_graph, shares
from pipeline.campaign.sweep.spec import Sweep, check, from_options, read_sweep
from pipeline.campaign.sweep.workspace import branch, keep, put_back, settle, workspace_state
from pipeline.flows import LOCK
from pipeline.gpus import PATIENCE, held
from pipeline.sampler import Sampler
from pipeline.supervise import locked

FOLDER = Path("logs/sweep")


def sweep_of(file: Path | None, options: Sequence[str], name: str, hours: float | None, dollars: float | None) -> Sweep:
    """The sweep that the command line asks for; its limits come before the file's.

    Raises:
        ConfigError: both a file and options, or neither; or the sweep is wrong.
    """
    if (file is None) == (not options):
        raise ConfigError(
            f"sweep: found {'neither' if file is None else 'both'} of FILE and -S, needed one of them",
            hint="fairway sweep -S quant.bits=5,6",
        )
    sweep = from_options(options, name) if file is None else read_sweep(file)
    limits = {key: value for key, value in (("hours", hours), ("dollars", dollars)) if value is not None}
    for key, value in limits.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"--{key}: found {value!r}, needed a number above 0", hint=f"fairway sweep --{key} 8")
    return replace(sweep, **limits)  # type: ignore[arg-type]


def planned(sweep: Sweep, state: str, params: Path = PARAMS_FILE, graph: Path = Path("dvc.yaml")) -> Plan:
    """All candidates of the sweep, checked against the parameters; ``state``: of code and parameters.

    Raises:
        ConfigError: a candidate has a parameter that does not exist, or a value that it can't have.
    """
    every = configurations(sweep)
    rungs = [at_rung(sweep, state, every, rung) for rung in range(max(1, len(sweep.rungs)))]
    check(sweep, [one.overrides for rung in rungs for one in rung], params)
    stages = read_graph(read_document(graph)["stages"])
    return Plan(sweep, rungs, lambda one: shares(stages, one.overrides))


def run(sweep: Sweep, *, jobs: int = 0, retry: bool = False, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the sweep, or go on with it, in the repository of the working directory; the ledger.

    Raises:
        ConfigError: a candidate is wrong, money is to be counted without a price, or the journal is another sweep's.
        BusyError: another sweep runs here.
    """
    root, path, logs = Path.cwd(), FOLDER / f"{sweep.name}.jsonl", FOLDER / sweep.name
    with locked(LOCK), contextlib.closing(Journal(path)) as journal, _ended_by_signals():
        settle()
        for line in _restored(root, logs, journal):
            tell(line)
        state = workspace_state(root)
        hardware = _priced(sweep)
        plan = planned(sweep, state)
        count, devices = slots(hardware, load(Train), jobs)
        _same(journal, sweep, state, branch(root))
        keep(root, logs)
        if retry:
            journal.append("retry")
        tell(f"{sweep.name}: {len(plan.rungs[0])} candidates, {count} at a time; journal: {path}")
        runner = DvcRunner(root, logs, devices, state)
        single = [device for slot in devices for device in slot.split(",") if device]
        with held(single, f"sweep {sweep.name}", tell, PATIENCE) as locks, Sampler(root):
            runner.locks = locks
            stop = drive(
                plan, journal, runner, slots=count, price=hardware.dollars_per_hour,
                margin=_margin(root, journal, tell), tell=tell,
            )  # fmt: skip
        found = ledger.content(plan, journal.state, stop)
        write_json(FOLDER / f"{sweep.name}.json", found)
        tell(ledger.log_tags(plan, journal.state, root))
    return found


def _priced(sweep: Sweep) -> Hardware:
    """The section ``hardware``, with a price if the sweep has a budget of money."""
    hardware = load(Hardware)
    if sweep.dollars and not hardware.dollars_per_hour:
        raise ConfigError(
            f"sweep {sweep.name}: a budget of {sweep.dollars:g} dollars, and hardware.dollars_per_hour is 0",
            hint="write the machine's price into params.yaml: hardware.dollars_per_hour",
        )
    return hardware


def _restored(root: Path, logs: Path, journal: Journal) -> list[str]:
    """Undo what a kill left while a run began."""
    state = journal.state
    if state.header is None:
        return []
    begun = [one["overrides"] for one in journal.records if one["event"] == "start" and one["run"] in state.begun]
    return put_back(root, logs, state.header["state"], state.header["branch"], begun)


def _same(journal: Journal, sweep: Sweep, state: str, head: str) -> None:
    """Write the journal's head, or hold it against this sweep: a table of two states of the code would compare them."""
    mine = json.loads(json.dumps({"spec": sweep.identity(), "state": state}))
    begun = journal.state.header
    if begun is None:
        journal.append("sweep", **mine, branch=head)
        return
    what = "candidates" if begun["spec"] != mine["spec"] else "code or parameters" if begun["state"] != state else ""
    if what:
        raise ConfigError(
            f"{journal.path}: begun with other {what}, needed the same to go on with it",
            hint="another name for a new sweep, or git diff and git stash list to find what changed",
        )


def _margin(root: Path, journal: Journal, tell: Callable[[str], None]) -> Callable[[Plan, int], float | None]:
    """What the seeds of a rung detect, in bits a byte; None where there is one seed, or no floor."""

    def found(plan: Plan, rung: int) -> float | None:
        outcomes = journal.state.outcomes
        ended = [outcomes[one.name] for one in plan.entrants(rung, journal.state) if one.name in outcomes]
        seeds = min((len(outcome.scores) for outcome in ended if outcome.done), default=0)
        if seeds < 2:
            return None
        alpha = load(Stats).alpha
        try:
            return measure(root).detectable(seeds, alpha=alpha, power=max(POWER, (1 + alpha) / 2))
        except FairwayError as error:
            tell(f"no noise floor: {error}")
            return None

    return found


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the sweep as Ctrl-C does: runs first, nothing lost."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not the main thread
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                previous[number] = signal.signal(number, interrupted)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
