"""Landing on the byte budget: one multiplier of all step sizes, then one of a single small tensor.

An octave of all steps is worth up to a bit a weight: bytes fall by N / 8. So the first guess is good, and the secant
through the last two passes better; the rest is made up by a tensor of which an octave is worth little, hence a per
mille of its step a few bytes. The size is always that of the real encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, log2

import torch

from golf.quant.model import Quantizer
from golf.quant.quantized import QuantizedModel, QuantizedTensor
from golf.runtime.errors import DataError

SLACK = 256  # bytes that may be left
PASSES, TRIMS = 8, 12  # at most
LEAST_CLIP = 6.0  # standard deviations: finer steps would cut what they should resolve
FINEST = 2.0**-5  # of steps by column, times the parameters'
COARSEST = 6.0  # octaves above the parameters' steps: nearly all codes are 0; how far the one tensor's may be off
Measure = Callable[[QuantizedModel], int]


@dataclass(frozen=True)
class Fitted:
    """The model that was kept: the largest that fits."""

    model: QuantizedModel
    multiplier: float  # of all step sizes
    trimmed: str  # the tensor with one of its own; empty: none
    passes: int  # quantisations of the whole model
    encodings: int
    bytes: int
    limit: int

    def report(self) -> dict[str, object]:
        """Numbers for the stage's report."""
        return {
            "multiplier": round(self.multiplier, 6),
            "trimmed": self.trimmed,
            "passes": self.passes,
            "encodings": self.encodings,
            "slack_bytes": self.limit - self.bytes,
        }


class _Search:
    """Counts what it does, and keeps the largest model that fits."""

    def __init__(self, quantizer: Quantizer, measure: Measure, limit: int) -> None:
        self.quantizer, self.measure, self.limit = quantizer, measure, limit
        self.passes = self.encodings = 0
        self.best: Fitted | None = None
        self.last: QuantizedModel | None = None

    def size(self, model: QuantizedModel) -> int:
        self.encodings += 1
        return self.measure(model)

    def passed(self, octaves: float) -> int:
        """Bytes of the model whose steps are 2^octaves times the parameters'."""
        self.passes += 1
        self.last = self.quantizer(2.0**octaves)
        return self.offered(self.last, octaves, "")

    def offered(self, model: QuantizedModel, octaves: float, trimmed: str) -> int:
        """Bytes of ``model``, which is kept if it is the largest so far that fits."""
        size = self.size(model)
        if size <= self.limit and (self.best is None or size > self.best.bytes):
            self.best = Fitted(model, 2.0**octaves, trimmed, 0, 0, size, self.limit)
        return size

    @property
    def done(self) -> bool:
        return self.best is not None and self.limit - self.best.bytes < SLACK


@dataclass
class _Bracket:
    """Where the answer lies: above ``low``, which is too many bytes, below ``high``, which fits."""

    low: float = -inf
    high: float = inf

    def narrow(self, octaves: float, fits: bool) -> None:
        if fits:
            self.high = min(self.high, octaves)
        else:
            self.low = max(self.low, octaves)

    def within(self, wanted: float) -> float:
        """``wanted``, or the middle when it lies outside."""
        return wanted if self.low < wanted < self.high else (max(self.low, -8.0) + min(self.high, 8.0)) / 2


def fit(quantizer: Quantizer, measure: Measure, limit: int, say: Callable[[str], None]) -> Fitted:
    """The model with the finest steps whose artifact has at most ``limit`` bytes.

    Args:
        quantizer: of the weights.
        measure: bytes of a model's artifact.
        limit: of the artifact: the budget less the program.
        say: called with a line when the budget cannot be filled.

    Raises:
        DataError: what is not codes does not fit, or the coarsest steps do not.
    """
    search = _Search(quantizer, measure, limit)
    small, worth = _smallest(quantizer)
    finest = log2(max(_finest(quantizer, name) for name in quantizer.weights))
    size = search.passed(0.0)
    if size > limit:
        _check_side(search)
    octave = sum(weight.numel() for weight in quantizer.weights.values()) / 8
    slope, octaves, bracket = -octave, 0.0, _Bracket()
    while (search.passes < PASSES or search.best is None) and not 0 <= limit - size < max(worth / 2, SLACK):
        bracket.narrow(octaves, size <= limit)
        wanted = bracket.within(octaves + (limit - worth / 8 - size) / slope) + (search.passes >= PASSES)
        wanted = min(max(wanted, finest), COARSEST)
        if wanted == octaves:
            break
        before, size = size, search.passed(wanted)
        # steps move in eighths of an octave, each row's at another moment: no secant of two near passes is trusted
        slope = -min(max((before - size) / (wanted - octaves), octave / 3), octave)
        octaves = wanted
    if search.best is None:
        raise DataError(
            f"fit: {size:,} bytes with steps {2**octaves:.3g} times the parameters', needed at most {limit:,}",
            hint="a smaller model.num_layers or model.dim",
        )
    if octaves == finest and not search.done:
        say(f"the finest useful steps make {size:,} bytes of {limit:,}: a larger model would fit")
    else:
        _trim(search, small, worth)
    return replace(search.best, passes=search.passes, encodings=search.encodings)


def _check_side(search: _Search) -> None:
    """Refuse a budget that not even a model without codes would keep."""
    side = search.size(_without_codes(search.last))
    if side >= search.limit:
        raise DataError(
            f"fit: steps, controls and header take {side:,} bytes, the program leaves {max(search.limit, 0):,} of the "
            "budget for the artifact",
            hint="a larger budget.artifact_bytes, or a smaller model.dim or tokenizer.vocab_size",
        )


def _trim(search: _Search, name: str, worth: float) -> None:
    """Fill what is left by the step of the tensor ``name``, of which an octave is worth up to ``worth`` bytes."""
    assert search.best is not None
    base, octaves, size = search.best.model, 0.0, search.best.bytes
    overall = log2(search.best.multiplier)
    bracket = _Bracket()
    for _ in range(TRIMS):
        if search.done:
            return
        bracket.narrow(octaves, size <= search.limit)
        one_sided = inf in (-bracket.low, bracket.high)  # where most codes are 0 an octave is worth less: reach further
        wanted = bracket.within(octaves * (1 + one_sided) + (size + SLACK / 2 - search.limit) / worth)
        wanted = min(max(wanted, -COARSEST), COARSEST)
        one = search.quantizer.some([name], {name: 2.0 ** (overall + wanted)})
        octaves, size = wanted, search.offered(QuantizedModel(base.spec, {**base.tensors, **one}), overall, name)


def _smallest(quantizer: Quantizer) -> tuple[str, float]:
    """A matrix with a Hessian, the last of equals, and the bytes that an octave of its step is worth.

    It is the smallest that can make good what passes are off by, or the largest.
    """
    sizes = {name: quantizer.weights[name].numel() / 8 for name in quantizer.inverses}
    enough = min(4 * SLACK, max(sizes.values()))
    name = min((name for name in reversed(sizes) if sizes[name] >= enough), key=sizes.__getitem__)
    return name, sizes[name]


def _finest(quantizer: Quantizer, name: str) -> float:
    """The least multiplier at which the clip of ``name`` still lies :data:`LEAST_CLIP` deviations out.

    Steps by column are laid out for the largest weight, so nothing is cut: there the codes' eight bits are the end.
    """
    scheme = quantizer.scheme(name)
    return FINEST if scheme.by_column else min(LEAST_CLIP / scheme.clip_sigma, 1.0)


def _without_codes(model: QuantizedModel | None) -> QuantizedModel:
    assert model is not None
    zeroed = {
        name: replace(tensor, codes=torch.zeros_like(tensor.codes)) if isinstance(tensor, QuantizedTensor) else tensor
        for name, tensor in model.tensors.items()
    }
    return QuantizedModel(model.spec, zeroed)
