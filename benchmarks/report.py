"""The lab report of a large store: seconds to build it, its megabytes, and how fast it opens and filters.

Makes a store of runs that never happened (real ones of MLflow, written through its own client once and copied in its
database), writes the report, opens it in headless Chromium and types into its filters.

    python -m benchmarks.report             # 2,000 runs; writes benchmarks/results/report.json
    python -m benchmarks.report --keep DIR  # the store and the page stay there
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from golf.params.base import PARAMS_FILE, read_document
from golf.runtime.errors import run_main
from golf.runtime.files import write_json
from pipeline.graph_state import SEED_STAGES, flatten
from pipeline.mlflow_store import absolute_uri, open_store
from pipeline.track import COMPLETE, KEY, PARENT

RESULT = Path("benchmarks/results/report.json")
SEEDS, POINTS, CURVES = (42, 314, 999), 100, ("loss", "lr_scale", "grad_norm", "tokens")
DEVICES = ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "cpu, 1 threads")
DAY, BEGIN = 86_400_000, 1_790_000_000_000  # Unix milliseconds
SWITCHES = {"quant.bits": ("5", "6", "7"), "optim.matrix_lr": ("0.01", "0.02", "0.04"), "model.num_layers": ("9", "11"),
            "train.qat_share": ("0.0", "0.2"), "model.smear_gate": ("True", "False")}  # fmt: skip

MEASURE = """async ([place, value]) => {
    const found = document.querySelector(place), begin = performance.now();
    if (value === null) found.click();
    else {
        found.value = value;
        found.dispatchEvent(new Event("input", { bubbles: true }));
    }
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    return performance.now() - begin;
}"""  # milliseconds until the answer is on the screen


def store(root: Path, runs: int) -> int:
    """An MLflow database in ``root`` with at least ``runs`` runs of seeds; how many it has, parents aside."""
    shutil.copyfile(PARAMS_FILE, root / "params.yaml")
    parameters = {key: str(value) for key, value in flatten(read_document(root / "params.yaml"))}
    with open_store(absolute_uri("sqlite:///mlflow.db", root)) as client:
        experiment = client.create_experiment("fairway", artifact_location=(root / "mlartifacts").as_uri())
        templates = _templates(client, experiment, parameters)
    states = math.ceil(runs / len(SEEDS))
    with sqlite3.connect(root / "mlflow.db") as database:
        draw = random.Random(0)
        for number in range(states - 1):
            _copy(database, templates, number, draw)
    database.close()
    return states * len(SEEDS)


def _templates(client: Any, experiment: str, parameters: dict[str, str]) -> list[str]:
    """A parent and its seeds, logged as ``track`` logs them."""
    from mlflow.entities import Metric, Param

    ids = []
    for seed in (None, *SEEDS):
        tags = {KEY: "0", COMPLETE: "true", "device": DEVICES[0], "git.commit": "0" * 40, "sweep.name": "sweep 0"}
        if seed is not None:
            tags = {PARENT: ids[0], "seed": str(seed), "device": DEVICES[0]}
            tags |= {f"ran_at.{stage}": "2026-09-21T14:13:20+00:00" for stage in SEED_STAGES}
        run = client.create_run(
            experiment, start_time=BEGIN, tags=tags, run_name="state 0" if seed is None else f"seed {seed}"
        )
        ids.append(run.info.run_id)
        pairs = [Param(key, value) for key, value in parameters.items()]
        for first in range(0, len(pairs), 100):
            client.log_batch(ids[-1], params=pairs[first : first + 100])
        if seed is not None:
            points = [Metric(key, value, BEGIN, 0) for key, value in _metrics(1.24, 0.004).items()]
            points += [Metric(f"curve.{name}", 11 - 1.7 * math.log1p(step), BEGIN, 60 * step)
                       for name in CURVES for step in range(1, POINTS + 1)]  # fmt: skip
            client.log_batch(ids[-1], metrics=points)
        client.set_terminated(ids[-1], "FINISHED", end_time=BEGIN + 3_600_000)
    return ids


def _metrics(bpb: float, gap: float) -> dict[str, float]:
    found = {f"seconds.{stage}": 20.0 * (1 + place) for place, stage in enumerate(SEED_STAGES)} | {
        "seconds.train": 600.0
    }
    found |= {f"select.post_bpb.ema-{place}": bpb + 0.01 for place in range(20)}  # what else a run logs
    found |= {"evaluate.bpb": bpb, "evaluate.bytes": 151_080_363, "evaluate.tokens": 62_021_632, "audit.passed": 1.0}
    found |= {"quantize.pre_bpb": bpb, "quantize.post_bpb": bpb + gap, "quantize.bits": 6, "train.steps": 6000}
    found |= {"gate.total_bytes": 15_900_000, "gate.code_bytes": 44_000, "gate.slack_bytes": 100_000}
    return found | {"gate.limit": 16_000_000, "speed.ms_per_step": 95.0, "speed.tokens_per_second": 8.2e6}


def _copy(database: sqlite3.Connection, templates: list[str], number: int, draw: random.Random) -> None:
    """Another state like the templates: its own scores, sizes, device, day and switches."""
    names = [f"{number:08x}{place:024x}" for place in range(len(templates))]
    device, level = draw.choice(DEVICES), 1.06 + 0.12 * math.exp(-number / 250) + draw.expovariate(60)
    switches = {key: draw.choice(values) for key, values in SWITCHES.items()}
    switches["optim.embed_lr"] = f"{0.01 + number * 1e-5:.5f}"
    if number % 10 == 0:  # the same again, perhaps on another machine
        level, switches = 1.19, {key: values[0] for key, values in SWITCHES.items()} | {"optim.embed_lr": "0.6"}
    gap, size = 0.03 / (int(switches["quant.bits"]) - 3) ** 2, 15_950_000 + draw.gauss(0, 60_000)
    label = " ".join(f"{key}={value}" for key, value in list(switches.items())[:2])
    for template, name in zip(templates, names, strict=True):
        for table in ("runs", "params", "metrics", "latest_metrics", "tags"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[1] != "run_uuid"]
            listed = ", ".join(columns)
            database.execute(
                f"INSERT INTO {table} (run_uuid, {listed}) SELECT ?, {listed} FROM {table} WHERE run_uuid = ?",
                (name, template),
            )
        score = level + draw.gauss(0, 0.0006)
        changed = {"evaluate.bpb": score, "quantize.pre_bpb": score - 0.02, "quantize.post_bpb": score - 0.02 + gap,
                   "gate.total_bytes": round(size + draw.gauss(0, 900)), "audit.passed": float(draw.random() > 0.03),
                   "quantize.bits": float(switches["quant.bits"]),
                   "speed.ms_per_step": 95 * (1 + DEVICES.index(device)) * draw.gauss(1, 0.02)}  # fmt: skip
        for key, value in changed.items():
            database.execute("UPDATE latest_metrics SET value = ? WHERE run_uuid = ? AND key = ?", (value, name, key))
        database.execute(
            "UPDATE metrics SET value = value + ? WHERE run_uuid = ? AND key = 'curve.loss'", (level, name)
        )
        moved = {PARENT: names[0], KEY: str(number + 1), "device": device, "sweep.name": f"sweep {number // 40}"}
        begun = datetime.fromtimestamp((BEGIN + number * DAY // 4) / 1000, UTC).isoformat()
        moved |= {f"ran_at.{stage}": begun for stage in SEED_STAGES}
        for key, value in moved.items():
            database.execute("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", (value, name, key))
        for key, value in (switches | {"hardware.dollars_per_hour": "23.92"}).items():
            database.execute("UPDATE params SET value = ? WHERE run_uuid = ? AND key = ?", (value, name, key))
        span = (BEGIN + number * DAY // 4, BEGIN + number * DAY // 4 + 3_600_000)
        database.execute("UPDATE runs SET start_time = ?, end_time = ? WHERE run_uuid = ?", (*span, name))
    database.execute("UPDATE runs SET name = ? WHERE run_uuid = ?", (f"{label} · {level:.4f} bpb", names[0]))


def opened(page: Path) -> dict[str, float]:
    """Medians over five visits, in seconds: until tables and first charts are there, and of filters and sorting."""
    from benchmarks.browser import chromium

    with chromium() as browser:
        visits = [_visit(browser, page) for _ in range(5)]
    return {name: round(median(visit[name] for visit in visits) / 1000, 3) for name in visits[0]}


def _visit(browser: Any, page: Path) -> dict[str, float]:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.resolve().as_uri())
    tab.wait_for_function("performance.getEntriesByName('drawn').length > 1")
    found = {
        "tables": tab.evaluate("performance.getEntriesByName('ready')[0].startTime"),
        "charts": tab.evaluate("performance.getEntriesByName('drawn')[1].startTime"),
        "filter_runs": tab.evaluate(MEASURE, ["#run-filters [name=query]", "quant.bits=5"]),
        "filter_board": tab.evaluate(MEASURE, ["#board-filters [name=query]", "bits=5"]),
        "sort_runs": tab.evaluate(MEASURE, ["#run-table th:nth-child(3) button", None]),
    }
    tab.close()
    return found


def main() -> None:
    """Make the store, write the report, open it; print and keep the numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="a folder for the store and the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.keep or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        runs = store(root, arguments.runs)
        begin = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))}
        subprocess.run([sys.executable, "-m", "pipeline.cli", "report"], cwd=root, env=environment, check=True)
        seconds, page = time.perf_counter() - begin, root / "report.html"
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = used.ru_utime + used.ru_stime
        found = {
            "runs": runs,
            "build_seconds": round(seconds, 2),
            "build_processor_seconds": round(busy, 2),
            "megabytes": round(page.stat().st_size / 1e6, 2),
        }
        found |= {"browser_seconds": opened(page), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(found, indent=2))
    write_json(RESULT, found)


if __name__ == "__main__":
    run_main("report", main)
