"""Averages of the weights, kept side by side while training: exponential ones and an equal one of the last stretch.

An exponential average that starts at the random initial weights keeps ``decay^t`` of them: 5 % after 300 steps at
0.99, 41 % at 0.997, which ruins short runs. These start empty and are bias-corrected, as Adam's moments are: after t
updates the average is ``sum_i decay^(t-i) w_i / sum_i decay^(t-i)``, made only of weights that were trained. It is
kept in corrected form, by moving towards each new weight by ``(1 - decay) / (1 - decay^t)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from golf.model.weights import check_shapes, shapes
from golf.runtime.errors import DataError


def multi_ema_(averages: Sequence[list[Tensor]], weights: list[Tensor], shares: Sequence[float]) -> None:
    """Move every average towards the weights, in place: ``average += share * (weight - average)``.

    Args:
        averages: for each decay a list of fp32 tensors, of the shapes of ``weights``.
        weights: fp32.
        shares: of the new weights in each average.
    """
    for average, share in zip(averages, shares, strict=True):
        torch._foreach_lerp_(average, weights, share)


def soup(states: Iterable[tuple[str, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The equal average of weights, summed in fp64, as fp32.

    Meaningful for states of one run, whose basin they share. Runs from other initial weights do not average: their
    hidden units are in another order, and the mean of two good models is a bad one.

    Args:
        states: at least one, by name, of one model; taken one at a time, so that a generator keeps one in memory.

    Raises:
        DataError: there is none, or their names or shapes differ.
    """
    total: dict[str, Tensor] = {}
    mixed: list[str] = []
    for name, state in states:
        if not mixed:
            total = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in state.items()}
        if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in total.items()}:
            raise DataError(f"{name} and {mixed[0]} are not of one model")
        for key, value in state.items():
            total[key] += value
        mixed.append(name)
    if not mixed:
        raise DataError("a soup of no weights, needed those of one model or more")
    return {key: (value / len(mixed)).float() for key, value in total.items()}


class Averages:
    """Exponential averages at several decays, and SWA: the mean of snapshots taken near the end. fp32.

    Args:
        model: whose weights are averaged; read at each ``update``.
        decays: of the exponential averages, each in (0, 1).
        swa_share: last share of the run that SWA averages; 0: none.
        swa_every: updates between two of its snapshots.
    """

    def __init__(
        self, model: nn.Module, decays: Sequence[float], *, swa_share: float = 0.0, swa_every: int = 1
    ) -> None:
        self.swa_share, self.swa_every = swa_share, swa_every
        self._names = list(model.state_dict())
        self._weights = list(model.state_dict().values())  # share memory with the model
        self._ema = {decay: self._zeros() for decay in decays}
        self._swa = self._zeros() if swa_share > 0 else []
        self._updates = 0  # of the exponential averages
        self._late_updates = 0  # of those, within SWA's share
        self._snapshots = 0

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(weight, dtype=torch.float32) for weight in self._weights]

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Take the weights of the model in, after an optimizer step; ``progress`` in [0, 1] counts that step."""
        self._updates += 1
        shares = [(1.0 - decay) / (1.0 - decay**self._updates) for decay in self._ema]
        multi_ema_(list(self._ema.values()), self._weights, shares)
        if self.swa_share > 0 and progress >= 1.0 - self.swa_share:
            if self._late_updates % self.swa_every == 0:
                self._snapshots += 1
                torch._foreach_lerp_(self._swa, self._weights, 1.0 / self._snapshots)
            self._late_updates += 1

    def states(self) -> dict[str, dict[str, Tensor]]:
        """The averages, not copied: ``ema-DECAY`` for each decay and ``swa``; an average of nothing is left out."""
        found = {}
        if self._updates:
            found = {f"ema-{decay!r}": dict(zip(self._names, avg, strict=True)) for decay, avg in self._ema.items()}
        if self._snapshots:
            found["swa"] = dict(zip(self._names, self._swa, strict=True))
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, flat, not copied: ``ema-0.98/NAME``, ``swa/NAME`` and the counts."""
        flat = {f"{label}/{name}": value for label, values in self._all() for name, value in values}
        return flat | {"counts": torch.tensor([self._updates, self._late_updates, self._snapshots])}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state in.

        Raises:
            DataError: it was kept of another model, or with other decays.
        """
        own = self.state_dict()
        check_shapes("averages", shapes(own), state)
        for name, value in own.items():
            value.copy_(state[name])
        self._updates, self._late_updates, self._snapshots = (int(count) for count in state["counts"])

    def _all(self) -> list[tuple[str, list[tuple[str, Tensor]]]]:
        kept = [(f"ema-{decay!r}", average) for decay, average in self._ema.items()]
        kept += [("swa", self._swa)] if self._swa else []
        return [(label, list(zip(self._names, average, strict=True))) for label, average in kept]
