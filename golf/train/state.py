"""Everything that a training step changes, as one flat dict of tensors: what warm-up restores and checkpoints keep."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from golf.model.transformer import Transformer
from golf.optim.averaging import Averages
from golf.optim.groups import Optimizer
from golf.runtime.rng import rng_state, set_rng_state


class TrainState:
    """Weights, optimizer, averages and random state of a run."""

    def __init__(self, model: Transformer, optimizer: Optimizer, averages: Averages) -> None:
        self.model, self.optimizer, self.averages = model, optimizer, averages

    def tensors(self) -> dict[str, Tensor]:
        """``model/NAME``, ``optimizer/NAME``, ``averages/NAME``, ``rng/NAME``; not copied where it can be helped."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state_dict(),
            "rng": rng_state(),
        }
        return {f"{part}/{name}": value.detach() for part, values in parts.items() for name, value in values.items()}

    def copy(self) -> dict[str, Tensor]:
        """:meth:`tensors`, copied."""
        return {name: value.clone() for name, value in self.tensors().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy ``tensors`` in; every reference to the weights stays valid. Gradients are forgotten.

        Raises:
            DataError: they are of another model or optimizer.
            RuntimeError: the weights are.
        """
        self.model.load_state_dict(_part(tensors, "model"))
        self.optimizer.load_state_dict(_part(tensors, "optimizer"))
        self.averages.load_state_dict(_part(tensors, "averages"))
        set_rng_state(_part(tensors, "rng"))
        self.optimizer.zero_grad()


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    start = f"{part}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
