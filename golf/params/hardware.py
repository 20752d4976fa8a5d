"""What changes the speed and not the result: no stage lists it among its parameters."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from golf.params.base import Section


@dataclass(frozen=True)
class Hardware(Section):
    """The machine's shape. ``auto`` takes what is there and says why."""

    SECTION: ClassVar[str] = "hardware"

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 0  # ranks of train and evaluate; 0: one a GPU, one on CPU
    threads: int = (
        1  # CPU threads a rank; 1: no waiting between threads, the same bits on any number of cores; 0: torch's choice
    )
    attention: Literal["auto", "fa4", "fa3", "fa2", "cudnn", "flash", "sdpa"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; auto: on with a GPU
    strict_clock: bool = False  # refuse fewer GPUs than train.gpus instead of stretching the clock

    def __post_init__(self) -> None:
        self.require(self.processes >= 0, "processes", "0 (auto) or more", 0)
        self.require(self.threads >= 0, "threads", "0 (auto) or more", 0)
