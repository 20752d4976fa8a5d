"""The trellis of trellis-coded quantisation: which levels a state allows, and where a level leads.

Levels n are integers; the weight is n times half the step. They fall into four subsets by n mod 4, and a code says
which sequences of subsets are allowed: in every state two of the four, {0, 2} or {1, 3}, so that a symbol costs as
many bits as on a grid twice as coarse while neighbouring sequences lie as far apart as on the fine one (Marcellin and
Fischer 1990; entropy-coded with union codebooks: Fischer and Wang 1992). The codes are Ungerboeck's for amplitude
modulation (1982), the parity checks of rate 1/2 with the greatest free distance.

A sequence is coded as symbols m: ``n = 2 m + offset[state]`` and then ``state = successor[state, m & 1]``.
It starts in state 0.
"""

from __future__ import annotations

import numpy as np

from golf.runtime.errors import DataError

# States -> (h0, h1), the parity checks in octal as published: sum over i of h0[i] z0[t-i] + h1[i] z1[t-i] is even,
# with z0 the lower and z1 the upper bit of the subset's number.
PARITY_CHECKS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}


def trellis(states: int) -> tuple[np.ndarray, np.ndarray]:
    """The trellis with ``states`` states.

    Returns:
        offset (S,) int64: 0 or 1, what the levels of a state are modulo 2.
        successor (S, 2) int64: the next state for even and odd symbols.

    Raises:
        KeyError: no code with that many states is known; :data:`PARITY_CHECKS` names them.
    """
    h0, h1 = PARITY_CHECKS[states]
    state = np.arange(states)
    offset = state & 1  # the register's last bit is z0: the canonical observer form of the parity check
    lower = offset[:, None]
    # Level 2 m + offset has z1 = m & 1: n mod 4 = 2 (m mod 2) + offset.
    upper = np.array([0, 1])
    return offset, (state >> 1)[:, None] ^ (lower * (h0 >> 1)) ^ (upper * (h1 >> 1))


def check_states(states: object, where: str) -> None:
    """Refuse what is not 0, for none, and no number of states that is known.

    Raises:
        DataError: so it is.
    """
    if type(states) is not int or states not in (0, *PARITY_CHECKS):
        known = ", ".join(map(str, PARITY_CHECKS))
        raise DataError(f"{where}: found a trellis of {states!r} states, needed 0 or one of {known}")


def levels(symbols: np.ndarray, states: int) -> np.ndarray:
    """The levels (R, C), int16, of ``symbols`` (R, C), int8: each column is a sequence that starts in state 0."""
    offset, successor = trellis(states)
    step = np.stack((offset, *successor.T), 1)  # (S, 3): what a state adds, and where even and odd symbols lead
    result = symbols.astype(np.int16) * 2
    state = np.zeros(symbols.shape[1], np.int64)
    for row, odd in enumerate((symbols & 1) + 1):
        result[row] += step[state, 0].astype(np.int16)
        state = step[state, odd]
    return result
