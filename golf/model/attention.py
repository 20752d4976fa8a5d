"""Causal grouped-query attention: one interface, several implementations, chosen once at start."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.runtime.errors import ConfigError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v -> y, shapes as in `attend`

AUTO_ORDER = ("fa4", "fa3", "fa2", "cudnn", "flash", "sdpa")
MODULES = {"fa4": "flash_attn.cute", "fa3": "flash_attn_interface", "fa2": "flash_attn"}
CAPABILITIES = {  # least and last major compute capability that each was built for
    "fa4": (9, 10),
    "fa3": (9, 9),
    "fa2": (8, 12),
    "cudnn": (8, 12),
    "flash": (8, 12),
}
HOW_TO_GET = {
    "fa4": "build flash_attn/cute from flash-attention's sources (Hopper or Blackwell), or hardware.attention=auto",
    "fa3": "build flash-attention's hopper/ folder (Hopper), or hardware.attention=auto",
    "fa2": "pip install flash-attn --no-build-isolation (Ampere or later), or hardware.attention=auto",
    "cudnn": "a CUDA build of torch with cuDNN 9 and an Ampere or later GPU, or hardware.attention=auto",
    "flash": "a CUDA build of torch and an Ampere or later GPU, or hardware.attention=auto",
}


def attend(q: Tensor, k: Tensor, v: Tensor, backend: str = "sdpa") -> Tensor:
    """Causal softmax attention with scale 1/sqrt(D); query head h reads key/value head h * Hkv // H.

    Args:
        q: (B, T, H, D)
        k: (B, T, Hkv, D), Hkv a divisor of H
        v: (B, T, Hkv, D)
        backend: a name of :data:`AUTO_ORDER`; see :func:`choose_backend`.

    Returns:
        (B, T, H, D) in the dtype of q.
    """
    return implementation(backend)(q, k, v)


def implementation(backend: str) -> Attend:
    """The function behind ``backend``, imported here and now so that a compiled model holds it and imports nothing."""
    if backend in MODULES:
        return _flash_attention(importlib.import_module(MODULES[backend]).flash_attn_func)
    if backend in ("cudnn", "flash"):
        return _forced_sdpa(backend)
    if backend == "sdpa":
        return _sdpa
    raise ConfigError(f"hardware.attention: found {backend!r}, needed one of {', '.join(AUTO_ORDER)}")


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


def _forced_sdpa(backend: str) -> Attend:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernel = SDPBackend.CUDNN_ATTENTION if backend == "cudnn" else SDPBackend.FLASH_ATTENTION

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return _sdpa(q, k, v)

    return call


def _flash_attention(function: Callable[..., Any]) -> Attend:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = function(q, k, v, causal=True)
        return result[0] if isinstance(result, tuple) else result  # some versions return the log-sum-exp too

    return call


def choose_backend(name: str, device: torch.device | str) -> tuple[str, str]:
    """The attention implementation to use and the reason, for the log.

    Args:
        name: ``auto``, or one of :data:`AUTO_ORDER` to force it.
        device: where the model runs.

    Raises:
        ConfigError: the forced implementation cannot run here.
    """
    device = torch.device(device)
    if name != "auto":
        if name not in AUTO_ORDER:
            raise ConfigError(f"hardware.attention: found {name!r}, needed auto or one of {', '.join(AUTO_ORDER)}")
        obstacle = _obstacle(name, device)
        if obstacle:
            raise ConfigError(f"hardware.attention={name}: {obstacle}", hint=HOW_TO_GET[name])
        return name, "forced by hardware.attention"
    if device.type != "cuda":
        return "sdpa", f"the only one on {device.type}"
    refused: list[str] = []
    for candidate in AUTO_ORDER:
        obstacle = _obstacle(candidate, device)
        if not obstacle:
            return candidate, "; ".join(refused) or "the first choice"
        refused.append(f"{candidate}: {obstacle}")
    raise AssertionError("sdpa has no obstacle")


def _obstacle(name: str, device: torch.device) -> str:
    """Why ``name`` cannot run on ``device``; empty when it can. Nothing is imported."""
    if name == "sdpa":
        return ""
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"needs a CUDA device, found {device.type if device.type != 'cuda' else 'none'}"
    least, last = CAPABILITIES[name]
    major, minor = torch.cuda.get_device_capability(device)
    if not least <= major <= last:
        return f"needs compute capability {least}.0 to {last}.x, found {major}.{minor}"
    if name in MODULES and not _module_exists(MODULES[name]):
        return f"package {MODULES[name]} is not installed"
    no_cudnn = name == "cudnn" and not torch.backends.cudnn.is_available()
    return "this torch has no cuDNN" if no_cudnn else ""


def _module_exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing or broken
        return False
