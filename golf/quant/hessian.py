"""Calibration: the mean of x x^T over the inputs x of every matrix, by hooks on the one forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from golf.model.linear import Linear, TiedHead
from golf.model.transformer import Transformer
from golf.runtime.errors import DataError
from golf.runtime.progress import Progress


@torch.no_grad()
def collect(model: Transformer, windows: Tensor, batch: int, *, progress: bool = False) -> dict[str, Tensor]:
    """The Hessian of each matrix on calibration text.

    The tied embedding gets that of its role as output projection. Tables that are only looked up have none.
    Matrices with one input (query, key and value) share one tensor. A matrix used twice counts both uses.

    Args:
        model: with its weights; left as it was.
        windows: (N, T+1) int64 tokens; the last of each window is not read.
        batch: windows a forward pass. The speed, and the order of summation.
        progress: show a bar.

    Returns:
        by tensor name, (C, C) fp64 on the model's device, the mean over all tokens.

    Raises:
        DataError: no windows.
    """
    if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise DataError(f"calibration: found windows {tuple(windows.shape)}, needed (1 or more, 2 or more)")
    device = model.embed.weight.device
    collector = _Collector()
    handles = [
        module.register_forward_pre_hook(collector.hook(tensor_name(name, module)))
        for name, module in model.named_modules()
        if isinstance(module, (Linear, TiedHead))
    ]
    was_training = model.training
    model.eval()
    try:
        with Progress("calibrate", total=windows.shape[0]) if progress else _Silent() as bar:
            for part in windows.split(batch):
                model(part[:, :-1].to(device))
                collector.end_pass()
                bar.advance(part.shape[0])
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return collector.means()


def tensor_name(name: str, module: nn.Module) -> str:
    """The weight that the ``Linear`` or ``TiedHead`` called ``name`` multiplies by."""
    return "embed.weight" if isinstance(module, TiedHead) else f"{name}.weight"


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        pass


class _Collector:
    """Sums x^T x by name, once for consecutive modules that are given the very same tensor."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}
        self.leaders: dict[str, str] = {}  # name -> name under which its input is summed
        self._last: Tensor | None = None
        self._last_name = ""

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

    def means(self) -> dict[str, Tensor]:
        """Sums over token counts, by the name of the weight."""
        means = {name: total / self.tokens[name] for name, total in self.sums.items()}
        return {name: means[leader] for name, leader in self.leaders.items()}

    def _add(self, name: str, x: Tensor) -> None:
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        product = (rows.T @ rows).double()  # one pass in fp32, the passes in fp64: no token is lost to a large sum
        if name in self.sums:
            self.sums[name] += product
        else:
            self.sums[name] = product
        self.tokens[name] = self.tokens.get(name, 0) + rows.shape[0]
