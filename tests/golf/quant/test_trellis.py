"""The trellis is Ungerboeck's code: its free distances are the published ones, and every level has one symbol."""

import heapq

import numpy as np
import pytest

from golf.quant.trellis import PARITY_CHECKS, trellis

# Ungerboeck 1982, table I: squared free distances of the codes for amplitude modulation, in squares of the spacing.
PUBLISHED = {4: 9, 8: 10, 16: 11, 32: 13}


def free_distance(offset: np.ndarray, successor: np.ndarray) -> int:
    """The least squared distance between two sequences of levels that part in one state and meet in another."""

    def apart(state: int, other: int, bit: int, other_bit: int) -> int:
        steps = abs(2 * bit + offset[state] - 2 * other_bit - offset[other]) % 4
        return int(min(steps, 4 - steps)) ** 2

    heap = [(apart(s, s, 0, 1), *map(int, successor[s])) for s in range(len(offset))]
    heapq.heapify(heap)
    seen = set()
    while heap:
        total, state, other = heapq.heappop(heap)
        if state == other:
            return total
        if (state, other) not in seen:
            seen.add((state, other))
            for bit in (0, 1):
                for other_bit in (0, 1):
                    step = apart(state, other, bit, other_bit)
                    pair = (int(successor[state, bit]), int(successor[other, other_bit]))
                    heapq.heappush(heap, (total + step, *pair))
    raise AssertionError("the paths never meet")


@pytest.mark.parametrize("states", PARITY_CHECKS)
def test_the_codes_have_the_published_free_distance(states: int) -> None:
    assert free_distance(*trellis(states)) == PUBLISHED[states]


@pytest.mark.parametrize("states", PARITY_CHECKS)
def test_every_state_is_reached_by_two_branches(states: int) -> None:
    offset, successor = trellis(states)
    assert offset.shape == (states,)
    assert set(offset) == {0, 1}
    assert np.bincount(successor.ravel(), minlength=states).tolist() == [2] * states
    assert (successor[:, 0] != successor[:, 1]).all(), "else a symbol's parity says nothing"


def test_a_number_of_states_without_a_code_is_refused() -> None:
    with pytest.raises(KeyError):
        trellis(6)
