"""Everything that a training step changes, as one flat dict of tensors: what warm-up restores and checkpoints keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from golf.model.transformer import Transformer
from golf.model.weights import check_shapes, shapes
from golf.optim.averaging import Averages
from golf.optim.groups import Optimizer
from golf.runtime.rng import rng_state, set_rng_state


@dataclass
class Place:
    """Where a run stands in its data. By the clock no step number tells it: the batch grows by seconds."""

    tokens: int = 0  # trained on, over all ranks; the next batch begins there
    seq_len: int = 0  # of the last step; 0: there was none
    grown_at: int = -1  # the step with which that length came; -1: the first length


class TrainState:
    """Weights, optimizer, averages, random state and place of a run."""

    def __init__(self, model: Transformer, optimizer: Optimizer, averages: Averages) -> None:
        self.model, self.optimizer, self.averages, self.place = model, optimizer, averages, Place()

    def tensors(self) -> dict[str, Tensor]:
        """``model/NAME``, ``optimizer/NAME``, ``averages/NAME``, ``rng/NAME``, ``run/place``; mostly not copied.

        Each rank keeps a part of the optimizer's: all must call this, and each gets the whole.
        """
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state_dict(),
            "rng": rng_state(),
            "run": {"place": torch.tensor(astuple(self.place))},
        }
        return {f"{part}/{name}": value.detach() for part, values in parts.items() for name, value in values.items()}

    def copy(self) -> dict[str, Tensor]:
        """:meth:`tensors`, copied."""
        return {name: value.clone() for name, value in self.tensors().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy ``tensors`` in; every reference to the weights stays valid. Gradients are forgotten.

        Raises:
            DataError: they are of another configuration.
        """
        own = shapes(self.model.state_dict()) | {"run/place": (3,)}
        found = _part(tensors, "model") | {name: tensors[name] for name in tensors if name == "run/place"}
        check_shapes("checkpoint of another configuration", own, found)
        self.model.load_state_dict(_part(tensors, "model"))
        self.optimizer.load_state_dict(_part(tensors, "optimizer"))
        self.averages.load_state_dict(_part(tensors, "averages"))
        set_rng_state(_part(tensors, "rng"))
        self.place = Place(*tensors["run/place"].tolist())
        self.optimizer.zero_grad()


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    start = f"{part}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
