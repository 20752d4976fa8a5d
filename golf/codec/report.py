"""How each stream was coded, and what the alternatives would have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from golf.codec.lanes import RANS
from golf.codec.rans_encoder import Matrix
from golf.codec.streams import ArraySpec, entropy_bytes, stream_name

SHARED = "lanes and tables"


@dataclass(frozen=True)
class StreamReport:
    """How a stream was coded, and what the alternatives would have cost.

    Matrices that share the rANS stream have a line for each stream that they would have been, and the line
    :data:`SHARED` holds what the sharing takes: lanes and tables, less what the lanes carry.
    """

    name: str
    arrays: int  # arrays in the stream
    raw_bytes: int
    coded_bytes: int
    codec: str
    layout: str
    entropy_bytes: float  # order-0, summed over the arrays
    conditional_bytes: float  # the same given the context of rans; order-0 where it codes nothing
    tried: dict[str, int]  # "codec/layout" -> bytes
    seconds: dict[str, float]  # the same -> CPU seconds of the encoder

    @property
    def ratio(self) -> float:
        """Coded bytes over order-0 entropy; 0 where there is none."""
        return self.coded_bytes / self.entropy_bytes if self.entropy_bytes else 0.0


@dataclass
class Tried:
    """What was tried for a group of arrays; of the coded bytes only the fewest are kept."""

    codec: str = ""
    layout: str = ""
    coded: bytes = b""
    sizes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, codec: str, layout: str, coded: bytes, seconds: float) -> None:
        """``coded`` is what a codec made of a layout, in CPU ``seconds``."""
        if not self.codec or len(coded) < len(self.coded):
            self.codec, self.layout, self.coded = codec, layout, coded
        key = f"{codec}/{layout}"
        self.sizes[key], self.seconds[key] = len(coded), seconds


def note_shared(tried: Sequence[Tried], sizes: Mapping[int, float], seconds: Mapping[int, float]) -> None:
    """Bytes and CPU seconds, by group, of what was tried in the rANS stream that they share."""
    for i, size in sizes.items():
        tried[i].sizes["rans/row"], tried[i].seconds["rans/row"] = ceil(size), seconds[i]


def reports_of(
    groups: Sequence[Sequence[ArraySpec]],
    arrays: Mapping[str, np.ndarray],
    tried: Sequence[Tried],
    shared: Mapping[int, Sequence[Matrix]],
    shared_bytes: int,
    seconds: float,
) -> list[StreamReport]:
    """A report a group, and one of what sharing takes.

    Args:
        groups: the streams that there would be without sharing.
        arrays: all arrays, by name.
        tried: what was tried for each group.
        shared: matrices of the groups that share a stream, by the group's number.
        shared_bytes: of that stream, less what it carries of the others.
        seconds: CPU seconds that coding it took.
    """
    reports = [
        _report(group, arrays, best, shared.get(i)) for i, (group, best) in enumerate(zip(groups, tried, strict=True))
    ]
    if shared:
        overhead = shared_bytes - sum(reports[i].coded_bytes for i in shared)
        sizes, spent = {"rans/row": overhead}, {"rans/row": seconds}
        reports.append(StreamReport(SHARED, 0, 0, overhead, RANS, "row", 0.0, 0.0, sizes, spent))
    return reports


def _report(
    group: Sequence[ArraySpec], arrays: Mapping[str, np.ndarray], tried: Tried, shared: Sequence[Matrix] | None
) -> StreamReport:
    raw, entropy = sum(spec.bytes for spec in group), sum(entropy_bytes(arrays[spec.name]) for spec in group)
    coded, codec, layout, conditional = len(tried.coded), tried.codec, tried.layout, entropy
    if shared is not None:
        coded, codec, layout = tried.sizes["rans/row"], RANS, "row"
        conditional = sum(matrix.conditional_bytes for matrix in shared)
    return StreamReport(
        stream_name(group), len(group), raw, coded, codec, layout, entropy, conditional, tried.sizes, tried.seconds
    )
