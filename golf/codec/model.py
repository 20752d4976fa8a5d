"""A quantised model as an artifact: what the shipped program writes at the end of training and reads to score."""

from __future__ import annotations

from golf.codec.artifact import encode_arrays
from golf.codec.container import decode
from golf.codec.report import StreamReport
from golf.params.compress import Compress
from golf.quant.quantized import QuantizedModel, from_arrays, to_arrays


def encode_model(model: QuantizedModel, config: Compress) -> tuple[bytes, list[StreamReport]]:
    """The artifact of ``model``; see :func:`golf.codec.artifact.encode_arrays`."""
    return encode_arrays(*to_arrays(model), config)


def decode_model(blob: bytes) -> QuantizedModel:
    """The model in an artifact.

    Raises:
        DataError: the artifact is damaged, or holds no model.
    """
    metadata, arrays = decode(blob)
    return from_arrays(metadata, arrays)
