"""Round to nearest on the grid that ships: what ``select`` compares candidates by. No Hessian, milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from golf.model.weights import ModelSpec
from golf.quant.grid import quantize_codes, row_steps
from golf.quant.quantized import QuantizedModel, QuantizedTensor, check_bits, check_finite, store_half


def round_to_nearest(weight: Tensor, bits: int, clip_sigma: float, *, name: str = "weight") -> QuantizedTensor:
    """Quantise ``weight`` (R, C), each value by itself, on the grid of :mod:`golf.quant.grid`.

    Raises:
        ConfigError: ``bits`` is not 2 to 8.
        DataError: a value is NaN or infinite.
    """
    check_bits(bits)
    check_finite(name, weight)
    steps = row_steps(weight, bits, clip_sigma)
    codes = quantize_codes(weight, steps, bits).to(torch.int8)
    return QuantizedTensor(codes.contiguous().cpu(), steps.half().cpu(), bits)


def quantize_fast(
    state: Mapping[str, Tensor],
    groups: Mapping[str, str],
    bits: int,
    clip_sigma: float,
    embed_bits: int,
    embed_clip_sigma: float,
    *,
    spec: ModelSpec,
) -> QuantizedModel:
    """Round every matrix to ``bits`` and every embedding to ``embed_bits``; controls become fp16.

    Args:
        state: the weights by name.
        groups: of each name: "matrix", "embed" or "control" (:func:`golf.model.weights.tensor_groups`).
        bits: width of the matrices, 2 to 8.
        clip_sigma: their clip, in standard deviations of a row.
        embed_bits: width of the embeddings, 2 to 8.
        embed_clip_sigma: their clip.
        spec: of the model.
    """
    widths = {"matrix": (bits, clip_sigma), "embed": (embed_bits, embed_clip_sigma)}
    tensors: dict[str, QuantizedTensor | Tensor] = {}
    for name, tensor in state.items():
        group = groups[name]
        tensors[name] = (
            store_half(name, tensor) if group == "control" else round_to_nearest(tensor, *widths[group], name=name)
        )
    return QuantizedModel(spec, tensors)
