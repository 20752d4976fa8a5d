"""A sweep that is killed (-9) at random, against the same one undisturbed; and what a sweep costs over its commands.

    python -m benchmarks.sweep kills         # smoke profile, 8 configurations of 3 seeds, 5 kills: half an hour
    python -m benchmarks.sweep kills --toy   # two stages that only sleep: two minutes
    python -m benchmarks.sweep overhead      # `dvc exp run --temp` by hand, then the sweep, on those two stages
    python -m benchmarks.sweep failing       # 80 configurations that all fail

Each works in copies of this checkout under a temporary folder. A kill takes the sweep's process alone, or, every other
time, everything below it too, as the end of a machine does. Stages are counted by DVC's own lines in the runs' logs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from golf.runtime.errors import FairwayError, run_main
from golf.runtime.files import write_json
from pipeline.supervise import with_this_python
from pipeline.watcher import descendants

ROOT = Path(__file__).resolve().parents[1]
NAME = "measured"
SEEDS = (42, 314, 999)
GRID = ("quant.bits=5,6", "quant.damping=0.01,0.02", "eval.stride=64,96")
QUICK = ("train.steps=10", "audit.tokens=256", "audit.positions=1", "data.max_bytes=300000")
TOY = """
import json, pathlib, sys, time, yaml
params, stage, seed = yaml.safe_load(open("params.yaml")), sys.argv[1], sys.argv[2]
time.sleep(params["train"]["seconds"] / (2 * len(params["seeds"])))
if params["quant"]["bits"] == 8:
    sys.exit(print(f"{stage}: 8 bits, needed 7 at most", file=sys.stderr) or 65)
path = pathlib.Path("runs/train" if stage == "train" else "reports/evaluate") / f"{seed}.json"
path.parent.mkdir(parents=True, exist_ok=True)
bpb = params["quant"]["bits"] + params["eval"]["stride"] / 1000 + int(seed) / 1e6
path.write_text(json.dumps({"bpb": bpb, "bytes": 10, "tokens": 4, "seconds": params["train"]["seconds"]}))
"""


def checkout(folder: Path, *, toy: bool, seconds: float = 0.0, seeds: Sequence[int] = SEEDS) -> Path:
    """A repository of its own with what stands in the working tree; ``toy``: a graph that sleeps ``seconds`` a run."""
    listing = _said(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    for name in filter(None, listing.split("\0")):
        if name.startswith(("tests/", "docs/")) or name == "dvc.lock" or not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    shutil.rmtree(folder / "reports", ignore_errors=True)
    _said([sys.executable, "-m", "pipeline.cli", "use", "smoke"], folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["seeds"] = list(seeds)
    for section, _, pair in (change.partition(".") for change in QUICK):
        key, _, value = pair.partition("=")
        params[section][key] = yaml.safe_load(value)
    if toy:
        params["train"] |= {"seconds": seconds, "reserve_seconds": 0.0}
        (folder / "toy.py").write_text(TOY)
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": _toy_stages()}))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for words in (["init", "-q", "."], ["config", "user.name", "t"], ["config", "user.email", "t@t"], ["add", "-A"],
                  ["commit", "-qm", "start"]):  # fmt: skip
        _said(["git", *words], folder)
    return folder


def _toy_stages() -> dict[str, Any]:
    def stage(name: str, params: list[str], **made: Any) -> dict[str, Any]:
        command = f"python toy.py {name} ${{item.seed}}"
        return {"matrix": {"seed": "${seeds}"}, "cmd": command, "params": params, "deps": ["toy.py"], **made}

    train = stage("train", ["train.seconds"], outs=["runs/train/${item.seed}.json"])
    evaluate = stage("evaluate", ["quant.bits", "eval.stride"],
                     metrics=[{"reports/evaluate/${item.seed}.json": {"cache": False}}])  # fmt: skip
    evaluate["deps"] = ["toy.py", "runs/train/${item.seed}.json"]
    return {"train": train, "evaluate": evaluate}


def command(grid: Sequence[str]) -> list[str]:
    """The sweep's words, one job at a time."""
    words = [sys.executable, "-m", "pipeline.cli", "sweep", "--name", NAME, "--jobs", "1"]
    return words + [word for values in grid for word in ("-S", values)]


def run(folder: Path, words: Sequence[str]) -> float:
    """Run to the end; its seconds. Of a command that fails its words are the error."""
    begin = time.monotonic()
    _said(words, folder)
    return time.monotonic() - begin


def kill(folder: Path, words: Sequence[str], kills: int, seconds: float, seed: int) -> tuple[float, int, Counter[str]]:
    """Run to the end through ``kills``; seconds, kills that found it running, and how often each stage was begun.

    ``seconds``: of the undisturbed run; every session is killed at a moment drawn so that all fit into it.
    """
    source, counts, done = random.Random(seed), Counter[str](), 0
    begin = time.monotonic()
    for number in range(kills):
        with (folder / "sweep.log").open("a") as log:
            process = subprocess.Popen(words, cwd=folder, env=environment(folder), stdout=log, stderr=log)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(source.uniform(0.1, 1.6) * seconds / (kills + 1))
            below = list(descendants()) if number % 2 else [process.pid]
            done += process.poll() is None
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        time.sleep(2.0)  # until the killed one's runs have said their last
        counts += begun(folder, take=True)
    _said(words, folder)
    return time.monotonic() - begin, done, counts + begun(folder)


def begun(folder: Path, *, take: bool = False) -> Counter[str]:
    """How often DVC began each stage, by the logs; ``take``: empties them, as a run that begins again does."""
    found = Counter[str]()
    for log in (folder / "logs/sweep" / NAME).glob("*.log"):
        found.update(re.findall(r"^Running stage '([^']+)'", log.read_text(errors="replace"), re.MULTILINE))
        if take:
            log.write_text("")
    return found


def table(folder: Path) -> dict[str, Any]:
    """What must not depend on kills: scores, bytes and failures by overrides."""
    content = json.loads((folder / "logs/sweep" / f"{NAME}.json").read_text())
    return {" ".join(row["overrides"]): [row["scores"], row["total_bytes"], row["failed"]] for row in content["runs"]}


def changed(folder: Path) -> list[str]:
    """What differs from the commit in tracked files."""
    return _said(["git", "status", "--porcelain", "--untracked-files=no"], folder).splitlines()


def toy_bpb(bits: int, stride: int, seed: int) -> float:
    """What the toy's ``evaluate`` reports."""
    return bits + stride / 1000 + seed / 1e6


def kills(top: Path, *, toy: bool, count: int, seed: int, seconds: float = 3.0) -> dict[str, Any]:
    """Both sweeps, and how they differ."""
    grid, seeds = (("quant.bits=5,6", "eval.stride=64,96"), SEEDS[:2]) if toy else (GRID, SEEDS)
    calm = checkout(top / "calm", toy=toy, seconds=seconds, seeds=seeds)
    shutil.copytree(calm, top / "killed", symlinks=True)
    whole = run(calm, command(grid))
    spent, done, counts = kill(top / "killed", command(grid), count, whole, seed)
    wanted = begun(calm)
    return {
        "configurations": len(table(calm)), "seeds": len(seeds), "kills": done,
        "seconds": round(whole, 1), "seconds_with_kills": round(spent, 1),
        "same_table": table(calm) == table(top / "killed"),
        "stages": wanted.total(), "stages_with_kills": counts.total(),
        "more": dict(counts - wanted), "fewer": dict(wanted - counts), "left_changed": changed(top / "killed"),
    }  # fmt: skip


def overhead(top: Path, seconds: float, runs: int) -> dict[str, Any]:
    """Seconds of ``runs`` experiments by hand and by a sweep; both compute every stage, in fresh repositories."""
    hand = checkout(top / "hand", toy=True, seconds=seconds, seeds=SEEDS[:1])
    shutil.copytree(hand, top / "swept", symlinks=True)
    lengths = [seconds + number / 100 for number in range(runs)]  # of its own for each run, so that no stage is shared
    dvc = [sys.executable, "-m", "dvc", "exp", "run", "--temp"]
    by_hand = sum(run(hand, [*dvc, "-n", f"hand-{number}", "-S", f"train.seconds={length}"])
                  for number, length in enumerate(lengths))  # fmt: skip
    swept = run(top / "swept", command(["train.seconds=" + ",".join(map(str, lengths))]))
    return {"runs": runs, "seconds_a_run": seconds, "by_hand": round(by_hand, 2), "sweep": round(swept, 2),
            "overhead": round(swept / by_hand - 1, 4)}  # fmt: skip


def failing(top: Path) -> dict[str, Any]:
    """How many of 80 failing configurations begin, and what the sweep says."""
    folder = checkout(top / "failing", toy=True, seconds=1.0, seeds=SEEDS[:1])
    begin = time.monotonic()
    words = command(["quant.bits=8", "audit.seed=" + ",".join(map(str, range(80)))])
    done = subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    content = json.loads((folder / "logs/sweep" / f"{NAME}.json").read_text())
    return {"configurations": 80, "begun": len(content["runs"]), "seconds": round(time.monotonic() - begin, 1),
            "exit": done.returncode, "stopped": content["stopped"]}  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """In which ``python``, and this repository's modules, are the ones meant."""
    return with_this_python({**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"})


def _said(words: Sequence[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    if done.returncode:
        raise FairwayError(f"{' '.join(words)}: exit code {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("kills", "overhead", "failing"))
    parser.add_argument("--toy", action="store_true", help="kills: two stages that only sleep")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default: 0)")
    parser.add_argument("--seconds", type=float, default=60.0, help="overhead: of a run (default: 60)")
    parser.add_argument("--runs", type=int, default=3, help="overhead: experiments (default: 3)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fairway-sweep-", ignore_cleanup_errors=True) as folder:
        top = Path(folder)
        if parsed.what == "kills":
            result = kills(top, toy=parsed.toy, count=parsed.kills, seed=parsed.seed)
        elif parsed.what == "overhead":
            result = overhead(top, parsed.seconds, parsed.runs)
        else:
            result = failing(top)
    for key, value in result.items():
        print(f"{key:20} {value}")
    if parsed.out:
        write_json(parsed.out, {parsed.what: result})


if __name__ == "__main__":
    run_main("sweep", main)
