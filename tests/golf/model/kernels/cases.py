"""Inputs for each kernel: small and ragged ones for Triton's interpreter."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.kernels.loss import linear_cross_entropy
from golf.model.kernels.mix_norm import Relay, mix_norm
from golf.model.kernels.mlp import mlp
from golf.model.kernels.projection import project
from golf.model.kernels.rotary import rotary_heads
from golf.model.residual import Mix, Residual, Term, read_lanes
from golf.model.rope import rotation
from tests.golf.model.kernels import exact

NO_NUMBERS = (0x7FFFFFFF, 0x7FC00000, 0x7F800000)  # bits: the NaN of a GPU, of a CPU, infinity


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


def mixed(terms: int, rows: int, width: int, together: int = 1, plain: bool = False) -> Case:
    """plain: the first coefficient is the number 1."""
    count = terms - together + 1 - plain
    ones = [1.0] * plain

    def with_one(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            *own, coefficients, scale = arguments
            return function(own, [*ones, *coefficients], scale, together=together, **options)

        return call

    def draw() -> tuple[Any, ...]:
        return *(torch.randn(rows, width) for _ in range(terms)), torch.randn(count, width) if count else (), 0.7

    name = f"mix_norm{terms}-{rows}x{width}-{together}" + ("-plain" if plain else "")
    return Case(name, with_one(mix_norm), with_one(exact.mix_norm), draw)


def lanes(rows: int, width: int, parting: bool = False, merging: bool = True) -> Case:
    """parting: both lanes are the stream; merging: the first takes a skip in."""

    def call(p: Tensor, x0: Tensor, mixed: Tensor, *others: Tensor, kernel: bool) -> Any:
        first = second = Residual.of(p)
        if not parting:
            q, a, m, numbers, *others = others
            branches = a, m
            first, second = (
                Residual(tuple(Term((value,), number) for value, number in zip((own, *branches), row, strict=True)))
                for own, row in zip((p, q), numbers, strict=True)
            )
        merge = Mix(others[1][0], Term((Relay(others[0]),), others[1][1])) if merging else None
        mix = Mix(mixed[0], Term((Relay(x0),), mixed[1]))
        return read_lanes(first, second, merge, mix, 0.7, kernel)

    def formula(p: Tensor, x0: Tensor, mixed: Tensor, *others: Tensor) -> Any:
        branched = (None,) * 4 if parting else others[:4]
        return exact.read_lanes(p, *branched[:3], x0, branched[3], mixed, *others[0 if parting else 4 :])

    def draw() -> tuple[Any, ...]:
        p, q, a, m, x0, skip = torch.randn(6, rows, width)
        branched = () if parting else (q, a, m, torch.randn(2, 3))
        return p, x0, torch.randn(2, width), *branched, *((skip, torch.randn(2, width)) if merging else ())

    return Case(f"lanes-{rows}x{width}" + "-parting" * parting + "-merging" * merging, call, formula, draw)


def exclusive(shape: tuple[int, int, int, int], groups: int, gated: bool) -> Case:
    def draw() -> tuple[Any, ...]:
        batch, length, heads, width = shape
        y, v = torch.randn(shape), torch.randn(batch, length, groups, width)
        return (y, v, torch.rand(batch, length, heads)) if gated else (y, v)

    name = f"exclude-{'x'.join(map(str, shape))}-{groups}" + ("-gated" if gated else "")
    return Case(name, exclude_and_gate, exact.exclude_and_gate, draw)


def rotary(shape: tuple[int, int], heads: int, groups: int, width: int, rope_dims: int, spread: bool = False) -> Case:
    def call(*arguments: Any, kernel: bool) -> tuple[Tensor, ...]:
        q, k, v, read = rotary_heads(*arguments, kernel=kernel, spread=spread)
        return (q, k, v, read) if spread else (q, k, v)

    def draw() -> tuple[Any, ...]:
        rope = rotation(shape[1], rope_dims, 100.0, torch.device("cpu"), torch.float32)
        return torch.randn(*shape, (heads + 2 * groups) * width), torch.rand(heads) + 0.5, rope, groups

    name = f"rotary-{shape[1]}-{heads}-{groups}-{width}-{rope_dims}" + ("-spread" if spread else "")
    return Case(name, call, partial(exact.rotary_heads, spread=spread), draw)


def projection(shape: tuple[int, int, int], rows: tuple[int, int], gate: tuple[int, int] | None) -> Case:
    def call(x: Tensor, first: Tensor, second: Tensor, gate: Tensor | None = None, *, kernel: bool) -> Any:
        projected, logits = project(x, [first, second], gate, kernel)
        return projected if logits is None else (projected, logits)

    def draw() -> tuple[Any, ...]:
        x, (first, second) = torch.randn(shape), (torch.randn(count, shape[2]) for count in rows)
        return (x, first, second) if gate is None else (x, first, second, torch.randn(gate))

    return Case(f"project-{'x'.join(map(str, shape))}" + ("-gated" if gate else ""), call, exact.project, draw)


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
        *(mixed(terms, 37, 24, together) for terms, together in ((2, 2), (4, 2), (5, 3), (6, 3))),
        *(mixed(terms, 21, 24, together, plain=True) for terms, together in ((2, 1), (2, 2), (3, 3), (4, 2))),
        *(lanes(21, 24, parting, merging) for parting in (False, True) for merging in (False, True)),
        lanes(8, 32),
        exclusive((2, 19, 6, 12), 2, gated=True),
        exclusive((2, 19, 6, 12), 2, gated=False),
        exclusive((1, 16, 4, 16), 4, gated=True),
        projection((2, 19, 24), rows=(16, 8), gate=(3, 5)),
        projection((2, 19, 24), rows=(16, 8), gate=None),
        rotary((2, 19), heads=6, groups=2, width=12, rope_dims=8),
        rotary((1, 16), heads=4, groups=4, width=16, rope_dims=16),
        rotary((2, 5), heads=3, groups=1, width=8, rope_dims=0),
        rotary((2, 19), heads=6, groups=2, width=12, rope_dims=8, spread=True),
    ]


def check_no_number(bits: int, dtype: torch.dtype, device: str) -> None:
    """What is no number in one row is none in all that the MLP makes of that row, and no other row knows."""
    x = torch.ones(2, 8)
    x[0, 3] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    x = x.to(device, dtype).requires_grad_()
    up, down = (torch.ones(8, 8, device=device, requires_grad=True) for _ in range(2))
    out = mlp(x, up, down, 0.5, kernel=True)
    out.sum().backward()
    assert x.grad is not None
    assert up.grad is not None
    for value in (out, x.grad):
        assert not torch.isfinite(value[0]).any(), value
        assert torch.isfinite(value[1]).all(), value
    assert not torch.isfinite(up.grad).any(), up.grad
