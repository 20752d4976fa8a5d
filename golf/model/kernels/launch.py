"""How a module holds Triton kernels and still imports where Triton is missing."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

Backward = Callable[..., Any]

SHARED_MEMORY = 113 << 10  # bytes of a program of the largest kernel, the MLP's: half of what an H100 has

INTERPRETED_PROGRAMS = 3  # of a persistent grid on the CPU: fewer than the tiles, so that tests walk the loop


class Kernel:
    """A decorator: the function becomes a Triton kernel when it is first launched, ``function[grid](...)``.

    Its module needs no import of Triton: ``triton`` and ``tl`` are set in it then.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        return self.compiled[grid]

    @functools.cached_property
    def compiled(self) -> Any:
        """Triton's own handle."""
        import triton
        import triton.language as tl

        self.function.__globals__.update(triton=triton, tl=tl)
        return triton.jit(self.function)


def kernels_available(device: torch.device | str) -> tuple[bool, str]:
    """Whether the kernels can run on ``device``, and the reason for the log. Nothing is imported."""
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return False, f"kernels need a CUDA device, found {device.type if device.type != 'cuda' else 'none'}"
    if importlib.util.find_spec("triton") is None:
        return False, "package triton is not installed"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return False, f"kernels need compute capability 8.0 (bf16), found {major}.{minor}"
    memory = torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]
    if memory < SHARED_MEMORY:
        return False, f"kernels need {SHARED_MEMORY:,} bytes of shared memory, found {memory:,}"
    return True, "triton and a CUDA device"


def programs(device: torch.device, each: int = 1) -> int:
    """Size of a persistent grid: ``each`` programs a multiprocessor."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return each * torch.cuda.get_device_properties(device).multi_processor_count


def power_of_two(size: int) -> int:
    """The least power of two that is not below ``size``: what the blocks of a kernel must be."""
    return 1 << (size - 1).bit_length()


def descriptor(tensor: Tensor, block: tuple[int, int]) -> Any:
    """A view of ``tensor`` (rows, columns) in tiles for the bulk copy engine; reads beyond its ends give zero.

    Its rows must be contiguous and 16-byte aligned. Where there is no such engine Triton uses plain loads.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(tensor, list(block))


def differentiable(operator: CustomOpDef, keep: Callable[..., None]) -> Callable[[Backward], Backward]:
    """A decorator: the function is the backward pass of ``operator``, from what ``keep`` saved of the forward pass."""

    def register(backward: Backward) -> Backward:
        operator.register_autograd(backward, setup_context=keep)
        return backward

    return register


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """``gradientᵀ x`` in fp32, never rounded to bf16: (N, out), (N, in) -> (out, in)."""
    if gradient.is_cuda and gradient.dtype != torch.float32:
        return torch.mm(gradient.mT, x, out_dtype=torch.float32)
    return gradient.mT.float() @ x.float()
