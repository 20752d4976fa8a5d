"""Where the milliseconds of a training step go: speed, memory and waits in every phase of a profile's run.

The steps are those of ``golf.train``, on real shards; only the clock is replaced. On a GPU the floor of a step is the
time that its products would take at the rate that this very chip reaches on 8192 x 8192 matrices. Memory is the most
since the start, in every row: what a CUDA graph works in is allocated once, when it is recorded.

    python -m benchmarks.train_step --profile smoke --shards data/shards
    python -m benchmarks.train_step --profile r1061 --shards data/shards --kernels
    torchrun --standalone --nproc-per-node=2 -m benchmarks.train_step --profile r1061 --shards data/shards
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernel_time import by_part, product_rate
from golf.params.base import S, from_dict, parse_yaml, read_document
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.tokenizer import Tokenizer
from golf.params.train import Train
from golf.runtime.device import peak_memory
from golf.runtime.errors import ConfigError, run_main
from golf.runtime.files import write_json
from golf.train.connect import connect
from golf.train.distributed import world_size
from golf.train.flops import peak_flops
from golf.train.loop import wait_for
from golf.train.phases import Phase
from golf.train.plan import TrainConfig, check, make_plan
from golf.train.run import Run, set_up
from golf.train.step import enter, take_step
from golf.train.warmup import distinct, measure_work, rewind, warm_up

BLOCKS = 3  # timed blocks of steps; the median counts
SETTLE = 2  # steps between a change of phase and the first timed one
FIRST = 1_000_003  # number of the first timed step: far from any that is logged


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profile", help="overlay in profiles/; none: params.yaml as it is")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.pack=windows")
    parser.add_argument("--shards", type=Path, required=True, help="folder with train_*.bin")
    parser.add_argument("--steps", type=int, default=10, help="of a timed block, 1 or more (default: 10)")
    parser.add_argument("--kernels", action="store_true", help="sum the GPU's time by kind of kernel")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parsed = parser.parse_args()
    if parsed.steps < 1:
        raise ConfigError(f"--steps: found {parsed.steps}, needed 1 or more")
    config = configuration(parsed.profile, parsed.set, parsed.shards)
    check(config)
    plan = make_plan(config.train, config.hardware, world_size(), config.model.loop_passes)
    with connect(config.hardware) as ranks:
        started = time.perf_counter()
        run = set_up(config, plan, ranks)
        with run.feed:
            result = measure(run, parsed.steps, parsed.kernels, started)
        if ranks.first:
            report(result)
            if parsed.out:
                write_json(parsed.out, {"profile": parsed.profile, "set": parsed.set, **result})


def configuration(profile: str | None, changes: list[str], shards: Path) -> TrainConfig:
    """params.yaml, the profile laid over it, and the changes over both.

    Raises:
        ConfigError: a change is no YAML, or of no parameter.
    """
    import yaml

    document = read_document(Path("params.yaml"))
    overlays = [read_document(Path("profiles") / f"{profile}.yaml")] if profile else []
    for change in changes:
        key, _, value = change.partition("=")
        section, _, name = key.partition(".")
        try:
            overlays.append({section: {name: parse_yaml(value)}})
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(document.get(section), dict):
            raise ConfigError(f"--set {change}: no section {section!r}", hint="--set train.steps=1000")
    for overlay in overlays:
        for section, values in overlay.items():
            if isinstance(values, dict):
                document[section] = document[section] | values

    def checked(kind: type[S]) -> S:
        return from_dict(kind, document[kind.SECTION])

    train = checked(Train)
    return TrainConfig(
        model=checked(Model),
        optim=checked(Optim),
        train=replace(train, steps=train.steps or 1_000_000),  # no clock runs here
        hardware=checked(Hardware),
        seed=0,
        shards=shards,
        vocab_size=checked(Tokenizer).vocab_size,
        out=Path(tempfile.gettempdir()) / "fairway-train-step",
    )


def measure(run: Run, steps: int, kernels: bool, started: float) -> dict[str, Any]:
    """Warm up, then time each phase."""
    device = run.ranks.device
    set_up_seconds = time.perf_counter() - started
    measure_work(run)
    warm_up(run)
    wait_for(device)
    warm_up_seconds = time.perf_counter() - started - set_up_seconds
    run.meter.begin(run.feed.waited)
    rate = product_rate(device) if device.type == "cuda" else None
    phases = [time_phase(run, phase, steps, kernels, rate) for phase in distinct(run)]
    rewind(run)
    return {
        **run.facts,
        "parameters": sum(param.numel() for param in run.state.model.parameters()),
        "set_up_seconds": round(set_up_seconds, 1),
        "warm_up_seconds": round(warm_up_seconds, 1),
        "product_tflops": None if rate is None else round(rate / 1e12),
        "recompiles": run.meter.recompiles,
        "phases": phases,
    }


def time_phase(run: Run, phase: Phase, steps: int, kernels: bool, rate: float | None) -> dict[str, Any]:
    """Medians over blocks of steps in one phase."""
    device, tokens = run.ranks.device, phase.batch_tokens
    enter(run, phase, FIRST)
    for step in range(SETTLE):
        take_step(run, FIRST + step, 1.0, 0.5)
    wait_for(device)
    waits = count_waits(run, steps)
    waited = run.feed.waited
    ms = statistics.median(time_block(run, steps) for _ in range(BLOCKS))
    row: dict[str, Any] = {
        "seq_len": phase.seq_len,
        "passes": phase.passes,
        "quantized": phase.quantized,
        "batch_tokens": tokens,
        "ms_per_step": round(ms, 2),
        "tokens_per_second": round(1000 * tokens / ms),
        "data_wait_ms": round(1000 * (run.feed.waited - waited) / (BLOCKS * steps), 3),
        "host_waits_per_step": waits,
        "peak_memory_bytes": peak_memory(device),
    }
    if rate is not None:
        work = run.meter.work.get(phase.passes)
        peak = peak_flops(run.facts["device"])
        if work is not None and peak is not None:
            flops = work.per_token * tokens / run.ranks.count
            row |= {"floor_ms": round(1000 * flops / rate, 2), "mfu": round(flops / (ms / 1000) / peak, 4)}
        row["parts_ms"] = time_parts(run, steps)
        if kernels:
            row["kernels_ms"] = by_part(lambda: take_step(run, FIRST, 1.0, 0.5))
    return row


def time_block(run: Run, steps: int) -> float:
    """Milliseconds a step, the device idle before and after."""
    wait_for(run.ranks.device)
    begin = time.perf_counter()
    for step in range(steps):
        take_step(run, FIRST + step, 1.0, 0.5)
    wait_for(run.ranks.device)
    return 1000 * (time.perf_counter() - begin) / steps


def count_waits(run: Run, steps: int) -> float | None:
    """How often a step makes the host wait for the GPU; None on a CPU."""
    if run.ranks.device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(steps):
                take_step(run, FIRST + step, 1.0, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught) / steps


def time_parts(run: Run, steps: int) -> dict[str, float]:
    """Milliseconds of the GPU in the optimizer's step and the averages; the rest is forward and backward."""
    spans: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {"step": [], "optimizer": [], "averages": []}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            found = call(*args, **kwargs)
            end.record()
            spans[name].append((begin, end))
            return found

        return wrapper

    optimizer, averages = run.state.optimizer, run.state.averages
    whole = timed("step", take_step)
    with_timers = ((optimizer, "step", "optimizer"), (averages, "update", "averages"))
    for owner, method, name in with_timers:
        setattr(owner, method, timed(name, getattr(owner, method)))
    try:
        for step in range(steps):
            whole(run, FIRST + step, 1.0, 0.5)
    finally:
        for owner, method, _ in with_timers:
            delattr(owner, method)
    torch.cuda.synchronize()
    mean = {name: sum(a.elapsed_time(b) for a, b in pairs) / steps for name, pairs in spans.items()}
    mean["forward and backward"] = mean.pop("step") - mean["optimizer"] - mean["averages"]
    return {name: round(value, 3) for name, value in mean.items()}


def report(result: dict[str, Any]) -> None:
    """The table, for people."""
    print(
        f"{result['device']} x {result['processes']}; {result['parameters']:,} parameters; {result['attention']}; "
        f"set-up {result['set_up_seconds']} s, warm-up {result['warm_up_seconds']} s; "
        f"{result['recompiles']} recompiles after it"
    )
    print("seq_len passes quantized   ms/step    tokens/s    MFU  floor ms  memory GB  waits/step")
    for row in result["phases"]:
        print(
            f"{row['seq_len']:7} {row['passes']:6} {row['quantized']!s:>9} {row['ms_per_step']:9.2f} "
            f"{row['tokens_per_second']:11,} {100 * row.get('mfu', 0):5.1f}% {row.get('floor_ms', 0):9.2f} "
            f"{row['peak_memory_bytes'] / 1e9:10.2f} {row['host_waits_per_step'] or 0:11.1f}"
        )
        for title in ("parts_ms", "kernels_ms"):
            for name, ms in row.get(title, {}).items():
                print(f"{'':28}{name:32} {ms:9.2f} ms")


if __name__ == "__main__":
    run_main("train_step", main)
