"""For :mod:`golf.codec.artifact`: an artifact that is not decoded again to be compared, as who scores it will."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from golf.codec.container import encode
from golf.codec.report import StreamReport
from golf.params.compress import Compress


def encode_arrays(
    metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray], config: Compress
) -> tuple[bytes, list[StreamReport]]:
    """The artifact of a quantised model's metadata and arrays."""
    return encode(metadata, arrays, config.codecs, config.layouts, None, metadata.get("trellis", 0))
