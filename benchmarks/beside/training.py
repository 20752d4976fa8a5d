"""Training by the clock: for each seed the script and then ``r1061``, each in a process of its own with its own log."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.beside import ours, script
from benchmarks.beside.text import lay_out, validation
from golf.data.shards import load_index
from golf.runtime.errors import DataError, FairwayError
from golf.runtime.files import read_json, write_json
from golf.runtime.sandbox import terminable

NUMBER = r"(\d+(?:\.\d+)?)"
LINES = {  # of the script's log: what each tells, in the order of the groups
    rf"effective={NUMBER}ms": ("budget_ms",),
    rf"layer_loop:enabled step:{NUMBER} frac:{NUMBER}": ("loop_step", "loop_share"),
    rf"^{NUMBER}/\d+ val_loss: {NUMBER}": ("steps", "last_weights"),
    rf"stopping_early: wallclock_cap train_time: {NUMBER}ms": ("clock_ms",),
    rf"pre-quantization post-ema val_loss:{NUMBER}": ("average",),
}
ROW = "{side:<8}{seed:>8}{steps:>8}{ms_before_loop:>11}{ms_with_loop:>11}{average:>10}{last_weights:>10}{process:>9}"


def train(parsed: argparse.Namespace) -> None:
    """Every run that is asked for; ``train.json`` and the table grow run by run.

    Raises:
        FairwayError: a run failed; the others were done.
    """
    sides = [parsed.only] if parsed.only else ["script", "ours"]
    rows: list[dict[str, Any]] = []
    tokens = validation(parsed.shards, parsed.tokens, script.BATCH)
    result = {"seconds": parsed.seconds, "batch_tokens": script.BATCH, "tokens": parsed.tokens,
              "torch": importlib.metadata.version("torch"), "rows": rows}  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        scored = lay_out(Path(temporary), tokens, parsed.shards)
        for seed in parsed.seeds:
            for side in sides:
                run = run_script if side == "script" else run_ours
                try:
                    found = run(parsed, scored, seed)
                except FairwayError as error:
                    print(f"beside: {error}", file=sys.stderr, flush=True)
                    found = {"error": str(error)}
                rows.append({"side": side, "seed": seed, **found})
                result["compared"] = compared(rows)
                write_json(parsed.out / "train.json", result)
                print(table(rows), flush=True)
    failed = [f"{row['side']} of seed {row['seed']}" for row in rows if "error" in row]
    if failed:
        raise FairwayError(f"found {len(failed)} runs that failed, needed none: {', '.join(failed)}",
                           hint=f"the logs in {parsed.out}")  # fmt: skip


def run_script(parsed: argparse.Namespace, scored: Path, seed: int) -> dict[str, Any]:
    """Train by the script, changed for a single GPU, on the shards beside ``scored``, the validation shard."""
    script.require_flash()
    text, folder = script.read(parsed.script), scored.parent
    program = folder / "train_gpt.py"
    program.write_text(script.patched(text, str(parsed.script)), encoding="utf-8")
    settings = script.TRAINING | {
        "SEED": str(seed),
        "MAX_WALLCLOCK_SECONDS": f"{parsed.seconds:g}",
        "VOCAB_SIZE": str(load_index(parsed.shards)["vocab_size"]),
        "DATA_PATH": str(folder),
        "TOKENIZER_PATH": str(parsed.tokenizer),
        "ARTIFACT_DIR": str(folder / "out"),  # its own log, which begins with its text
    }
    log = parsed.out / f"script-{seed}.log"
    seconds = logged([sys.executable, "-u", str(program)], log, script.environment(text, settings, os.environ))
    return {**numbers(log.read_text(encoding="utf-8"), str(log)), "process_seconds": seconds}


def run_ours(parsed: argparse.Namespace, scored: Path, seed: int) -> dict[str, Any]:
    """Train ``r1061``, score it on the shard ``scored``; the weights stay in ``OUT/ours-SEED``."""
    out = parsed.out / f"ours-{seed}"
    words = {"shards": parsed.shards, "validation": scored, "seconds": parsed.seconds, "seed": seed,
             "out": out}  # fmt: skip
    flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-u", "-m", "benchmarks.beside.ours", *flags]
    seconds = logged(command, parsed.out / f"ours-{seed}.log", os.environ)
    return {**read_json(out / ours.RESULT), "process_seconds": seconds}


def logged(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> float:
    """Run ``command``; its lines go to ``log`` and to the terminal as they come. Seconds that it took.

    Raises:
        FairwayError: its exit code was not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begin, line = time.perf_counter(), ""
    out, err = subprocess.PIPE, subprocess.STDOUT
    with (
        terminable(),
        log.open("w", encoding="utf-8", buffering=1) as file,
        subprocess.Popen(
            command, env=environment, stdout=out, stderr=err, encoding="utf-8", errors="replace"
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                file.write(line)
                print(line, end="", flush=True)
        except BaseException:  # an interruption: the GPU must be free again
            process.kill()
            raise
    if process.returncode:
        raise FairwayError(f"{log}: found exit code {process.returncode}, needed 0: {line.strip()}",
                           hint=f"tail -40 {log}")  # fmt: skip
    return round(time.perf_counter() - begin, 2)


def numbers(text: str, where: str = "the script's log") -> dict[str, Any]:
    """What the script's log tells, under the names of :func:`benchmarks.beside.ours.measure`.

    Raises:
        DataError: a line is missing; that of the loop may be.
    """
    found: dict[str, float] = {}
    for pattern, names in LINES.items():
        for match in re.finditer(pattern, text, re.MULTILINE):
            found |= dict(zip(names, map(float, match.groups()), strict=True))
    missing = {"budget_ms", "steps", "last_weights", "clock_ms", "average"} - found.keys()
    if missing:
        raise DataError(f"{where}: no line tells {', '.join(sorted(missing))}", hint=f"tail -40 {where}")
    steps, begun = int(found["steps"]), "loop_step" in found
    turn_ms, turn = (found["loop_share"] * found["budget_ms"], int(found["loop_step"])) if begun else (
        found["clock_ms"], steps)  # fmt: skip
    return {
        "steps": steps,
        "clock_seconds": found["clock_ms"] / 1000,
        "ms_before_loop": round(turn_ms / turn, 2) if turn else None,
        "ms_with_loop": round((found["clock_ms"] - turn_ms) / (steps - turn), 2) if steps > turn else None,
        "last_weights": found["last_weights"],
        "average": found["average"],
    }


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each seed of both sides: how much lower ours is, in nats a token, and how much faster."""
    whole = {(row["side"], row["seed"]): row for row in rows if "error" not in row}
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        theirs, own = whole.get(("script", seed)), whole.get(("ours", seed))
        if theirs is None or own is None:
            continue
        row = {"seed": seed, "average_lower": theirs["average"] - own["average"],
               "best_lower": min(theirs["average"], theirs["last_weights"]) - own["average"],
               "steps": own["steps"] / theirs["steps"]}  # fmt: skip
        for key in ("ms_before_loop", "ms_with_loop"):
            row[key] = theirs[key] / own[key] if theirs[key] and own[key] else None
        found.append({key: value if value is None else round(value, 4) for key, value in row.items()})
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a run, and one a seed that both sides have."""
    head = {"side": "", "seed": "seed", "steps": "steps", "ms_before_loop": "ms before", "ms_with_loop": "with loop",
            "average": "average", "last_weights": "last", "process": "process"}  # fmt: skip
    lines = [ROW.format(**head)]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['side']:<8}{row['seed']:>8}  failed")
            continue
        shown = {key: "-" if row[key] is None else row[key] for key in ("ms_before_loop", "ms_with_loop")}
        shown |= {key: f"{row[key]:.4f}" for key in ("average", "last_weights")}
        lines.append(ROW.format(**{**row, **shown, "process": f"{row['process_seconds']:.0f} s"}))
    for row in compared(rows):
        below = (
            f"our average {row['average_lower']:+.4f} nats below theirs, {row['best_lower']:+.4f} below their better"
        )
        lines.append(f"seed {row['seed']}: {below}; {row['steps']:.3f} times the steps")
    return "\n".join(lines)
