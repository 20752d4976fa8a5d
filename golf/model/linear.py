"""The two modules that hold nearly all weights: ``Linear`` and ``Embedding``, with fake quantisation and adapters.

Weights are fp32 masters; a matrix product runs in the dtype of its input. ``fake_quant`` is a plain attribute that
``forward`` branches on: under ``torch.compile`` it is guarded, so a switch recompiles instead of being ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.quant.grid import fake_quantize

Grid = tuple[int, float]  # bits, clip in standard deviations of a row
Adapters = Mapping[str, Callable[[Tensor], Tensor]]
"""From the name of a ``Linear`` (``blocks.0.attention.query``; ``head`` for the tied output projection) to a function
of its input (B, T, in), whose value (B, T, out) is added to its output. This is how LoRA attaches. In a looped layer
that name is the first pass; the later ones are ``blocks.3.mlp.up@1``, ``blocks.3.mlp.up@2``: see :func:`repeated`."""


def repeated(name: str, repeat: int) -> str:
    """The adapter's name of the matrix ``name`` in a pass of its layer that ``repeat`` passes went before."""
    return f"{name}@{repeat}" if repeat else name


def adapters_of(adapters: Adapters, repeat: int) -> Adapters:
    """The adapters of that repeat, by the plain names of their matrices."""
    ending = f"@{repeat}"
    return {name.removesuffix(ending): adapters[name] for name in adapters if name.endswith(ending)}


class QuantizableWeight(nn.Module):
    """A matrix ``weight`` (rows, columns) in fp32, seen through the quantisation grid when ``fake_quant`` is set."""

    weight: nn.Parameter
    fake_quant: Grid | None

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns))
        self.fake_quant = None

    def seen_weight(self) -> Tensor:
        """(rows, columns): the weight that the forward pass uses."""
        if self.fake_quant is None:
            return self.weight
        bits, clip_sigma = self.fake_quant
        return fake_quantize(self.weight, bits, clip_sigma)


class Linear(QuantizableWeight):
    """x (…, in) -> (…, out), without bias, in the dtype of x."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)
        self.name = ""  # the module's path in the model, set by it: the key of ``adapters``

    def forward(self, x: Tensor, adapters: Adapters | None = None) -> Tensor:
        """Multiply; ``adapters`` may add to the result."""
        return adapted(F.linear(x, self.seen_weight().to(x.dtype)), x, self.name, adapters)


class Embedding(QuantizableWeight):
    """ids (B, T) -> rows (B, T, columns) in fp32."""

    def forward(self, ids: Tensor) -> Tensor:
        """Look up."""
        return F.embedding(ids, self.seen_weight())


class TiedHead(nn.Module):
    """The output projection of a tied embedding: hidden (B, T, D), weight (V, D) -> (B, T, V), in hidden's dtype.

    A module of its own without parameters, so that calibration can hook its input as it hooks a ``Linear``'s.
    """

    name = "head"

    def forward(self, hidden: Tensor, weight: Tensor, adapters: Adapters | None = None) -> Tensor:
        """Multiply; ``adapters`` may add to the result."""
        return adapted(F.linear(hidden, weight.to(hidden.dtype)), hidden, self.name, adapters)


def adapted(output: Tensor, x: Tensor, name: str, adapters: Adapters | None) -> Tensor:
    """``output`` plus what the adapter called ``name`` makes of ``x``, if there is one."""
    if adapters is None or name not in adapters:
        return output
    return output + adapters[name](x).to(output.dtype)


def set_fake_quant(model: nn.Module, matrices: Grid | None, embeddings: Grid | None) -> None:
    """From now on run every ``Linear`` and every ``Embedding`` on its weight rounded to its grid; None: as it is.

    The weights of ``model`` are not changed.
    """
    for module in model.modules():
        if isinstance(module, QuantizableWeight):
            module.fake_quant = embeddings if isinstance(module, Embedding) else matrices
