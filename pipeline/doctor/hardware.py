"""The machine: GPUs, what they compute, how they exchange, and the space on its disks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golf.params.base import load
from golf.params.data import Data
from golf.params.hardware import Hardware
from golf.params.train import Train
from golf.runtime.device import uses_gpu
from pipeline.cache import cache_folder
from pipeline.doctor.checks import Result, child, last_line
from pipeline.doctor.sizes import needed_bytes

QUERY = ("index", "name", "memory.total", "memory.used", "clocks.max.sm", "power.limit", "power.default_limit",
         "ecc.mode.current", "ecc.errors.uncorrected.volatile.total", "mig.mode.current")  # fmt: skip
SMI_SECONDS = 20.0
HEALTHY = 0.65  # of the data sheet's rate: sound H100s reach 0.78 to 0.80 (docs/gpu.md)
USED_MIB = 1024  # of a GPU's memory: more is somebody's process
PROBE_SECONDS = 180.0
GIB = 2**30


def gpus() -> list[Result]:
    """Count, names, memory, clocks, ECC and MIG, as ``nvidia-smi`` tells them."""
    hardware, train = load(Hardware), load(Train)
    if not uses_gpu(hardware):
        return [_without_gpu(hardware, train)]
    if shutil.which("nvidia-smi") is None:
        return [Result("gpus", "warn", "nvidia-smi is not there: memory, clocks, ECC and MIG are not known",
                       "install the driver's tools in the image")]  # fmt: skip
    done = child(["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"], SMI_SECONDS)
    if done.returncode:
        return [Result("gpus", "fail", f"nvidia-smi: {last_line(done.stdout + done.stderr)}", "another machine")]
    rows = [dict(zip(QUERY, map(str.strip, row), strict=True)) for row in csv.reader(done.stdout.splitlines()) if row]
    return [judge_gpus(rows, train.gpus, by_clock=train.steps == 0, strict=hardware.strict_clock)]


def _without_gpu(hardware: Hardware, train: Train) -> Result:
    if train.steps == 0:
        todo = "a machine with GPUs, or fairway use smoke"
        state, found = ("fail" if hardware.strict_clock else "warn"), f"none, and train.gpus={train.gpus} by the clock"
        return Result("gpus", state, found, todo)  # type: ignore[arg-type]
    return Result("gpus", "skipped", "no GPU in use: everything runs on the CPU")


def judge_gpus(rows: Sequence[dict[str, str]], wanted: int, *, by_clock: bool, strict: bool) -> Result:
    """One line on all GPUs; the worst finding decides."""
    names = sorted({row["name"] for row in rows})
    memory = min((_number(row["memory.total"]) for row in rows), default=0.0)
    found = f"{len(rows)} x {' and '.join(names)}, {memory / 1024:.0f} GiB, {rows[0]['clocks.max.sm']} MHz at most, "
    found += f"ECC {rows[0]['ecc.mode.current']}, MIG {rows[0]['mig.mode.current']}"
    faults, remarks = [], []
    for row in rows:
        if _number(row["ecc.errors.uncorrected.volatile.total"]) > 0:
            faults.append((f"GPU {row['index']}: uncorrected ECC errors", "another machine"))
        if row["mig.mode.current"] == "Enabled":
            remarks.append((f"GPU {row['index']}: MIG is on: a slice of a chip", "a machine with whole GPUs"))
        if _number(row["memory.used"]) > USED_MIB:
            remarks.append((f"GPU {row['index']}: {row['memory.used']} MiB in use", "nvidia-smi shows by whom"))
        if 0 < _number(row["power.limit"]) < _number(row["power.default_limit"]):
            limits = f"{row['power.limit']} of {row['power.default_limit']} W"
            remarks.append((f"GPU {row['index']}: power held to {limits}", "another machine, or nvidia-smi -pl"))
    if len(names) > 1:
        remarks.append(("chips of several kinds: the slowest sets the pace", "another machine"))
    if by_clock and len(rows) < wanted:
        shape = (f"train.gpus={wanted}: the clock is stretched", f"a machine with {wanted} GPUs")
        (faults if strict else remarks).append(shape)
    worst = [*faults, *remarks]
    state: Any = "fail" if faults else "warn" if remarks else "ok"
    told = "; ".join([found, *(text for text, _ in worst)])
    return Result("gpus", state, told, worst[0][1] if worst else "", {"gpus": list(rows)})


def _number(text: str) -> float:
    """``[N/A]``, as nvidia-smi says of what a chip does not have, is 0."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def measured() -> list[Result]:
    """Exchange, products and attention, from :mod:`golf.machine.probe` in its own process."""
    done = child([sys.executable, "-m", "golf.machine.probe"], PROBE_SECONDS)
    parts: dict[str, dict[str, Any]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            content = json.loads(line)
            parts[content.pop("part")] = content
    gone = f"the measurement ended with {done.returncode}: {last_line(done.stderr)}"
    judges = {"exchange": judge_exchange, "products": judge_products, "attention": judge_attention}
    return [judge(parts.get(part, {"error": gone})) for part, judge in judges.items()]


def judge_products(found: dict[str, Any]) -> Result:
    """The slowest device against ``hardware.min_tflops``, or else against its chip's data sheet."""
    if "error" in found:
        return _failed("products", found["error"])
    devices, needed = found["devices"], load(Hardware).min_tflops
    slowest = min(devices, key=lambda device: device["tflops"])
    rate, peak = slowest["tflops"], slowest["peak"]
    told = f"{rate:.4g} TFLOP/s" + (f", the slowest of {len(devices)}" if len(devices) > 1 else "")
    told += f", {rate / peak:.0%} of the {peak:g} of a {slowest['name']}" if peak else f" on {slowest['name']}"
    if needed:
        told += f"; hardware.min_tflops={needed:g}"
        if rate < needed:
            return Result("products", "fail", told, "another machine: this one is slow or shared", found)
    elif peak and rate < HEALTHY * peak:
        return Result("products", "warn", told, "another machine; hardware.min_tflops makes this a failure", found)
    return Result("products", "ok", told, "", found)


def judge_attention(found: dict[str, Any]) -> Result:
    """What ``auto`` takes here, how fast each is, and how to get those that are faster."""
    if "error" in found:
        return _failed("attention", found["error"])
    speeds = {row["name"]: row["tflops"] for row in found["rows"] if "tflops" in row}
    listed = ", ".join(f"{name} {rate:g}" for name, rate in sorted(speeds.items(), key=lambda pair: -pair[1]))
    told = f"{found['chosen']} ({found['reason']}); TFLOP/s: {listed}"
    missing = {row["name"]: row for row in found["rows"] if "missing" in row}
    broken = missing.get(found["chosen"])
    if broken:
        return Result("attention", "fail", f"{found['chosen']}: {broken['missing']}", broken["get"], found)
    faster = max(speeds, key=lambda name: speeds[name])
    if faster != found["chosen"] and speeds[faster] > 1.1 * speeds[found["chosen"]]:
        return Result("attention", "warn", told, f"dvc exp run -S hardware.attention={faster}", found)
    could = [row for row in missing.values() if "not installed" in row["missing"]]
    if could:  # what fits this chip and is not there
        told += f"; not installed: {', '.join(row['name'] for row in could)}"
        best = could[0]["name"] == "fa3"
        return Result("attention", "warn" if best else "ok", told, could[0]["get"] if best else "", found)
    return Result("attention", "ok", told, "", found)


def judge_exchange(found: dict[str, Any]) -> Result:
    """The all-reduce, with the settings that it ran under."""
    hardware = load(Hardware)
    settings = {
        **{name: text for name, text in os.environ.items() if name.startswith("NCCL_")},
        **(hardware.nccl or {}),
    }
    told = ", ".join(f"{name}={text}" for name, text in sorted(settings.items())) or "no NCCL_* set"
    if "error" in found:
        return _failed("exchange", f"{found['error']}; {told}", "hardware.nccl: NCCL_DEBUG: INFO names the interface")
    rate = f", {found['gb_per_s']:.3g} GB/s" if found["ranks"] > 1 else ", nobody to exchange with"
    text = f"{found['backend']}, {found['ranks']} ranks in {found['seconds']:.1f} s{rate}; {told}"
    return Result("exchange", "ok", text, "", {**found, "settings": settings})


def _failed(name: str, error: str, otherwise: str = "python -m golf.machine.probe shows it whole") -> Result:
    text, _, todo = error.partition(". Try: ")
    return Result(name, "fail", text, todo or otherwise)


def disks() -> list[Result]:
    """Free space on root, temp and the cache against what the run will write there; one line each.

    Needs of places on the same file system add up.
    """
    cache = cache_folder(Path.cwd())
    needs = needed_bytes(Path.cwd(), fineweb=load(Data).source == "fineweb")
    places = {"root": (Path("/"), needs.root), "temp": (Path(tempfile.gettempdir()), needs.temp),
              "cache": (cache, needs.cache)}  # fmt: skip
    together: dict[int, int] = {}
    for path, need in places.values():
        together[_exists(path).stat().st_dev] = together.get(_exists(path).stat().st_dev, 0) + need
    results = []
    for name, (path, _) in places.items():
        usage, need = shutil.disk_usage(_exists(path)), together[_exists(path).stat().st_dev]
        state: Any = "fail" if usage.free < need else "warn" if usage.free < 2 * need else "ok"
        told = f"{path}: {usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free, this run needs {need / GIB:.1f}"
        todo = {"temp": "TMPDIR on a larger disk", "root": "df -h /; empty what is not needed"}.get(
            name, "dvc gc --workspace --all-experiments, or dvc cache dir on a larger disk"
        )
        facts = {"free_bytes": usage.free, "needed_bytes": need}
        results.append(Result(f"disk {name}", state, told, "" if state == "ok" else todo, facts))
    return results


def _exists(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
