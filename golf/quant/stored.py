"""A quantised model as files, read without torch: ``compress`` codes its arrays and looks into none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import read_json

DESCRIPTION, WEIGHTS = "model.json", "quantized.safetensors"


def read_arrays(folder: Path | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and arrays as :func:`golf.quant.quantized.to_arrays` gave them.

    Raises:
        MissingInput: a file is missing.
        DataError: a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    description, weights = Path(folder) / DESCRIPTION, Path(folder) / WEIGHTS
    for path in (description, weights):
        if not path.is_file():
            raise MissingInput(f"{path}: no such file", hint="dvc repro quantize")
    try:
        metadata, arrays = read_json(description), load_file(weights)
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:  # the last two: dtypes numpy lacks
        raise DataError(f"{folder}: {' '.join(str(error).split())}", hint="dvc repro --force quantize") from None
    if not isinstance(metadata, dict):
        raise DataError(f"{description}: found {type(metadata).__name__}, needed a mapping")
    return metadata, dict(sorted(arrays.items()))
