"""Inputs for each kernel: small and ragged ones for Triton's interpreter."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.kernels.loss import linear_cross_entropy
from golf.model.kernels.mix_norm import mix_norm
from golf.model.kernels.mlp import mlp
from tests.golf.model.kernels import exact


@dataclass(frozen=True)
class Case:
    """One function with its formula; ``inputs()`` draws the same each time."""

    name: str
    call: Callable[..., Any]  # the inputs, then kernel=
    formula: Callable[..., Any]
    draw: Callable[[], tuple[Any, ...]]
    uniform: bool = False

    def function(self, kernel: bool) -> Callable[..., Any]:
        return partial(self.call, kernel=kernel)

    def inputs(self) -> tuple[Any, ...]:
        torch.manual_seed(0)
        return self.draw()


def loss(rows: int, width: int, vocabulary: int, spread: float = 3.0) -> Case:
    def draw() -> tuple[Any, ...]:
        x, weight = torch.randn(rows, width) * spread, torch.randn(vocabulary, width)
        return x, weight, torch.randint(0, vocabulary, (rows,)), 30.0

    return Case(f"loss-{rows}x{width}x{vocabulary}", linear_cross_entropy, exact.linear_cross_entropy, draw, True)


def feed_forward(rows: int, width: int, hidden: int, slope: float = 0.5) -> Case:
    def draw() -> tuple[Any, ...]:
        return torch.randn(rows, width), torch.randn(hidden, width), torch.randn(width, hidden), slope

    return Case(f"mlp-{rows}x{width}x{hidden}", mlp, exact.mlp, draw)


def mixed(terms: int, rows: int, width: int) -> Case:
    def call(*arguments: Any, kernel: bool) -> tuple[Tensor, Tensor]:
        return mix_norm(arguments[:terms], *arguments[terms:], kernel=kernel)

    def draw() -> tuple[Any, ...]:
        return *(torch.randn(rows, width) for _ in range(terms)), torch.randn(terms, width), 0.7

    return Case(f"mix_norm{terms}-{rows}x{width}", call, exact.mix_norm, draw)


def exclusive(shape: tuple[int, int, int, int], groups: int, gated: bool) -> Case:
    def draw() -> tuple[Any, ...]:
        batch, length, heads, width = shape
        y, v = torch.randn(shape), torch.randn(batch, length, groups, width)
        return (y, v, torch.rand(batch, length, heads)) if gated else (y, v)

    name = f"exclude-{'x'.join(map(str, shape))}-{groups}" + ("-gated" if gated else "")
    return Case(name, exclude_and_gate, exact.exclude_and_gate, draw)


def small() -> list[Case]:
    """Sizes that fill no block, and those that fill several."""
    return [
        loss(37, 24, 50),
        loss(5, 8, 64, spread=40.0),  # logits far beyond the cap
        feed_forward(150, 40, 264),
        feed_forward(128, 64, 256, slope=0.0),
        feed_forward(300, 72, 520),
        *(mixed(terms, 37, 24) for terms in (1, 2, 3, 4)),
        mixed(2, 8, 32),
        exclusive((2, 19, 6, 12), 2, gated=True),
        exclusive((2, 19, 6, 12), 2, gated=False),
        exclusive((1, 16, 4, 16), 4, gated=True),
    ]
