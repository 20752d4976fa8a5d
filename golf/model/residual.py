"""The residual stream as a sum that is added up where it is read.

Every update of the stream is linear with a factor per channel: a layer's branch, the mix with the embedding, a U-Net
skip, two lanes. So between two matrix products there is one sum of a few terms and its norm, and one pass over memory
does for all (:mod:`golf.model.kernels.mix_norm`), where one update after the other reads and writes the stream each
time. The terms are activations (B, T, D); a factor is fp32, (D,) or one number, None for 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from golf.model.kernels.lanes import cross
from golf.model.kernels.mix_norm import (
    MOST_COEFFICIENTS,
    MOST_TOGETHER,
    Relay,
    is_one,
    mix,
    mix_norm,
    norm_of_mix,
    read,
)


class Term(NamedTuple):
    """``factor * sum(values)``."""

    values: tuple[Tensor | Relay, ...]
    factor: Tensor | float = 1.0

    def times(self, factor: Tensor | float) -> Term:
        """The term, scaled."""
        if is_one(factor):
            return self
        return Term(self.values, factor if is_one(self.factor) else factor * self.factor)


class Mix(NamedTuple):
    """What a sum becomes: itself times ``stream``, and one more term."""

    stream: Tensor | float
    term: Term


class Residual(NamedTuple):
    """A sum of terms, not yet added."""

    terms: tuple[Term, ...]

    @classmethod
    def of(cls, value: Tensor | Relay) -> Residual:
        """What is one tensor (B, T, D) already."""
        return cls((Term((value,)),))

    def plus(self, term: Term) -> Residual:
        """The sum with one more term; what has no factor becomes one term, whose values share their gradient."""
        first, *others = self.terms
        if is_one(first.factor) and is_one(term.factor):
            return Residual((Term(first.values + term.values), *others))
        return Residual((*self.terms, term))

    def mixed(self, mix: Mix | None) -> Residual:
        """What ``mix`` makes of it; without one the same."""
        return self if mix is None else self.times(mix.stream).plus(mix.term)

    def times(self, factor: Tensor | float) -> Residual:
        """The sum, scaled."""
        return Residual(tuple(term.times(factor) for term in self.terms))

    def added(self, kernels: bool) -> Tensor:
        """(B, T, D)."""
        first, *others = self.terms
        if not others and len(first.values) == 1 and is_one(first.factor):
            return read(first.values[0])
        values, factors, together = self._parts(kernels)
        return mix(values, factors, kernel=kernels, together=together)

    def normed(self, scale: float, kernels: bool) -> Tensor:
        """(B, T, D): the norm of the sum, times ``scale``."""
        values, factors, together = self._parts(kernels)
        return norm_of_mix(values, factors, scale, kernel=kernels, together=together)

    def added_and_normed(self, scale: float, kernels: bool) -> tuple[Tensor, Tensor]:
        """The sum, and its norm times ``scale``, each (B, T, D)."""
        values, factors, together = self._parts(kernels)
        return mix_norm(values, factors, scale, kernel=kernels, together=together)

    def _parts(self, kernels: bool) -> tuple[list[Tensor | Relay], list[Tensor | float], int]:
        """All values, the factors, and how many values share the first: no more than the kernels take."""
        first, *others = self.terms
        others = [Term((value,), term.factor) for term in others for value in term.values]
        if kernels and len(first.values) > MOST_TOGETHER:
            begun = Residual((Term(first.values[:MOST_TOGETHER]),)).added(kernels)
            return Residual((Term((begun, *first.values[MOST_TOGETHER:]), first.factor), *others))._parts(kernels)
        if kernels and len(others) >= MOST_COEFFICIENTS:
            begun = Residual((first, *others[: MOST_COEFFICIENTS - 1])).added(kernels)
            return Residual((Term((begun,)), *others[MOST_COEFFICIENTS - 1 :]))._parts(kernels)
        values = [*first.values, *(term.values[0] for term in others)]
        return values, [first.factor, *(term.factor for term in others)], len(first.values)


def read_lanes(
    first: Residual, second: Residual, merged: Mix | None, mixed: Mix | None, scale: float, kernels: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two lanes as a layer reads them.

    Args:
        first: the lane that attention reads.
        second: the lane that the MLP reads; the same object where the lanes part.
        merged: what the first lane takes in, to keep it.
        mixed: what attention's input takes in besides.
        scale: of both norms.
        kernels: one kernel for what fits it: numbers for factors, branches that both lanes share; not compiled.

    Returns:
        the first lane, with what was merged into it, its norm, mixed, the second lane, its norm: (B, T, D) each.
    """
    found = _crossing(first, second) if kernels and not torch.compiler.is_compiling() else None
    if found is not None and mixed is not None:
        skips = [] if merged is None else [read(value) for value in merged.term.values]
        channels = [factor for mix in (mixed, merged) if mix is not None for factor in (mix.stream, mix.term.factor)]
        return cross(*found, mixed.term.values[0], skips, channels, scale)
    lane = first.mixed(merged).added(kernels)
    normed = Residual.of(lane).mixed(mixed).normed(scale, kernels)
    return lane, normed, *second.added_and_normed(scale, kernels)


def _crossing(first: Residual, second: Residual) -> tuple[list[Tensor], list[Tensor]] | None:
    """Lanes, branches and their numbers as :func:`cross` takes them, if they are of its form."""
    terms = [*first.terms, *second.terms]
    values = [value for term in terms for value in term.values]
    if first is second and len(values) == 2 and is_one(terms[0].factor):
        return [read(values[0])], []
    numbers = [term.factor for term in terms if isinstance(term.factor, Tensor) and term.factor.dim() == 0]
    if not len(values) == len(terms) == len(numbers) == 2 * len(first.terms) == 6:
        return None
    p, a, m, q, *others = values
    if a is not others[0] or m is not others[1]:
        return None
    return [read(value) for value in (p, q, a, m)], numbers
