"""The machine's load while stages run: a line every 10 s in logs/system, for :mod:`pipeline.load`.

Whole-machine figures under MLflow's names: CPU, memory, disk, network, and by GPU use, memory and power, by
``nvidia-smi``. A line names the stages that ran then, found by their processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from golf.runtime.place import top_folder
from pipeline.lines import append_line
from pipeline.load import FOLDER
from pipeline.supervise import BusyError, locked

EVERY = 10.0  # seconds
MEGA = 1e6
GPU = ("utilization.gpu", "memory.used", "memory.total", "power.draw", "power.limit")
_STAGE = re.compile(r"stages\.(\w+)")


class Sampler:
    """Writes a line every ``every`` seconds while the ``with`` block runs; one a repository, the first that comes."""

    def __init__(self, root: Path, every: float = EVERY) -> None:
        self.folder, self.every = top_folder(root) / FOLDER, every
        self._stop = threading.Event()
        self._scope = ExitStack()
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)

    def __enter__(self) -> Sampler:
        with suppress(BusyError, OSError):
            self._scope.enter_context(locked("load", self.folder))
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        self._scope.close()

    def _work(self) -> None:
        """A disk that is full costs lines, and nothing else."""
        before = sample()
        while not self._stop.wait(self.every):
            now = sample()
            line = {**now, **{key: now[key] - before[key] for key in now if key.startswith("network")}}
            before = now
            with suppress(OSError):
                append_line(self.folder / f"{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl", json.dumps(line))


def sample() -> dict[str, Any]:
    """The machine now; network megabytes since it was started."""
    import psutil

    memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
    return {
        "time": time.time(),
        "stages": _stages(psutil.process_iter(["cmdline"])),
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MEGA,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "network_receive_megabytes": network.bytes_recv / MEGA if network else 0.0,
        "network_transmit_megabytes": network.bytes_sent / MEGA if network else 0.0,
        **_gpus(),
    }


def _stages(processes: Iterable[Any]) -> list[str]:
    found = set()
    for process in processes:
        words = process.info["cmdline"] or []
        name = next((match[1] for word in words if (match := _STAGE.fullmatch(word))), "")
        seed = words[words.index("--seed") + 1] if "--seed" in words[:-1] else ""
        if name:
            found.add(f"{name}@{seed}" if seed else name)
    return sorted(found)


def _gpus() -> dict[str, float]:
    """Of each device; nothing where there is none, or where the driver does not answer."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU)}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        listing = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return {key: value for i, line in enumerate(listing.splitlines()) for key, value in _device(i, line).items()}
    return {}


def _device(index: int, line: str) -> dict[str, float]:
    """MLflow's names for one line; what the driver calls ``[N/A]`` is left out."""
    found = dict(zip(GPU, line.split(","), strict=False))
    numbers = {}
    for name, text in found.items():
        with suppress(ValueError):
            numbers[name] = float(text)
    use, used, total, power, limit = (numbers.get(name) for name in GPU)
    named = {
        "utilization_percentage": use,
        "memory_usage_megabytes": None if used is None else used * 2**20 / MEGA,
        "memory_usage_percentage": 100 * used / total if used is not None and total else None,
        "power_usage_watts": power,
        "power_usage_percentage": 100 * power / limit if power is not None and limit else None,
    }
    return {f"gpu_{index}_{name}": value for name, value in named.items() if value is not None}
