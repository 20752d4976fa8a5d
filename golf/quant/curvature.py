"""What an error in each matrix costs the model: the loss's curvature, from one backward pass over calibration text.

By Gauss-Newton with the empirical Fisher matrix, an error D of the weights of a matrix with inputs x and outputs y
raises the loss by half the mean of (g D x)^2, with g the gradient of the loss by y. As a product of the two sides
(K-FAC, arXiv 1503.05671) that is ``1/2 tr(G D H D^T)``: G is the mean of g^T g, and H that of x x^T in which a token
counts for the square of its gradient, so that what the loss does not see is no constraint ("GuidedQuant", arXiv
2505.07004). The mean of G's diagonal makes matrices comparable: the layer's own output error is not.

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
from golf.quant.hessian import add, collect_over, gram, tensor_name, watched


@dataclass(frozen=True)
class Curvature:
    """Of a model: what GPTQ should minimise, and how the matrices compare."""

    hessians: dict[str, Tensor]  # by name, (C, C) fp64: those of the inputs, and those of the tables
    gains: dict[str, float]  # by name: the loss is 1/2 gain times the sum over rows of d H d^T
    outputs: dict[str, Tensor]  # by name, (R, R) fp64: G of the matrices that have one; its mean diagonal is the gain
    tokens: int  # that were read for it


def calibrate(
    model: Transformer,
    text: Tensor | Rows,
    steps: str,
    peers: Peers | None = None,
    seconds: float = math.inf,
    *,
    batch: int = 0,
    progress: bool = True,
) -> Curvature:
    """What the quantiser with these ``steps`` (``quant.steps``) needs to know of the model; see :func:`curvature`.

    Only steps by curvature take the backward pass: the others go by the inputs alone.

    Args:
        model, text: see there.
        steps: of the quantiser.
        peers: the ranks that share the text; each calls this and gets the whole result.
        seconds: what is not expected to be read within is left unread.
        batch: rows a pass; 0: as :class:`Passes` chooses.
        progress: show a bar.
    """
    passes = Passes(text, batch, model.embed.weight.device, peers, seconds)
    if steps == "curvature":
        return curvature_over(model, passes, progress=progress)
    return Curvature(collect_over(model, passes, progress=progress), {}, {}, passes.done)


def curvature(model: Transformer, text: Tensor | Rows, batch: int = 0) -> Curvature:
    """The curvature of the loss on calibration text.

    Args:
        model: with its weights; left as it was.
        text: (N, T+1) int64 tokens, or rows whose documents are kept apart.
        batch: rows a pass; 0: as :class:`Passes` chooses.

    Returns:
        for every matrix and table.
    """
    return curvature_over(model, Passes(text, batch, model.embed.weight.device))


def curvature_over(model: Transformer, passes: Passes, *, progress: bool = False) -> Curvature:
    """:func:`curvature` over ``passes``, which ranks may share."""
    sums: dict[str, dict[str, Tensor]] = {"inputs": {}, "outputs": {}, "squares": {}, "tables": {}}
    tables = {
        f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, Embedding)
    }
    handles = [
        module.register_forward_hook(partial(_watch, sums, tensor_name(name, module)))
        for name, module in model.named_modules()
        if isinstance(module, (Linear, TiedHead))
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad(), _Lookups(sums["tables"], tables), watched(passes, progress) as bar:
            for tokens, documents in passes:
                model(tokens[:, :-1], tokens[:, 1:], **documents).sum().backward()
                model.zero_grad(set_to_none=True)
                if bar is not None:
                    bar.advance()
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    passes.add_up({f"{kind} {name}": total for kind, part in sums.items() for name, total in part.items()})
    count = passes.done
    hessians = {name: total / sums["squares"][name].clamp_min(1e-300) for name, total in sums["inputs"].items()}
    gains = {name: float(total) / count / model.get_parameter(name).shape[0] for name, total in sums["squares"].items()}
    for name, total in sums["tables"].items():
        hessians[name] = (sums["inputs"].get(name, 0) + total) / count
        gains[name] = 1 / tables[name].shape[0]
    return Curvature(hessians, gains, {name: total / count for name, total in sums["outputs"].items()}, count)


def _watch(sums: dict[str, dict[str, Tensor]], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    """A forward hook: add up what the gradient by ``output`` says of both sides."""

    def look(gradient: Tensor) -> None:
        x, g = (part.detach().reshape(-1, part.shape[-1]) for part in (inputs[0], gradient))
        norms = torch.linalg.vector_norm(g, dim=1, keepdim=True, dtype=torch.float32)
        add(sums["inputs"], name, gram((x * norms).to(x.dtype)))
        add(sums["squares"], name, norms.square().sum())
        if isinstance(module, Linear):
            add(sums["outputs"], name, gram(g))

    output.register_hook(look)


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
        add(self.outer, name, gram(gradient.reshape(-1, gradient.shape[-1])))
