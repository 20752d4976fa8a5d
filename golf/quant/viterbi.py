"""The best sequence of a trellis (:mod:`golf.quant.trellis`) for each of many sequences at once: Viterbi, in segments.

A sequence of R rows is cut into about sqrt(R) segments that are searched side by side, each from every state to every
state; then the segments are joined, by the same rule on their ends. That is S times the additions of one search from
end to end with S states, but 2 sqrt(R) steps one after the other instead of R, and the same path: whoever decodes it
knows nothing of segments. (A cut with a state chosen on the spot, by fixing it or by looking a few rows around it, was
tried: paths merge so late that 32 rows a segment lose a fifth of what the trellis gains.)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import pad

from golf.quant.trellis import trellis

NEVER = 1e30  # the cost of a path from where none comes


@dataclass(frozen=True)
class Search:
    """The tables of a trellis with S states, by branch: two lead to every state, numbered ``which * S + state``."""

    states: int
    origin: Tensor  # (2 S,) int64: the state a branch comes from
    subset: Tensor  # (2 S,) int64: its levels modulo 4

    @classmethod
    def of(cls, states: int, device: torch.device | str = "cpu") -> Search:
        """The tables of :func:`golf.quant.trellis.trellis` on ``device``."""
        offset, successor = trellis(states)
        arriving: list[list[tuple[int, int]]] = [[] for _ in range(states)]
        for state in range(states):
            for odd in (0, 1):
                arriving[successor[state, odd]].append((state, 2 * odd + int(offset[state])))
        branches = [arriving[state][which] for which in (0, 1) for state in range(states)]
        origin, subset = torch.tensor(branches, device=device).T.contiguous()
        return cls(states, origin, subset)

    def symbols(self, x: Tensor, weights: Tensor, limit: int | Tensor) -> tuple[Tensor, Tensor]:
        """The sequence of least weighted squared error along the last dimension, from state 0.

        Args:
            x: (B, R) targets in units of the step.
            weights: (B, R) or (1, R), what a squared error there costs.
            limit: the largest magnitude of a symbol, one for all or (B,).

        Returns:
            symbols and levels, each (B, R) in x's dtype; a level stands for half of it, in steps.
        """
        batch, rows = x.shape
        length = isqrt(rows - 1) + 1
        segments = -(-rows // length)
        tail = (0, segments * length - rows)  # rows that cost nothing
        target, weight = (part.T[:, None] for part in (pad(2 * x, tail), pad(weights, tail)))
        subsets = torch.arange(4, device=x.device, dtype=x.dtype)[:, None]
        offset, odd = subsets % 2, torch.floor(subsets / 2)
        most = limit - (limit - odd) % 2  # the largest symbol of that parity
        symbol = (torch.round(((target - offset) / 2 - odd) / 2) * 2 + odd).clamp(-most, most)  # (R, 4, B)
        level = 2 * symbol + offset
        costs = ((target - level).square() * weight)[:, self.subset].view(segments, length, -1, batch)
        chosen = self._subsets(costs.permute(1, 2, 0, 3).flatten(2), segments)
        chosen = chosen.view(length, segments, batch).transpose(0, 1).reshape(-1, 1, batch)
        symbol, level = (part.gather(1, chosen)[:rows, 0].T for part in (symbol, level))
        return symbol, level

    def _subsets(self, costs: Tensor, segments: int) -> Tensor:
        """The cheapest path's subsets (T, L) by the branches' ``costs`` (T, 2 S, L); L = segments * sequences."""
        cost, second = self._forward(costs)
        start, end = self._join(cost.view(self.states, self.states, segments, -1))
        index = start.view(1, 1, 1, -1).expand(*second.shape[:2], 1, -1)
        branches = (
            torch.arange(self.states, device=costs.device)[:, None] + self.states * second.gather(2, index)[:, :, 0]
        )
        origins, state = self.origin[branches], end.view(1, -1)
        states = []
        for origin in origins.flip(0):
            states.append(state)
            state = origin.gather(0, state)
        return self.subset[branches.gather(1, torch.stack(states[::-1]))[:, 0]]

    def _forward(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """(S, S, L): of the cheapest path to each state from each; (T, S, S, L): whether by the second branch."""
        shape = (self.states, self.states, costs.shape[2])
        cost = torch.full(shape, NEVER, device=costs.device)
        cost.diagonal().zero_()
        arrivals = torch.empty((2 * self.states, *shape[1:]), device=costs.device)
        one, other = arrivals[: self.states], arrivals[self.states :]
        second = torch.empty((costs.shape[0], *shape), dtype=torch.bool, device=costs.device)
        for now, better in zip(costs, second, strict=True):
            torch.index_select(cost, 0, self.origin, out=arrivals)
            arrivals += now[:, None]
            torch.lt(other, one, out=better)
            torch.minimum(one, other, out=cost)
        return cost, second

    def _join(self, cost: Tensor) -> tuple[Tensor, Tensor]:
        """The states (N, B) where each segment starts and ends, from state 0 on, by ``cost`` (S, S, N, B)."""
        total = cost[:, 0, 0]
        entries = []
        for part in cost.unbind(2)[1:]:
            total, entry = (total + part).min(1)
            entries.append(entry)
        ends = [total.argmin(0, keepdim=True)]
        for entry in reversed(entries):
            ends.append(entry.gather(0, ends[-1]))
        end = torch.cat(ends[::-1])
        return pad(end[:-1], (0, 0, 1, 0)), end
