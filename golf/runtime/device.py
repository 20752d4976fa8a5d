"""Which device a stage runs on, with how many threads and processes, as the section ``hardware`` says.

torch is imported (a second) where it is needed: a stage that only starts the program asks :func:`process_count`, and
on a machine without any GPU the answer is known before.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from golf.params.hardware import Hardware
from golf.runtime.errors import ConfigError

if TYPE_CHECKING:
    import torch

# What the drivers make: NVIDIA's, the same within WSL, AMD's.
GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd")


def prepare(hardware: Hardware) -> torch.device:
    """Set the CPU threads of this process and return the device for one process.

    Raises:
        ConfigError: a GPU is asked for and torch sees none.
    """
    import torch

    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    if not uses_gpu(hardware):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def uses_gpu(hardware: Hardware) -> bool:
    """Whether stages compute on a GPU here. Starts no CUDA context.

    Raises:
        ConfigError: a GPU is asked for and torch sees none.
    """
    if hardware.device == "cpu" or (hardware.device == "auto" and not _may_have_gpu()):
        return False
    import torch

    if not torch.cuda.is_available():
        if hardware.device == "auto":
            return False
        built = torch.version.cuda
        found = f"torch {torch.__version__} sees no GPU" if built else f"torch {torch.__version__} is a CPU build"
        raise ConfigError(f"hardware.device=cuda: {found}", hint="dvc exp run -S hardware.device=auto")
    return True


def _may_have_gpu() -> bool:
    """Whether a driver for a GPU is loaded, as far as the system says; True where it does not."""
    return sys.platform != "linux" or any(any(Path("/dev").glob(pattern)) for pattern in GPU_FILES)


def describe(device: torch.device) -> str:
    """For timing reports: the GPU's name, or ``cpu`` with the threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def process_count(hardware: Hardware, *, divides: int, at_most: int | None = None) -> tuple[int, str]:
    """How many ranks to start on this machine, and the reason.

    Args:
        hardware: ``processes`` forces the number; 0 takes one a GPU, and one on CPU.
        divides: a number that the chosen count must divide, such as the windows of a batch.
        at_most: bound of the automatic choice.

    Raises:
        ConfigError: more processes are asked for than there are GPUs.
    """
    gpus = _count_gpus() if uses_gpu(hardware) else 0
    if hardware.processes:
        if gpus and hardware.processes > gpus:
            raise ConfigError(
                f"hardware.processes: found {hardware.processes}, needed at most the {gpus} GPUs of this machine",
                hint="dvc exp run -S hardware.processes=0",
            )
        return hardware.processes, "hardware.processes"
    if not gpus:
        return 1, "no GPU in use"
    most = min(gpus, at_most or gpus)
    count = max(number for number in range(1, most + 1) if divides % number == 0)
    return count, f"{count} of {gpus} GPUs" if count < gpus else "one a GPU"


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def choose_compile(hardware: Hardware, device: torch.device, kernels: bool = False) -> tuple[bool, str]:
    """Whether to compile the model, and the reason; ``kernels``: ours compute it."""
    if hardware.compile != "auto":
        return hardware.compile == "on", "hardware.compile"
    if device.type != "cuda":
        return False, "no GPU in use"
    if kernels:
        return False, "the kernels leave the compiler little"
    return True, "a GPU repays it"


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use: of the GPU, or of this process on a CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
