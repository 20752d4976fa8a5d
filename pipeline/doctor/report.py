"""All checks, and how their results are told: a line each, or JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from pipeline.doctor import hardware, plan, services
from pipeline.doctor.checks import Result, run

LIMIT = 240.0  # seconds; each check that waits has a limit of its own below it
CHECKS = {  # the order of the lines; the long ones are started with the others
    "gpus": hardware.gpus,
    "measurement": hardware.measured,
    "disks": hardware.disks,
    "parameters": plan.parameters,
    "dataset": plan.dataset,
    "remote": services.remote,
    "keys": services.keys,
    "mlflow": services.mlflow,
    "prefect": services.prefect,
    "plan": plan.planned,
}
COLOURS = {"ok": "32", "warn": "33", "fail": "31", "skipped": "2"}


def diagnose(*, as_json: bool) -> bool:
    """Run every check and print what it found; whether the run may start: nothing failed."""
    begin = time.monotonic()
    results = run(CHECKS, LIMIT)
    seconds = time.monotonic() - begin
    failed = sum(result.state == "fail" for result in results)
    if as_json:
        checks = [asdict(result) for result in results]
        print(json.dumps({"ok": not failed, "seconds": round(seconds, 2), "checks": checks}, indent=2))
    else:
        for result in results:
            print(line(result, colour=sys.stdout.isatty()))
        print(summary(results, seconds))
    return not failed


def line(result: Result, *, colour: bool) -> str:
    """``fail  disk root   found. Try: what to do``."""
    state = f"{result.state:7}"
    painted = f"\x1b[{COLOURS[result.state]}m{state}\x1b[0m" if colour else state
    todo = f". Try: {result.todo}" if result.todo else ""
    return f"{painted}  {result.name:11}  {result.found}{todo}"


def summary(results: Sequence[Result], seconds: float) -> str:
    """The last line."""
    counts = {state: sum(result.state == state for result in results) for state in COLOURS}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    verdict = "not ready: mend what failed first" if counts["fail"] else "ready"
    return f"{verdict} ({told}; {seconds:.1f} s)"
