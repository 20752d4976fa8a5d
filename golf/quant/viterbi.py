"""The best sequence of a trellis (:mod:`golf.quant.trellis`) for each of many sequences at once: Viterbi, as a tree.

With S = 2^k states exactly one path of k rows leads from every state to every other, so what k rows cost is a matrix
(S, S). What twice as many cost is its product with the next one, sums for products and the minimum for the sum. A
sequence of R rows takes log2(R / k) such steps and as many back down, where R steps, one after the other, would keep a
GPU waiting. The path is the same. (A cut with a state chosen on the spot, by fixing it or by looking a few rows around
it, was tried: paths merge so late that 32 rows a segment lose a fifth of what the trellis gains.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from golf.quant.trellis import trellis


@dataclass(frozen=True)
class Search:
    """The paths of a trellis with S states through k = log2(S) rows, one from every state to every state."""

    states: int
    paths: Tensor  # (k, S * S) int64, by start * S + end: the levels modulo 4 times k, plus i of row i

    @classmethod
    def of(cls, states: int, device: torch.device | str = "cpu") -> Search:
        """Those of :func:`golf.quant.trellis.trellis` on ``device``."""
        offset, successor = trellis(states)
        k = states.bit_length() - 1
        start, choices = np.divmod(np.arange(states * states), states)
        state, paths = start, []
        for row in range(k):
            odd = choices >> row & 1
            paths.append(k * (2 * odd + offset[state]) + row)
            state = successor[state, odd]
        order = np.argsort(start * states + state)
        return cls(states, torch.from_numpy(np.stack(paths)[:, order]).to(device))

    def symbols(
        self, x: Tensor, weights: Tensor, limit: int | Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sequence of least weighted squared error along the last dimension.

        Args:
            x: (B, R) targets in units of the step.
            weights: (B, R) or (1, R), what a squared error there costs.
            limit: the largest magnitude of a symbol, one for all or (B,).
            start: (B,) int64, the states that they begin in; None: 0.

        Returns:
            symbols and levels, each (B, R) in x's dtype; a level stands for half of it, in steps. And the states (B,)
            in which they end, if R is a multiple of k.
        """
        k, rows = len(self.paths), x.shape[1]
        tail = (0, -rows % k)  # rows that cost nothing
        target, weight = (pad(part, tail).T.unflatten(0, (-1, k)).transpose(0, 1) for part in (2 * x, weights))
        subset = torch.arange(4, device=x.device).view(4, 1, 1, 1)
        offset = subset % 2
        most = 2 * (limit - (limit - subset // 2) % 2)  # twice the largest symbol of that parity
        level = (torch.round((target - subset) / 4) * 4 + subset).clamp(offset - most, offset + most)
        costs = (target - level).square() * weight  # (4, k, R / k, B)
        start = x.new_zeros(len(x), dtype=torch.int64) if start is None else start
        ends = self._ends(costs.flatten(0, 1)[self.paths].sum(0), start)
        chosen = self.paths[:, ends[:-1] * self.states + ends[1:]]
        level = level.flatten(0, 1).gather(0, chosen).transpose(0, 1).flatten(0, 1)[:rows].T
        return torch.floor(level / 2), level, ends[-1]

    def _ends(self, costs: Tensor, start: Tensor) -> Tensor:
        """The states (N + 1, B) of the cheapest path from ``start`` (B,): before, between and after N parts of
        ``costs`` (S * S, N, B).
        """
        costs = costs.unflatten(0, (self.states, self.states))
        count, batch = costs.shape[2:]
        tree = []
        while costs.shape[2] > 1:
            costs = pad(costs, (0, 0, 0, costs.shape[2] % 2))
            # the sequences stand last: long runs of one operation
            ahead, behind = costs.unflatten(2, (-1, 2)).permute(3, 0, 1, 2, 4).flatten(3)
            tree.append((ahead, behind))
            costs = (ahead[:, :, None] + behind).amin(1).unflatten(2, (-1, batch))
        first = start[None]
        ends = torch.cat(
            (first, costs[:, :, 0].gather(0, first[:, None].expand(1, self.states, -1))[0].argmin(0)[None])
        )
        for ahead, behind in reversed(tree):
            ends = ends[: ahead.shape[2] // batch + 1]
            start, end = (part.reshape(1, -1).expand(self.states, -1) for part in (ends[:-1], ends[1:]))
            middle = (ahead.gather(0, start[None])[0] + behind.gather(1, end[:, None])[:, 0]).argmin(0)
            ends = torch.cat((torch.stack((ends[:-1], middle.view(-1, batch)), 1).flatten(0, 1), ends[-1:]))
        return ends[: count + 1]
