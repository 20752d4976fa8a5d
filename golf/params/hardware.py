"""What changes the speed and not the result: no stage lists it among its parameters."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from golf.params.base import Section
from golf.runtime.errors import ConfigError


@dataclass(frozen=True)
class Hardware(Section):
    """The machine's shape. ``auto`` takes what is there and says why."""

    SECTION: ClassVar[str] = "hardware"

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 0  # ranks of train and evaluate; 0: one a GPU, one on CPU
    threads: int = (
        1  # CPU threads a rank; 1: no waiting between threads, the same bits on any number of cores; 0: torch's choice
    )
    attention: Literal["auto", "fa4", "fa3", "fa2", "cudnn", "flash", "flex", "sdpa"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile, to train; auto: with a GPU and without our kernels
    kernels: Literal["auto", "off"] = "auto"  # our Triton kernels, to train and score; auto: with a GPU that runs them
    graphs: Literal["auto", "off"] = "auto"  # replay CUDA graphs; auto: with a GPU, where nothing is compiled
    strict_clock: bool = False  # refuse fewer GPUs than train.gpus instead of stretching the clock
    nccl: dict[str, str] | None = None  # NCCL_* settings of the ranks, as NCCL's own documentation names them
    nccl_timeout: float = 120.0  # seconds for the ranks to find each other and exchange the first number
    min_tflops: float = 0.0  # TFLOP/s of each device's products below which doctor fails; 0: known chips, a warning
    dollars_per_hour: float = 0.0  # price of the whole machine; 0: not known

    def __post_init__(self) -> None:
        for name in ("processes", "threads", "min_tflops", "dollars_per_hour"):
            self.require(getattr(self, name) >= 0, name, "0 or more", 0)
        self.require(self.nccl_timeout > 0, "nccl_timeout", "above 0", 120.0)
        # Twice the hardware threads of the largest machines of two sockets: far more cannot be started. And a day.
        for name, most in {"threads": 1024, "nccl_timeout": 86_400}.items():
            self.require(getattr(self, name) <= most, name, f"at most {most}", 1)
        for name, value in (self.nccl or {}).items():
            if not name.startswith("NCCL_") or not name.isupper() or not value:
                raise ConfigError(
                    f"hardware.nccl: found {name}: {value!r}, needed names that begin with NCCL_ and a text each",
                    hint="dvc exp run -S 'hardware.nccl={NCCL_NET: Socket}'",
                )
