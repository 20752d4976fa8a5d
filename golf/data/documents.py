"""What each document of the validation split cost, and what adaptation gained where.

A document's targets are the tokens after its BOS and the BOS that ends it, so that the documents of a stream share out
its targets: their nats and bytes sum to those of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golf.runtime.files import whole_file, write_bytes

SCORES = ("roundtrip", "sliding", "final")
_BLOCK = 1 << 22  # targets binned at a time


def edges(tokens: np.ndarray, bos_id: int) -> np.ndarray:
    """Places (D,) in tokens (T,) where documents begin, the first of them 0; a BOS at the very end begins none."""
    starts = np.flatnonzero(tokens[:-1] == bos_id)
    return np.concatenate((np.zeros(1, np.int64), starts[starts > 0]))


def costs(starts: np.ndarray, counts: np.ndarray, nll: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One entry a document, by column.

    Args:
        starts: from :func:`edges`.
        counts: (T-1,) bytes of each target.
        nll: (T-1,) nats of each target by score, for each of :data:`SCORES`.

    Returns:
        ``document``, ``start``, ``tokens`` (targets), ``bytes``; then ``NAME_nats`` and ``NAME_bpb`` of each score,
        NaN where a document has no bytes.
    """
    columns = {
        "document": np.arange(starts.size),
        "start": starts,
        "tokens": np.diff(starts, append=counts.size),
        "bytes": np.add.reduceat(counts.astype(np.int64), starts),
    }
    for name in SCORES:
        nats = np.add.reduceat(nll[name].astype(np.float64), starts)
        columns[f"{name}_nats"] = nats
        columns[f"{name}_bpb"] = bits_per_byte(nats, columns["bytes"])
    return columns


def bits_per_byte(nats: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Element by element; NaN where there are no bytes."""
    return nats / math.log(2) / np.where(counts > 0, counts, np.nan)


def write_parquet(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns of one length; NaN becomes null."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({name: pyarrow.array(column, from_pandas=True) for name, column in columns.items()})
    with whole_file(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def gains(starts: np.ndarray, counts: np.ndarray, nll: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """What the final score gains over the others, by the length of documents and by the place in them.

    Args:
        starts, counts, nll: as for :func:`costs`.

    Returns:
        one row a bin that has bytes: ``by`` (``length``: all targets of documents so long; ``position``: the targets
        with so many tokens of their document before them), ``tokens`` (where the bin begins: powers of two),
        ``documents`` (that reach into it), ``targets``, ``bytes``, ``NAME_bpb`` of each score, ``gain_bpb`` over the
        round trip and ``sliding_gain_bpb`` over the sliding score.
    """
    lengths = np.diff(starts, append=counts.size)
    sums = {by: np.zeros((64, 2 + len(SCORES))) for by in ("length", "position")}
    for first in range(0, counts.size, _BLOCK):
        part = slice(first, min(first + _BLOCK, counts.size))
        places = np.arange(part.start, part.stop)
        document = np.searchsorted(starts, places, side="right") - 1
        weights = [np.ones(places.size), counts[part], *(nll[name][part] for name in SCORES)]
        for by, of in (("length", lengths[document]), ("position", places - starts[document] + 1)):
            for column, weight in enumerate(weights):
                sums[by][:, column] += np.bincount(exponents(of), weight, minlength=64)
    reach = np.bincount(exponents(lengths), minlength=64)
    documents = {"length": reach, "position": reach[::-1].cumsum()[::-1]}
    return [
        _row(by, exponent, int(documents[by][exponent]), sums[by][exponent])
        for by in sums
        for exponent in range(64)
        if sums[by][exponent, 1] > 0
    ]


def exponents(numbers: np.ndarray) -> np.ndarray:
    """The floor of log2 of each number, 1 or more."""
    return np.frexp(numbers)[1].astype(np.int64) - 1


def _row(by: str, exponent: int, documents: int, sums: np.ndarray) -> dict[str, Any]:
    targets, size = int(sums[0]), int(sums[1])
    bpb = {name: float(value) / math.log(2) / size for name, value in zip(SCORES, sums[2:], strict=True)}
    return {
        "by": by,
        "tokens": 1 << exponent,
        "documents": documents,
        "targets": targets,
        "bytes": size,
        **{f"{name}_bpb": round(value, 6) for name, value in bpb.items()},
        "gain_bpb": round(bpb["roundtrip"] - bpb["final"], 6),
        "sliding_gain_bpb": round(bpb["sliding"] - bpb["final"], 6),
    }


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of one kind, for a DVC plot."""
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    write_bytes(path, ("\n".join(lines) + "\n").encode())
