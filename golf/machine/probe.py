"""Measure this machine, a line of JSON a part, as soon as it is known: ``python -m golf.machine.probe``.

A process of its own, since it starts CUDA and may be ended at any time. Parts: ``exchange`` (an all-reduce),
``products`` (of matrices, on every device), ``attention``. A part that fails is ``{"part": ..., "error": ...}``,
and the next one still runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golf.params.base import PARAMS_FILE, load
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.runtime.device import prepare, uses_gpu
from golf.runtime.errors import FairwayError, run_main

SECONDS = {"cuda": 5.0, "cpu": 0.2}  # of matrix products
EXCHANGE_SECONDS = 30.0  # for the first one: what hardware.nccl_timeout gives beyond that is for large machines
RANKS_ON_CPU = 2  # the least that have something to exchange


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m golf.machine.probe", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="file with the sections hardware and model")
    arguments = parser.parse_args()
    hardware = load(Hardware, arguments.params)
    gpus = _gpus() if uses_gpu(hardware) else 0
    tell("exchange", lambda: _exchange(hardware, gpus))  # first: it forks
    tell("products", lambda: _products(hardware, gpus))
    tell("attention", lambda: _attention(hardware, load(Model, arguments.params)))


def tell(part: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Print what ``measure`` finds, or why it found nothing."""
    try:
        found = measure()
    except FairwayError as error:
        found = {"error": str(error)}
    except Exception as error:  # a broken driver raises anything
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print(json.dumps({"part": part, **found}), flush=True)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _exchange(hardware: Hardware, gpus: int) -> dict[str, Any]:
    from golf.machine.exchange import exchange

    ranks = hardware.processes or gpus or RANKS_ON_CPU
    return exchange(hardware, ranks, min(hardware.nccl_timeout, EXCHANGE_SECONDS), on_gpu=bool(gpus))


def _products(hardware: Hardware, gpus: int) -> dict[str, Any]:
    import torch

    from golf.machine.products import rates

    own = prepare(hardware)
    devices = [torch.device("cuda", index) for index in range(gpus)] or [own]
    names = [torch.cuda.get_device_name(index) for index in range(gpus)] or ["cpu"]
    found = zip(names, rates(devices, SECONDS[own.type]), strict=True)
    return {"devices": [{"name": name, "tflops": round(rate, 4), "peak": _peak(name)} for name, rate in found]}


def _peak(name: str) -> float | None:
    """TFLOP/s by the data sheet; None where the chip is not known."""
    if name == "cpu":
        return None
    from golf.train.flops import peak_flops

    peak = peak_flops(name)
    return peak / 1e12 if peak else None


def _attention(hardware: Hardware, model: Model) -> dict[str, Any]:
    from golf.machine.attention import speeds

    return speeds(hardware.attention, prepare(hardware), masked=model.document_mask)


if __name__ == "__main__":
    run_main("probe", main)
