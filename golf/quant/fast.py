"""Round to nearest on the grid that ships: what ``select`` compares candidates by. No Hessian, milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from golf.model.weights import ModelSpec
from golf.quant.grid import quantize_codes, row_steps
from golf.quant.quantized import QuantizedModel, QuantizedTensor, check_bits, check_finite, store_half
from golf.quant.steps import Scheme
from golf.quant.viterbi import Search

SEARCHED = 1 << 26  # sums that a search may hold at once


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


def round_alone(weight: Tensor, scheme: Scheme, *, name: str = "weight") -> QuantizedTensor:
    """Quantise a table ``weight`` (R, C) that is only looked up: no Hessian, so every weight counts alike.

    Raises:
        ConfigError, DataError: see :func:`round_to_nearest`.
    """
    if not (scheme.by_column or scheme.states):
        return round_to_nearest(weight, scheme.bits, scheme.clip_sigma, name=name)
    check_bits(scheme.bits)
    check_finite(name, weight)
    rows = scheme.rows(weight)
    steps = scheme.steps(rows)
    scaled = weight.detach().float() / steps[:, None]
    if scheme.states:
        search = Search.of(scheme.states, weight.device)
        width = max(1, SEARCHED // (weight.shape[0] * scheme.states**3))
        parts = [search.symbols(part, steps.square()[None], scheme.limit)[0] for part in scaled.T.split(width)]
        codes = torch.cat(parts).T
    else:
        codes = torch.round(scaled).clamp(-scheme.limit, scheme.limit)
    exponents = torch.zeros(weight.shape[1], dtype=torch.int8) if scheme.by_column else None
    codes = codes.to(torch.int8).contiguous().cpu()
    return QuantizedTensor(codes, rows.cpu(), scheme.bits, exponents, scheme.states)


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
