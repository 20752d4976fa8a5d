"""Which matrices of an artifact share the rANS stream, and that stream: what only the encoder needs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from golf.codec.codecs import encode as encode_stream
from golf.codec.lanes import CARRIED, FRAME, STATE, fits, lanes_of
from golf.codec.rans_encoder import Matrix, describe, encode, fit_shapes, measure
from golf.codec.streams import ArraySpec
from golf.quant.trellis import check_states


@dataclass(frozen=True)
class Joint:
    """Groups of matrices in one stream, by their numbers."""

    groups: dict[int, list[Matrix]]
    shapes: list[np.ndarray]
    choice: list[int]  # shape of each matrix, in order
    sizes: dict[int, float]  # bytes that each group's symbols take

    def encode(self, states: int, follows: bytes) -> tuple[bytes, int]:
        """The stream, and how many bytes of what follows its lanes carry.

        Args:
            states: of the trellis; 0: none.
            follows: the streams behind it.
        """
        matrices = [matrix for group in self.groups.values() for matrix in group]
        lanes = max(matrix.entries.shape[1] for matrix in matrices)
        carried = follows[: CARRIED * lanes]
        filled = np.frombuffer(carried.ljust(CARRIED * lanes, b"\0"), "<u4")
        model = describe(states, matrices, self.shapes, self.choice)
        packed = encode_stream("brotli", model)
        coded = encode(matrices, self.shapes, self.choice, filled)
        return FRAME.pack(len(packed), len(model)) + packed + coded, len(carried)


def measure_groups(
    groups: Sequence[Sequence[ArraySpec]], arrays: Mapping[str, np.ndarray], states: int
) -> tuple[dict[int, list[Matrix]], dict[int, float]]:
    """The groups that can share the stream, as the coder sees them, and the seconds that each took.

    Raises:
        DataError: there is no trellis of that many states.
    """
    check_states(states, "artifact metadata")
    found: dict[int, list[Matrix]] = {}
    seconds: dict[int, float] = {}
    for i, group in enumerate(groups):
        if fits(group):
            start = time.thread_time()
            found[i] = [measure(arrays[spec.name], states) for spec in group]
            seconds[i] = time.thread_time() - start
    return found, seconds


def join(groups: dict[int, list[Matrix]]) -> Joint:
    """Fit what ``groups`` share."""
    shapes, choice = fit_shapes([matrix for group in groups.values() for matrix in group])
    numbers = iter(choice)
    sizes = {i: sum(matrix.size(shapes[next(numbers)]) for matrix in group) for i, group in groups.items()}
    return Joint(groups, shapes, choice, sizes)


def choose(alone: Sequence[int], groups: Sequence[Sequence[ArraySpec]], shared: Mapping[int, float]) -> list[int]:
    """Which groups to join: those that get smaller by it, where that pays for the lanes they need.

    Args:
        alone: bytes of each group with the best codec of its own.
        groups: all of them.
        shared: bytes of a group's symbols in the joint stream, by the group's number.
    """
    lanes = {i: lanes_of(groups[i]) for i in shared}
    best, chosen = float(sum(alone)), list[int]()
    for limit in sorted(set(lanes.values())):
        taken = [i for i in shared if lanes[i] <= limit and shared[i] < alone[i]]
        others = sum(alone) - sum(alone[i] for i in taken)
        total = others + sum(shared[i] for i in taken) + STATE * limit - min(CARRIED * limit, others)
        if taken and total < best:
            best, chosen = total, taken
    return chosen
