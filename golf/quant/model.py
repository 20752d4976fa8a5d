"""A whole model through GPTQ: calibrate, quantise tensor by tensor, tell what it cost."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from golf.model.weights import ModelSpec
from golf.params.quant import Quant
from golf.quant.fast import round_to_nearest
from golf.quant.gptq import gptq, output_error
from golf.quant.quantized import QuantizedModel, QuantizedTensor, check_finite, store_half
from golf.runtime.files import whole_file
from golf.runtime.progress import Progress


@dataclass(frozen=True)
class TensorReport:
    """One quantised tensor. The errors are shares of the output's square, None where there is no Hessian."""

    name: str
    rows: int
    columns: int
    bits: int
    method: str  # gptq, or nearest for tables that are only looked up
    output_error: float | None
    nearest_error: float | None  # what rounding to nearest would have cost
    squared_error: float  # summed over the weights
    clipped: int  # codes at the end of the grid
    retries: int  # of the factorisation, with ten times the damping each


def quantize_model(
    state: Mapping[str, Tensor],
    groups: Mapping[str, str],
    hessians: Mapping[str, Tensor],
    config: Quant,
    spec: ModelSpec,
    *,
    warn: Callable[[str], None] | None = None,
) -> tuple[QuantizedModel, list[TensorReport]]:
    """Quantise every matrix and embedding; controls become fp16.

    Args:
        state: the weights by name; left as they are.
        groups: of each name: "matrix", "embed" or "control" (:func:`golf.model.weights.tensor_groups`).
        hessians: by name, (C, C), where there is one; GPTQ runs on their device.
        config: widths, clips and damping.
        spec: of the model.
        warn: called with one line for each retry of a factorisation.

    Raises:
        DataError: NaN or infinite weights or Hessians, named.
        FairwayError: a Hessian that no damping makes positive definite.
    """
    tensors: dict[str, QuantizedTensor | Tensor] = {}
    reports: list[TensorReport] = []
    with Progress("quantize", total=sum(tensor.numel() for tensor in state.values())) as bar:
        for name, tensor in state.items():
            if groups[name] == "control":
                tensors[name] = store_half(name, tensor)
            else:
                tensors[name], report = _quantize(name, tensor, groups[name], hessians.get(name), config, warn)
                reports.append(report)
            bar.advance(tensor.numel(), name)
    return QuantizedModel(spec, tensors), reports


def check_state(state: Mapping[str, Tensor]) -> None:
    """Refuse weights that cannot be quantised, before any calibration.

    Raises:
        DataError: NaN or infinity; the tensor is named.
    """
    for name, tensor in state.items():
        check_finite(name, tensor)


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


@torch.no_grad()
def _quantize(
    name: str,
    weight: Tensor,
    group: str,
    hessian: Tensor | None,
    config: Quant,
    warn: Callable[[str], None] | None,
) -> tuple[QuantizedTensor, TensorReport]:
    embed = group == "embed"
    bits, clip_sigma = (config.embed_bits, config.embed_clip_sigma) if embed else (config.bits, config.clip_sigma)
    nearest = quantized = round_to_nearest(weight, bits, clip_sigma, name=name)
    retries: list[str] = []
    error = nearest_error = None
    if hessian is not None:

        def note(line: str) -> None:
            retries.append(line)
            if warn is not None:
                warn(line)

        weight = weight.to(hessian.device)
        damping, block_size = config.damping, config.block_size
        quantized = gptq(weight, hessian, bits, clip_sigma, damping, block_size, name=name, warn=note)
        error = output_error(weight, hessian, quantized.dequantize())
        nearest_error = output_error(weight, hessian, nearest.dequantize())
    change = quantized.dequantize().double() - weight.cpu().double()
    return quantized, TensorReport(
        name=name,
        rows=weight.shape[0],
        columns=weight.shape[1],
        bits=bits,
        method="nearest" if hessian is None else "gptq",
        output_error=error,
        nearest_error=nearest_error,
        squared_error=float(change.square().sum()),
        clipped=quantized.clipped,
        retries=len(retries),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
