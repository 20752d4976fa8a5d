"""Code and model against the cap, with advice that would help when they are over it."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any

from golf.runtime.errors import DataError


def check_budget(
    code_bytes: int, model_bytes: int, limit: int, seed: int, metadata: Mapping[str, Any]
) -> dict[str, int]:
    """What code and model leave of the cap.

    Args:
        code_bytes: of the shipped program.
        model_bytes: of the artifact.
        limit: the cap, in bytes.
        seed: of the artifact.
        metadata: of the artifact; its width and shape make the advice.

    Raises:
        DataError: together they are over the cap.
    """
    total = code_bytes + model_bytes
    if total > limit:
        raise DataError(
            f"size gate: {total:,} bytes > {limit:,} (seed {seed}: model {model_bytes:,} + code {code_bytes:,})",
            hint=_advice(model_bytes, limit - code_bytes, metadata),
        )
    return {
        "seed": seed,
        "model_bytes": model_bytes,
        "code_bytes": code_bytes,
        "total_bytes": total,
        "slack_bytes": limit - total,
        "limit": limit,
    }


def _advice(model_bytes: int, room: int, metadata: Mapping[str, Any]) -> str:
    """The widest quantisation that should fit, else fewer layers."""
    if room <= 0:
        return "a larger budget.artifact_bytes: the code alone is over it"
    bits, shape = metadata.get("bits"), metadata.get("model")
    if type(bits) is int:
        for narrower in range(bits - 1, 2, -1):
            if model_bytes * _code_entropy(narrower) / _code_entropy(bits) <= room:
                return f"dvc exp run -S quant.bits={narrower}"
    layers = shape.get("num_layers") if isinstance(shape, dict) else None
    if type(layers) is int and (fewer := layers * room // model_bytes) >= 1:
        return f"dvc exp run -S model.num_layers={fewer}"
    return "a smaller model.dim or tokenizer.vocab_size"


def _code_entropy(bits: int, clip_sigma: float = 12.85) -> float:
    """Bits a weight: a Gaussian of deviation s on a grid of step d has an entropy of 2.0471 + log2(s / d)."""
    return max(0.5, 2.0471 + log2((2 ** (bits - 1) - 1) / clip_sigma))
