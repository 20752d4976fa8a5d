"""A whole model through GPTQ: factorise, quantise shape by shape, tell what it cost."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from math import log2
from pathlib import Path

import torch
from torch import Tensor

from golf.model.weights import ModelSpec
from golf.params.quant import Quant
from golf.quant.fast import round_alone, round_to_nearest
from golf.quant.gptq import Inverse, check_shapes, inverse_factor, invert, output_error, quantize_batch
from golf.quant.grid import row_steps
from golf.quant.quantized import QuantizedModel, QuantizedTensor, check_finite, store_half
from golf.quant.steps import Scheme, column_exponents, factors_of
from golf.quant.units import hidden_pairs, unit_order
from golf.runtime.errors import ConfigError, DataError
from golf.runtime.files import whole_file
from golf.runtime.progress import Progress

ROWS_DAMPING = 0.1  # of the mean diagonal; with 0.01 rows that the loss hardly sees move far, for the same loss
MOST_OCTAVES = 3  # that a tensor's steps may be off the mean: beyond it errors are no longer small


@dataclass(frozen=True)
class TensorReport:
    """One quantised tensor. The errors are shares of the output's square, by the Hessian: None without one.

    With steps by curvature a token counts in it for the square of its gradient.
    """

    name: str
    rows: int
    columns: int
    bits: int
    method: str  # gptq, trellis, or nearest for tables that are only looked up
    output_error: float | None
    nearest_error: float | None  # what rounding to nearest would have cost
    squared_error: float  # summed over the weights
    clipped: int  # codes at the end of the grid
    retries: int  # of the factorisation, with ten times the damping each


class Quantizer:
    """A model's weights, ready to be quantised: finite, ordered and factorised once, however often they are rounded.

    Hidden units come out in another order than they went in (:mod:`golf.quant.units`); ``units`` has it by the name of
    each matrix whose columns they are.

    Args:
        state: the weights by name; left as they are.
        groups: of each name: "matrix", "embed" or "control" (:func:`golf.model.weights.tensor_groups`).
        hessians: by name, (C, C), where there is one; GPTQ runs on their device.
        config: widths, clips, steps and damping.
        spec: of the model.
        warn: called with one line for each retry of a factorisation.
        gains: by name, how the tensors compare (:func:`golf.quant.curvature.curvature`); empty: all steps are those
            of the parameters.
        outputs: by name, (R, R), those of the outputs, see there; rows of a matrix without one don't know of each
            other.

    Raises:
        DataError: NaN or infinite weights or Hessians, named.
        FairwayError: a Hessian that no damping makes positive definite.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        groups: Mapping[str, str],
        hessians: Mapping[str, Tensor],
        config: Quant,
        spec: ModelSpec,
        warn: Callable[[str], None] | None = None,
        gains: Mapping[str, float] | None = None,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.spec, self.groups = config, spec, groups
        self.controls = {name: store_half(name, value) for name, value in state.items() if groups[name] == "control"}
        self.weights = {name: value for name, value in state.items() if groups[name] != "control"}
        self.order = list(state)
        check_names(config, list(self.weights))
        self.hessians = {name: hessian for name, hessian in hessians.items() if name in self.weights}
        self.retries: Counter[str] = Counter()
        factorised: dict[int, Inverse] = {}  # matrices with one input share a tensor
        self.inverses: dict[str, Inverse] = {}
        for name, weight in self.weights.items():
            check_finite(name, weight)
            if name in self.hessians:
                self.inverses[name] = self._invert(name, factorised, warn)
        self.outputs = dict(outputs or {})
        self.units = self._arrange()
        for name in self.outputs:
            self.inverses[name] = replace(self.inverses[name], rows=self._invert_outputs(name, warn))
        self.allocation = dict.fromkeys(self.weights, 1.0)
        if gains:
            self.allocation = self._allocate(gains)

    def __call__(self, multiplier: float = 1.0, own: Mapping[str, float] | None = None) -> QuantizedModel:
        """The quantised model, all step sizes times ``multiplier``, those of the tensors in ``own`` once more."""
        factors = {name: multiplier * (own or {}).get(name, 1.0) for name in self.weights}
        tensors: dict[str, QuantizedTensor | Tensor] = dict(self.controls)
        with Progress("quantize", total=sum(weight.numel() for weight in self.weights.values())) as bar:
            for names in self._batches():
                tensors |= self.some(names, factors)
                bar.advance(sum(self.weights[name].numel() for name in names), names[0])
        return QuantizedModel(self.spec, {name: tensors[name] for name in self.order})

    @torch.no_grad()
    def some(self, names: Sequence[str], multipliers: Mapping[str, float]) -> dict[str, QuantizedTensor]:
        """Tensors of one shape that all have a Hessian, or one that has none; step sizes times ``multipliers``."""
        schemes = [self.scheme(name, multipliers[name] * self.allocation[name]) for name in names]
        if names[0] not in self.inverses:
            return {name: round_alone(self.weights[name], schemes[0], name=name) for name in names}
        inverses = [self.inverses[name] for name in names]
        done = quantize_batch([self.weights[name] for name in names], inverses, schemes, self.config.block_size)
        return dict(zip(names, done, strict=True))

    def scheme(self, name: str, multiplier: float = 1.0) -> Scheme:
        """How ``name`` is quantised when its step size is ``multiplier`` times that of the parameters."""
        config, (bits, clip_sigma) = self.config, self._grid(name)
        states = config.trellis_states if config.method == "trellis" else 0
        return Scheme(config.own_bits(name) or bits, clip_sigma * multiplier, config.steps != "row", states)

    def reports(self, model: QuantizedModel) -> list[TensorReport]:
        """What ``model``, made by this, costs in each tensor."""
        return [
            self._report(name, tensor) for name, tensor in model.tensors.items() if isinstance(tensor, QuantizedTensor)
        ]

    def _grid(self, name: str) -> tuple[int, float]:
        """Width and clip of the group of ``name``."""
        config = self.config
        embed = self.groups[name] == "embed"
        return (config.embed_bits, config.embed_clip_sigma) if embed else (config.bits, config.clip_sigma)

    def _invert(self, name: str, factorised: dict[int, Inverse], warn: Callable[[str], None] | None) -> Inverse:
        hessian = self.hessians[name]
        check_shapes(self.weights[name], hessian, name)
        if id(hessian) not in factorised:
            factorised[id(hessian)] = invert(hessian, self.config.damping, name=name, warn=self._noting(name, warn))
        return factorised[id(hessian)]

    def _invert_outputs(self, name: str, warn: Callable[[str], None] | None) -> Tensor:
        """The factor of the inverse of the outputs' Hessian, damped in units of the rows' steps.

        What an output that the loss hardly sees takes of others' errors is bounded by its own row's size then: with
        damping that is the same for all rows, small rows became large and cost bytes for nothing.
        """
        hessian = self.outputs[name]
        check_finite(f"Hessian of the outputs of {name}", hessian)
        steps = row_steps(self.weights[name], *self._grid(name)).to(hessian)
        scale = steps / steps.mean()
        noting = self._noting(name, warn)
        scaled = scale[:, None] * hessian * scale
        return inverse_factor(scaled, ROWS_DAMPING, name=f"outputs of {name}", warn=noting) * scale.float()

    def _noting(self, name: str, warn: Callable[[str], None] | None) -> Callable[[str], None]:
        """``warn``, with retries counted."""

        def note(line: str) -> None:
            self.retries[name] += 1
            if warn is not None:
                warn(line)

        return note

    def _arrange(self) -> dict[str, Tensor]:
        """Put hidden units in the order that codes best; by the name of the matrix that reads them, that order."""
        orders: dict[str, Tensor] = {}
        for up, down in hidden_pairs(self.weights):
            by_column = self.config.steps != "row" and down in self.inverses
            order = orders[down] = unit_order(self.weights[up], self.inverses[down].exponents if by_column else None)
            self.weights[up], self.weights[down] = self.weights[up][order], self.weights[down][:, order]
            if up in self.outputs:
                self.outputs[up] = self.outputs[up][order][:, order]
            if down in self.inverses:
                self.hessians[down] = self.hessians[down][order][:, order]
                self.inverses[down] = self.inverses[down].rearranged(order)
        return orders

    def _allocate(self, gains: Mapping[str, float]) -> dict[str, float]:
        """The factor of each tensor's steps: in proportion to curvature^(-1/2), on average 1.

        With steps D_t for N_t weights the loss is sum s_t D_t^2 N_t / 24 and the bits are sum N_t (h_t - log2 D_t): at
        a given number of bits the least when s_t D_t^2 is the same everywhere. s_t is the tensor's gain times the mean
        of its columns' (factor / U_jj)^2, see :mod:`golf.quant.steps`; the rows keep their proportions. A tensor with a
        width of its own (``bits_of``) gets that much finer or coarser steps than it would have.
        """
        octaves: dict[str, float] = {}
        for name, gain in gains.items():
            inverse, scheme = self.inverses[name], self.scheme(name)
            column = factors_of(column_exponents(inverse.factor.diagonal())) if scheme.by_column else 1.0
            error = float((column / inverse.factor.diagonal()).double().square().mean()) * inverse.scale
            step = row_steps(self.weights[name], *self._grid(name)).double()
            octaves[name] = -0.5 * log2(max(gain * error * float(step.square().mean()), 1e-300))
        weights = {name: self.weights[name].numel() for name in octaves}
        mean = sum(octaves[name] * count for name, count in weights.items()) / sum(weights.values())
        return {
            name: 2.0 ** min(max(octaves.get(name, mean) - mean, -MOST_OCTAVES), MOST_OCTAVES) for name in self.weights
        }

    def _batches(self) -> list[list[str]]:
        batches: dict[object, list[str]] = {}
        for name, weight in self.weights.items():
            shape = (*weight.shape, name in self.outputs)
            batches.setdefault(shape if name in self.inverses else name, []).append(name)
        return list(batches.values())

    @torch.no_grad()
    def _report(self, name: str, quantized: QuantizedTensor) -> TensorReport:
        weight, hessian, error, nearest_error = self.weights[name], self.hessians.get(name), None, None
        restored = quantized.dequantize()
        if hessian is not None:
            scheme = self.scheme(name)
            nearest = round_to_nearest(weight, scheme.bits, scheme.clip_sigma, name=name)
            error = output_error(weight.to(hessian.device), hessian, restored)
            nearest_error = output_error(weight.to(hessian.device), hessian, nearest.dequantize())
        return TensorReport(
            name=name,
            rows=weight.shape[0],
            columns=weight.shape[1],
            bits=quantized.bits,
            method="nearest" if hessian is None else self.config.method,
            output_error=error,
            nearest_error=nearest_error,
            squared_error=float((restored.double() - weight.cpu().double()).square().sum()),
            clipped=quantized.clipped,
            retries=self.retries[name],
        )


def check_state(state: Mapping[str, Tensor]) -> None:
    """Refuse weights that cannot be quantised, before any calibration.

    Raises:
        DataError: NaN or infinity, or no real numbers; the tensor is named.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise DataError(f"{name}: found {tensor.dtype}, needed real numbers", hint="dvc repro -f -s select")
        check_finite(name, tensor)


def check_names(config: Quant, names: Sequence[str]) -> None:
    """Refuse a width for tensors that are not among ``names``, those that are quantised.

    Raises:
        ConfigError: with the key and the names that there are.
    """
    for key in config.bits_of or {}:
        if not any(f".{key}." in f".{name}." for name in names):
            raise ConfigError(
                f"quant.bits_of: found {key!r}, needed a part of the name of a quantised tensor, such as {names[-1]}",
                hint="dvc exp run -S 'quant.bits_of={mlp.down: 5}'",
            )


def summary(reports: Sequence[TensorReport]) -> dict[str, object]:
    """Numbers for the stage's report; the per-tensor errors are averaged with equal weight."""
    measured = [(report.output_error, report.name) for report in reports if report.output_error is not None]
    nearest = [report.nearest_error for report in reports if report.nearest_error is not None]
    weights = sum(report.rows * report.columns for report in reports)
    worst, worst_name = max(measured, default=(0.0, ""))
    return {
        "output_error": _rounded(sum(error for error, _ in measured) / max(len(measured), 1)),
        "nearest_error": _rounded(sum(nearest) / max(len(nearest), 1)),
        "worst_error": _rounded(worst),
        "worst_tensor": worst_name,
        "weight_mse": _rounded(sum(report.squared_error for report in reports) / max(weights, 1)),
        "clipped_share": _rounded(sum(report.clipped for report in reports) / max(weights, 1)),
        "retries": sum(report.retries for report in reports),
    }


def write_table(reports: Sequence[TensorReport], path: Path | str) -> None:
    """One row a tensor, as CSV with the fields of :class:`TensorReport`."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([field.name for field in fields(TensorReport)])
        for report in reports:
            rows.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in astuple(report)])


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
