"""``dvc repro``, with the seeds side by side where cores are to spare: ``python -m pipeline.repro``.

DVC runs one stage at a time, and a stage on a CPU uses one core (``hardware.threads``). The seeds do not need each
other, so on several cores each lane runs ``dvc repro -s`` on one seed's stages: the same commands, the same results,
the same ``dvc.lock``. A plain ``dvc repro`` then does what is left and has the last word on what is up to date. With a
GPU there is one lane, which is ``dvc repro``.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from golf.data.cores import available_cores
from golf.params.base import load, load_seeds, read_document
from golf.params.hardware import Hardware
from golf.runtime.device import uses_gpu
from golf.runtime.errors import run_main
from pipeline.flows import StageFailed, failure
from pipeline.sampler import Sampler
from pipeline.supervise import with_this_python

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
HEARD = 200  # last lines in which a failure is looked for


class Order(NamedTuple):
    """The stages of dvc.yaml as they can run side by side."""

    shared: list[str]  # before any seed
    first: str  # of a seed: the training, which takes longest
    rest: list[str]  # of a seed, after it


def order(graph: Path = Path("dvc.yaml")) -> Order:
    """The stages before the first one with a matrix, that one, and the others with a matrix, as the file has them."""
    stages = read_document(graph)["stages"]
    seeded = [name for name, stage in stages.items() if "matrix" in stage]
    names = list(stages)
    return Order(names[: names.index(seeded[0])], seeded[0], seeded[1:])


def lanes(hardware: Hardware, seeds: int) -> int:
    """How many seeds fit beside each other on this machine."""
    if hardware.threads == 0 or uses_gpu(hardware):
        return 1
    return max(1, min(seeds, available_cores() // (hardware.threads * max(1, hardware.processes))))


def is_up_to_date() -> bool:
    """Whether ``dvc repro`` would find nothing to do; four more starts of DVC would only tell the same."""
    status = subprocess.run([*DVC, "status", "--json"], capture_output=True, text=True, check=False)
    return status.returncode == 0 and status.stdout.strip() == "{}"


def side_by_side(stages: Order, seeds: Sequence[int], count: int) -> None:
    """Bring everything up to date that is before the seeds meet again, ``count`` seeds at a time.

    All first stages go before any other: they are the long ones, so that no lane is left with one at the end.

    Raises:
        StageFailed: the first that did; what runs beside it ends in peace, nothing else is begun.
    """
    reproduce(["-s", *stages.shared])
    broken = threading.Event()

    def run(seed: int, names: Sequence[str]) -> None:
        if broken.is_set():
            return
        try:
            reproduce(["-s", *(f"{name}@{seed}" for name in names)], seed)
        except BaseException:
            broken.set()
            raise

    with ThreadPoolExecutor(count) as pool:
        firsts = {seed: pool.submit(run, seed, [stages.first]) for seed in seeds}

        def finish(seed: int) -> None:
            firsts[seed].result()
            run(seed, stages.rest)

        tasks = [*firsts.values(), *(pool.submit(finish, seed) for seed in seeds)]
    for task in tasks:
        task.result()


def reproduce(arguments: Sequence[str], seed: int | None = None) -> None:
    """Run ``dvc repro ARGUMENTS``, the lines of a seed's lane marked with it.

    Raises:
        StageFailed: with what the stage said, and its own exit code.
    """
    mark = "" if seed is None else f"{seed:>5} | "
    heard: list[str] = []
    with subprocess.Popen(
        [*DVC, "repro", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=with_this_python(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            heard = [*heard[1 - HEARD :], line.rstrip("\n")]
            print(f"{mark}{line}", end="", flush=True)
    if process.returncode:
        raise StageFailed(*failure(heard, process.returncode))


def main() -> None:
    """Bring the graph up to date."""
    seeds = load_seeds()
    count = lanes(load(Hardware), len(seeds))
    with Sampler(Path.cwd()):
        if count > 1 and not is_up_to_date():
            side_by_side(order(), seeds, count)
        reproduce([])


if __name__ == "__main__":
    run_main("repro", main)
