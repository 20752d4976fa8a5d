"""What ``compress`` writes: checked as it is made, and reported on. It knows arrays, no model and no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from golf.codec.container import decode, encode
from golf.codec.report import StreamReport
from golf.params.compress import Compress
from golf.runtime.errors import FairwayError


def encode_arrays(
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    config: Compress,
    on_stream: Callable[[int], None] | None = None,
) -> tuple[bytes, list[StreamReport]]:
    """The artifact of a quantised model's metadata and arrays, decoded again and compared before it is handed out.

    Raises:
        FairwayError: what comes back is not what went in.
    """
    blob, reports = encode(metadata, arrays, config.codecs, config.layouts, on_stream, metadata.get("trellis", 0))
    found_metadata, found = decode(blob)
    different = [name for name, array in arrays.items() if name not in found or not _same(array, found[name])]
    if different or found_metadata != metadata or len(found) != len(arrays):
        raise FairwayError(f"artifact: decoding does not give back {different[:1] or 'its metadata'}; nothing was kept")
    return blob, reports


def summary(blob: bytes, reports: list[StreamReport]) -> dict[str, Any]:
    """The artifact in a dozen numbers: bytes, order-0 entropy, and how many streams each codec won."""
    coded = sum(report.coded_bytes for report in reports)
    entropy = sum(report.entropy_bytes for report in reports)
    winners = {
        name: sum(report.codec == name for report in reports) for name in ("rans", "brotli", "lzma", "zstd", "stored")
    }
    return {
        "artifact_bytes": len(blob),
        "header_bytes": len(blob) - coded,
        "raw_bytes": sum(report.raw_bytes for report in reports),
        "entropy_bytes": round(entropy),
        "ratio": round(len(blob) / entropy, 5) if entropy else 0.0,
        "streams": len(reports),
        **{f"won_by_{name}": count for name, count in winners.items()},
    }


def table(reports: list[StreamReport]) -> str:
    """CSV: one line a stream, the alternatives in the last columns."""
    tries = list(dict.fromkeys(key for report in reports for key in report.tried))
    fixed_columns = ["stream", "arrays", "raw", "coded", "codec", "layout", "entropy", "conditional", "ratio"]
    lines = [",".join([*fixed_columns, *tries])]
    for report in reports:
        fixed = [report.name, report.arrays, report.raw_bytes, report.coded_bytes, report.codec, report.layout]
        rates = [f"{report.entropy_bytes:.1f}", f"{report.conditional_bytes:.1f}", f"{report.ratio:.5f}"]
        lines.append(",".join(map(str, [*fixed, *rates, *(report.tried.get(key, "") for key in tries)])))
    return "\n".join(lines) + "\n"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
