"""What followed the last time: for each position the token that stood behind the same context earlier in the stream.

The longest of :data:`ORDERS` tokens of context that stood somewhere before decides, at its most recent occurrence.
Everything here is a function of the tokens before a position, so a stream that ends early has the same hints, and a
hint never knows the token that it is for. Context may cross documents: the stream is one text, as the rules have it.

A context is known by a 64-bit hash and not compared again. Among 62 million positions about one pair in 10,000 runs
has the same hash by chance; such a hint is a worse guess, learnt from like any other, and breaks no rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ORDERS = (2, 3, 4, 6, 8, 12, 16, 24)  # tokens of context; each a power of two, or the sum of two
KINDS = 2 * len(ORDERS)  # of hints, by order, and whether the hint before was right

_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: Knuth's multiplicative hashing
_MIX = 0xBF58476D1CE4E5B9  # of splitmix64's finaliser (Steele, Lea, Flood 2014)


class Hints(NamedTuple):
    """One entry a token of the stream, the first of which is no target.

    Attributes:
        ids: (T,) int64: the hint, 0 where there is none.
        kinds: (T,) int64: what kind of hint, 0 to :data:`KINDS` - 1; -1 where there is none.
    """

    ids: np.ndarray
    kinds: np.ndarray


def find(tokens: np.ndarray) -> Hints:
    """The hints of tokens (T,), in O(T log T): a sort for each order, of the positions that the order below left."""
    tokens = np.ascontiguousarray(tokens, dtype=np.int64)
    count = tokens.size
    source = np.zeros(count, dtype=np.int64)  # the position that had the same context
    order = np.full(count, -1, dtype=np.int64)
    powers = {1: _mixed(np.concatenate(([0], tokens[:-1])).astype(np.uint64) + np.uint64(1))}
    candidates = np.arange(count)
    for number, length in enumerate(ORDERS):
        candidates = candidates[candidates >= length]
        keys = _context(powers, length, candidates)
        places = np.argsort(keys, kind="stable")  # equal keys in the stream's order
        keys, candidates = keys[places], candidates[places]
        same = keys[1:] == keys[:-1]
        source[candidates[1:][same]] = candidates[:-1][same]
        order[candidates[1:][same]] = number
        repeated = np.zeros(candidates.size, dtype=bool)  # a longer context can only repeat where this one does
        repeated[1:] |= same
        repeated[:-1] |= same
        candidates = np.sort(candidates[repeated])
    hints = np.where(order >= 0, tokens[source], 0)
    right = np.concatenate(([False], ((order >= 0) & (hints == tokens))[:-1]))
    return Hints(hints, np.where(order >= 0, 2 * order + right, -1))


def _context(powers: dict[int, np.ndarray], length: int, positions: np.ndarray) -> np.ndarray:
    """uint64 hash of the ``length`` tokens before each of ``positions``, from those of powers of two."""
    highest = 1 << (length.bit_length() - 1)
    while max(powers) < highest:
        half = max(powers)
        powers[2 * half] = _joined(np.roll(powers[half], half), powers[half])  # what wraps around is never asked for
        powers.pop(half // 2, None)
    found = powers[highest][positions]
    if length > highest:
        found = _joined(powers[length - highest][positions - highest], found)
    return found


def _joined(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """The hash of two contexts, one behind the other, from theirs."""
    return _mixed(earlier * np.uint64(_MULTIPLIER) + later)


def _mixed(keys: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers under which each bit depends on nearly all others."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(_MIX)
    return keys ^ (keys >> np.uint64(27))
