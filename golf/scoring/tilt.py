"""The tilt of a distribution towards one hinted token, and how much of it pays, learnt as the stream goes by.

With q = p(hint) the tilted distribution is

    p'(a) = p(a) e^(beta [a = hint]) / (1 + q (e^beta - 1)),

normalised over the vocabulary by construction (e^beta on one entry, divided by the sum that this leaves). beta is
``offset + slope * (1 + log(q) / 2)`` with an offset and a slope for each kind of hint: a logistic regression of "the
hint is right" on what the model thinks of it, log-odds of p'(hint) = log-odds of q + beta. A model that knows what the
stream repeats keeps both near 0.

Both are learnt block by block, as an online Newton method: the gradient of a block's log score, [target = hint] -
p'(hint), over the curvature of all blocks so far. A block is scored with what the blocks before it taught. Blocks are
counted in positions from the start of the stream, so a stream that ends early has the same ones, and they grow with
it: some 200 for 50 million tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from golf.scoring.hints import KINDS

FIRST_BLOCK = 32  # targets
GROWTH = 16  # a later block holds this part of what stands before it, at least FIRST_BLOCK
PRIOR = 1.0  # curvature before the first block: as much as four targets give
STEP = 1.0  # most that a block moves an offset or a slope
LOG_Q_FLOOR = -16.0  # what a model thinks less likely counts as this
BETA_LIMIT = 16.0  # e^16 = 8.9 million: beyond, 1 + q (e^beta - 1) may round to 0


def blocks(targets: int) -> Iterator[tuple[int, int]]:
    """The blocks [start, stop) of the targets [0, targets), in order; the last one may be cut short."""
    start = 0
    while start < targets:
        stop = start + max(FIRST_BLOCK, start // GROWTH)
        yield start, min(stop, targets)
        start = stop


class Tilt:
    """What has been learnt: an offset and a slope for each kind of hint, (KINDS,) float64, at first 0."""

    def __init__(self) -> None:
        self.offsets, self.slopes = np.zeros(KINDS), np.zeros(KINDS)
        self._curvature = np.array([[PRIOR], [0.0], [PRIOR]]) * np.ones(KINDS)  # of offsets, both, slopes

    def beta_of(self, log_q: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """beta of hints (N,) of which the model thinks ``log_q``."""
        beta = self.offsets[kinds] + self.slopes[kinds] * _feature(log_q)
        return np.clip(beta, -BETA_LIMIT, BETA_LIMIT)

    def learn(self, log_q: np.ndarray, kinds: np.ndarray, right: np.ndarray) -> None:
        """Take a step, from hints (N,) that have been scored and whether each was ``right``."""
        x, beta = _feature(log_q), self.beta_of(log_q, kinds)
        p = np.exp(log_q + beta - log_sum(log_q, beta))
        error, weight = right - p, p * (1.0 - p)
        gradient, along = _sums(kinds, error), _sums(kinds, error * x)
        self._curvature += [_sums(kinds, weight), _sums(kinds, weight * x), _sums(kinds, weight * x * x)]
        a, b, c = self._curvature
        determinant = a * c - b * b  # above 0: the prior is in it
        self.offsets += np.clip((c * gradient - b * along) / determinant, -STEP, STEP)
        self.slopes += np.clip((a * along - b * gradient) / determinant, -STEP, STEP)

    def digest(self) -> str:
        """Digest of all that is learnt."""
        return hashlib.sha256(np.stack((self.offsets, self.slopes, *self._curvature)).tobytes()).hexdigest()[:32]


def log_sum(log_q: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """log(1 + q (e^beta - 1)): what the tilt of a distribution is divided by."""
    return np.log1p(np.exp(log_q) * np.expm1(beta))


def _feature(log_q: np.ndarray) -> np.ndarray:
    """1 + log(q) / 2: about 0 in the middle and 1 where the model is sure."""
    return 1.0 + np.maximum(log_q, LOG_Q_FLOOR) / 2.0


def _sums(kinds: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(kinds, values, KINDS)
