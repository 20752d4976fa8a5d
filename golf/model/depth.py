"""In which order the layers run, how often, and which outputs the U-Net skips carry where."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from golf.model.kernels.mix_norm import Relay
from golf.model.residual import Mix, Term
from golf.params.model import Model


class Pass(NamedTuple):
    """One run of one layer; passes are numbered from 0 in the order in which they run."""

    layer: int
    repeat: int  # how often the layer ran before
    source: int | None  # the pass whose output is merged into the input of this one
    slot: int  # the row of weights of that merger
    kept: bool  # a later pass merges the output of this one


def plan_passes(config: Model, passes: int) -> tuple[Pass, ...]:
    """The whole forward pass when the layers ``loop_first`` to ``loop_last`` run ``passes`` times, as one group."""
    span = range(config.loop_first, config.loop_last + 1)
    order = [*range(span.start), *[*span] * passes, *range(span.stop, config.num_layers)]
    skips = skip_pairs(config, order)
    sources = {source for source, _ in skips.values()}
    plan = []
    for index, layer in enumerate(order):
        source, slot = skips.get(index, (None, 0))
        plan.append(Pass(layer, order[:index].count(layer), source, slot, index in sources))
    return tuple(plan)


def skip_pairs(config: Model, order: list[int]) -> dict[int, tuple[int, int]]:
    """From the number of each pass that merges a skip to the pass it comes from, and its slot.

    ``position``: the first half of the passes is stacked and unstacked by the second, and slot k is the k-th merger.
    So in the records, where a change of the number of passes binds every slot to other layers.

    ``layer``: the pairs of layers that are joined without loops stay joined, in their slots: from the first pass of
    the one to the last pass of the other. The remaining passes are paired from the outside in and get slots of their
    own. In the records' loop (layers 3 to 5 of 11, three passes) these are the same pairs, bound to other slots.
    """
    if config.unet_skips == "none":
        return {}
    if config.skip_binding == "position":
        half = len(order) // 2
        return {half + k: (half - 1 - k, k) for k in range(half)}
    half = config.num_layers // 2
    first = {layer: index for index, layer in reversed([*enumerate(order)])}
    last = {layer: index for index, layer in enumerate(order)}
    pairs = {last[half + k]: (first[half - 1 - k], k) for k in range(half)}
    bound = {first[layer] if layer < half else last[layer] for layer in range(config.num_layers)}
    extra = [index for index in range(len(order)) if index not in bound]
    return pairs | {extra[-1 - k]: (extra[k], half + k) for k in range(len(extra) // 2)}


class Merger(NamedTuple):
    """The factors of the stream and of the skip in their sum: (D,), or 1."""

    stream: Tensor | float
    skip: Tensor

    def of(self, skip: Tensor | Relay) -> Mix:
        """The sum with ``skip`` (B, T, D)."""
        return Mix(self.stream, Term((skip,), self.skip))


class Skips(nn.Module):
    """U-Net skips: a late pass merges the output of an early one, last in, first out (:func:`skip_pairs`).

    additive: ``x + w_k * skip``; gated: ``g * x + (1 - g) * w_k * skip`` with ``g = sigmoid(gate_k)``, per channel.
    Slots that only a loop uses start without effect when they are bound by layer: ``w_k = 0``, and gated
    ``x + (1 - g) * w_k * skip``.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        plan = plan_passes(config, config.loop_passes)
        self.count = sum(step.source is not None for step in plan)
        self.plain = config.num_layers // 2 if config.skip_binding == "layer" else self.count
        weights = [[1.0] * config.dim] * self.plain + [[0.0] * config.dim] * (self.count - self.plain)
        self.weights = nn.Parameter(torch.tensor(weights))
        gated = config.unet_skips == "gated"
        self.gates = nn.Parameter(torch.zeros(self.count, config.dim)) if gated else None

    def forward(self) -> list[Merger]:
        """What each slot does, all slots at once: one operation on all is as quick as on one."""
        if self.gates is None:
            return [Merger(1.0, weight) for weight in self.weights.unbind()]
        shares = torch.sigmoid(self.gates)
        skips = ((1 - shares) * self.weights).unbind()
        streams: list[Tensor | float] = [*shares.unbind()[: self.plain], *[1.0] * (self.count - self.plain)]
        return [Merger(*pair) for pair in zip(streams, skips, strict=True)]
