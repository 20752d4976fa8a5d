"""Calibration: the mean of x x^T over the inputs x of every matrix, by hooks on the one forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from golf.data.loader import Rows
from golf.model.linear import Linear, TiedHead
from golf.model.transformer import Transformer
from golf.quant.calibration import Passes
from golf.runtime.progress import Progress


def collect(model: Transformer, text: Tensor | Rows, batch: int = 0, *, progress: bool = False) -> dict[str, Tensor]:
    """The Hessian of each matrix on calibration text.

    The tied embedding gets that of its role as output projection; what it does as a table of inputs has no such matrix,
    and is added by :mod:`golf.quant.curvature`. Tables that are only looked up have none. Matrices with one input
    (query, key and value) share one tensor. A matrix used twice counts both uses.

    Args:
        model: with its weights; left as it was.
        text: (N, T+1) tokens, the last of each window is not read; or rows whose documents are kept apart.
        batch: rows a forward pass, 0: as :class:`golf.quant.calibration.Passes` chooses. The speed, and the order of
            summation.
        progress: show a bar.

    Returns:
        by tensor name, (C, C) fp64 on the model's device, the mean over all tokens.

    Raises:
        DataError: no windows.
    """
    return collect_over(model, Passes(text, batch, model.embed.weight.device), progress=progress)


@torch.no_grad()
def collect_over(model: Transformer, passes: Passes, *, progress: bool = False) -> dict[str, Tensor]:
    """:func:`collect` over ``passes``, which ranks may share: all get the Hessians of the whole text.

    They differ from one process's by the order of fp64 sums, which is all that the division changes.
    """
    collector = _Collector()
    handles = [
        module.register_forward_pre_hook(collector.hook(tensor_name(name, module)))
        for name, module in model.named_modules()
        if isinstance(module, (Linear, TiedHead))
    ]
    was_training = model.training
    model.eval()
    try:
        with watched(passes, progress) as bar:
            for tokens, documents in passes:
                model(tokens[:, :-1], **documents)
                collector.end_pass()
                if bar is not None:
                    bar.advance()
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return collector.means(passes)


def tensor_name(name: str, module: nn.Module) -> str:
    """The weight that the ``Linear`` or ``TiedHead`` called ``name`` multiplies by."""
    return "embed.weight" if isinstance(module, TiedHead) else f"{name}.weight"


def gram(rows: Tensor) -> Tensor:
    """X^T X of ``rows`` X (N, C), in fp32. On a GPU bf16 is multiplied as it is, and summed in fp32."""
    if rows.dtype == torch.bfloat16 and rows.is_cuda:
        return torch.mm(rows.T, rows, out_dtype=torch.float32)
    rows = rows.float()
    return rows.T @ rows


def add(sums: dict[str, Tensor], name: str, product: Tensor) -> None:
    """Add what a pass found in fp32, in fp64: no token is lost to a large sum."""
    sums[name] = sums[name] + product.double() if name in sums else product.double()


def watched(passes: Passes, progress: bool) -> AbstractContextManager[Progress | None]:
    """A bar over ``passes``, or none."""
    return Progress("calibrate", total=len(passes)) if progress else nullcontext()


class _Collector:
    """Sums x^T x by name, once for consecutive modules that are given the very same tensor."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.uses: dict[str, int] = {}  # of a matrix in a pass
        self.leaders: dict[str, str] = {}  # name -> name under which its input is summed
        self._last: Tensor | None = None
        self._last_name = ""
        self._passes = 0

    def hook(self, name: str) -> Any:
        """A forward pre-hook that records the first argument of the module."""

        def record(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            x = arguments[0]
            if x is not self._last:
                self._last, self._last_name = x, name
                self._add(name, x)
            if self.leaders.setdefault(name, self._last_name) != self._last_name:
                raise RuntimeError(f"{name} shares its input with {self._last_name} in some passes only")
            # Nobody reads the logits, half of a small model's work: let the head make those of one token.
            return (x[:, :1], *arguments[1:]) if isinstance(module, TiedHead) else None

        return record

    def end_pass(self) -> None:
        """Let go of the last input."""
        self._last = None
        self._passes += 1

    def means(self, passes: Passes) -> dict[str, Tensor]:
        """Sums over ranks, over token counts, by the name of the weight."""
        passes.add_up(self.sums)
        means = {name: total / (self.uses[name] // self._passes * passes.done) for name, total in self.sums.items()}
        return {name: means[leader] for name, leader in self.leaders.items()}

    def _add(self, name: str, x: Tensor) -> None:
        add(self.sums, name, gram(x.detach().reshape(-1, x.shape[-1])))
        self.uses[name] = self.uses.get(name, 0) + 1
