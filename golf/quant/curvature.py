"""What an error in each matrix costs the model: the loss's curvature, from one backward pass over calibration text.

By Gauss-Newton with the empirical Fisher matrix, an error D of the weights of a matrix with inputs x and outputs y
raises the loss by ``1/2 sum_i g_i (D H D^T)_ii``: H is the mean of x x^T, and g_i that of the squared gradient of the
loss by y_i, output i. Averaged over the outputs, g makes matrices comparable: the layer's own output error is not.

A table that is looked up has its gradient's outer product for H, for one token in V at a time. The tied embedding is
both: a table, and a matrix whose outputs are the logits. The head alone would put the table's errors where it does
not look, and the first layer does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from golf.data.loader import Rows
from golf.model.linear import Embedding, Linear, TiedHead
from golf.model.transformer import Transformer
from golf.quant.calibration import Passes, Peers
from golf.quant.hessian import collect_over, tensor_name


@dataclass(frozen=True)
class Curvature:
    """Of a model: what GPTQ should minimise, and how the matrices compare."""

    hessians: dict[str, Tensor]  # by name, (C, C) fp64: those of the inputs, and those of the tables
    gains: dict[str, float]  # by name: the loss is 1/2 gain times the sum over rows of d H d^T
    tokens: int  # that were read for it, at the last reading


def calibrate(
    model: Transformer,
    text: Tensor | Rows,
    batch: int,
    steps: str,
    peers: Peers | None = None,
    seconds: float = math.inf,
    *,
    progress: bool = True,
) -> Curvature:
    """What the quantiser with these ``steps`` (``quant.steps``) needs to know of the model; see :func:`curvature`.

    Only steps by curvature take the backward pass: the others go by the inputs alone, and there are no gains.

    Args:
        model, text, batch: see there.
        steps: of the quantiser.
        peers: the ranks that share the text; each calls this and gets the whole result.
        seconds: what is not expected to be read within is left unread; where there are two readings, each has half.
        progress: show a bar.
    """
    device = model.embed.weight.device
    passes = Passes(text, batch, device, peers, seconds / 2 if steps == "curvature" else seconds)
    hessians = collect_over(model, passes, progress=progress)
    if steps == "curvature":
        return curvature_over(model, passes, hessians)
    return Curvature(hessians, {}, passes.done)


def curvature(model: Transformer, text: Tensor | Rows, batch: int, hessians: Mapping[str, Tensor]) -> Curvature:
    """The curvature of the loss on calibration text.

    Args:
        model: with its weights; left as it was.
        text: (N, T+1) int64 tokens, or rows whose documents are kept apart.
        batch: rows a pass.
        hessians: of the matrices' inputs, :func:`golf.quant.hessian.collect`.

    Returns:
        for every matrix and table.
    """
    return curvature_over(model, Passes(text, batch, model.embed.weight.device), hessians)


def curvature_over(model: Transformer, passes: Passes, hessians: Mapping[str, Tensor]) -> Curvature:
    """:func:`curvature` over ``passes``, which ranks may share."""
    squares: dict[str, Tensor] = {}  # of the loss's gradient by a matrix's outputs, summed over tokens and outputs
    outer: dict[str, Tensor] = {}  # of the gradient by what a table gives with itself, summed over tokens
    tables = {
        f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, Embedding)
    }
    handles = [
        module.register_forward_hook(partial(_watch, squares, tensor_name(name, module)))
        for name, module in model.named_modules()
        if isinstance(module, (Linear, TiedHead))
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad(), _Lookups(outer, tables):
            for tokens, documents in passes:
                model(tokens[:, :-1], tokens[:, 1:], **documents).sum().backward()
                model.zero_grad(set_to_none=True)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    rows = {name: value.shape[0] for name, value in model.state_dict().items() if value.dim() == 2}
    passes.add_up({f"output {name}": total for name, total in squares.items()} | outer)
    count = passes.done
    combined, gains = dict(hessians), {name: float(total) / count for name, total in squares.items()}
    for key in tables:
        seen = outer[key] / count
        combined[key] = gains[key] * combined[key] + seen if key in gains else seen
        gains[key] = 1.0
    return Curvature(combined, {name: gain / rows[name] for name, gain in gains.items()}, count)


def _watch(squares: dict[str, Tensor], name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
    """A forward hook: add the squares of the gradient by ``output``."""

    def add(gradient: Tensor) -> None:
        total = gradient.double().square().sum()
        squares[name] = squares[name] + total if name in squares else total

    output.register_hook(add)


class _Lookups(TorchFunctionMode):
    """Watches every lookup in a table, wherever in the model it stands, and in what precision."""

    def __init__(self, outer: dict[str, Tensor], tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.outer, self.tables = outer, tables
        self.read = dict(tables)  # as it was last cast for a pass

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``function``; of a lookup, watch the gradient by its result."""
        result = function(*args, **(kwargs or {}))
        for name, table in self.tables.items():
            if function is Tensor.to and args[0] is table:
                self.read[name] = result
            elif function is F.embedding and args[1] is self.read[name]:
                result.register_hook(partial(self._add, name))
        return result

    def _add(self, name: str, gradient: Tensor) -> None:
        flat = gradient.reshape(-1, gradient.shape[-1]).float()
        product = (flat.T @ flat).double()
        self.outer[name] = self.outer[name] + product if name in self.outer else product
