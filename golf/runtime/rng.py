"""The random state of a process: seeded once, kept in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed torch on the CPU and on every GPU. golf draws nothing from ``random`` or from numpy's global state."""
    torch.manual_seed(seed)


def rng_state() -> dict[str, Tensor]:
    """The generators' states, uint8, by device type: ``cpu``, and ``cuda`` once a GPU is in use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restore what :func:`rng_state` returned; a state of a device that is not in use here is passed over."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())
