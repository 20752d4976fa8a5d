"""One layer of the transformer in its three forms: serial, parallel in one lane, parallel in two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from golf.model.heads import Attention, Shared
from golf.model.mlp import MLP
from golf.model.residual import Mix, Residual, Term, read_lanes
from golf.params.model import Model

LANE_KEEP = 1.1  # initial factor of a lane in its own update, as in the 1.0734 record


class Block(nn.Module):
    """Attention and MLP around the residual stream, all scales per channel.

    With the kernels the branches' scales are multiplied into their last matrices, much smaller than what these make:
    a branch is then added as it is, and the backward pass has one gradient for it and for the stream.

    With ``u = m0 * x + m1 * x0``::

        serial    u += a * attention(norm(u)); u += b * mlp(norm(u))
        one lane  u + a * attention(norm(u)) + b * mlp(norm(u))
    """

    def __init__(self, config: Model, layer: int, backend: str) -> None:
        super().__init__()
        self.attention = Attention(config, layer, backend)
        self.mlp = MLP(config)
        self.attention_scale = nn.Parameter(torch.ones(config.dim))
        self.mlp_scale = nn.Parameter(torch.ones(config.dim))
        self.resid_mix = nn.Parameter(_identity_mix(config.dim)) if config.resid_mix else None
        self.norm_scale = 1.0 / math.sqrt(layer + 1) if config.ln_scale else 1.0
        self.one_lane = config.parallel == "one_lane" and layer >= config.parallel_from

    def forward(self, x: Residual, first_value: Tensor | None, shared: Shared) -> tuple[Residual, Tensor]:
        """Residual stream (B, T, D) -> the new stream (B, T, D) and this layer's own values (B, T, G, W)."""
        u, normed = x.mixed(self.mix(shared)).added_and_normed(self.norm_scale, shared.kernels)
        attended, own_value = self.attended(normed, first_value, shared)
        x = Residual.of(u).plus(attended)
        if not self.one_lane:
            u, normed = x.added_and_normed(self.norm_scale, shared.kernels)
            x = Residual.of(u)
        return x.plus(self.expanded(normed, shared)), own_value

    def branches(
        self, first: Residual, second: Residual, merged: Mix | None, first_value: Tensor | None, shared: Shared
    ) -> tuple[Tensor, Tensor, Term, Term, Tensor]:
        """What the two branches make of two lanes (B, T, D): attention reads the first, the MLP the second.

        Returns:
            the lanes added up, ``merged`` into the first, what attention adds, what the MLP adds, each (B, T, D), and
            the layer's own values (B, T, G, W).
        """
        lanes = read_lanes(first, second, merged, self.mix(shared), self.norm_scale, shared.kernels)
        lane, normed, other, other_normed = lanes
        attended, own_value = self.attended(normed, first_value, shared)
        return lane, other, attended, self.expanded(other_normed, shared), own_value

    def attended(self, normed: Tensor, first_value: Tensor | None, shared: Shared) -> tuple[Term, Tensor]:
        """What attention makes of its input (B, T, D), and the layer's own values (B, T, G, W)."""
        if shared.kernels:
            y, own_value = self.attention(normed, first_value, shared, self.attention_scale)
            return Term((y,)), own_value
        y, own_value = self.attention(normed, first_value, shared)
        return Term((y,), self.attention_scale), own_value

    def expanded(self, normed: Tensor, shared: Shared) -> Term:
        """What the MLP makes of its input (B, T, D)."""
        if shared.kernels:
            return Term((self.mlp(normed, None, self.mlp_scale),))
        return Term((self.mlp(normed, shared.adapters),), self.mlp_scale)

    def mix(self, shared: Shared) -> Mix | None:
        """The learnt mix of the stream and the embedding that the layer reads."""
        if self.resid_mix is None:
            return None
        stream, embedding = self.resid_mix.unbind()
        return Mix(stream, Term((shared.x0,), embedding))


class Lanes(nn.Module):
    """Two residual lanes: each keeps a share of itself and takes a share of either branch, all learnt per layer.

    ``lane_j = keep[j] * lane_j + take[0, j] * attention + take[1, j] * mlp``. One row for each layer, as in the 1.0734
    record, those below ``parallel_from`` unused: its parameter count has them, and one tensor is cheaper than many.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.keep = nn.Parameter(torch.full((config.num_layers, 2), LANE_KEEP))
        self.take = nn.Parameter(torch.ones(config.num_layers, 2, 2))

    def forward(
        self, x: Tensor, second: Tensor, attended: Term, expanded: Term, layer: int
    ) -> tuple[Residual, Residual]:
        """The lanes after ``layer``, of (B, T, D), whose branches added ``attended`` and ``expanded``."""
        keep, take = self.keep[layer], self.take[layer]

        def lane(own: Tensor, j: int) -> Residual:
            return Residual((Term((own,), keep[j]), attended.times(take[0, j]), expanded.times(take[1, j])))

        return lane(x, 0), lane(second, 1)


def joined(x: Residual, second: Residual) -> Residual:
    """The mean of two lanes, as :meth:`Lanes.forward` gives them: the branches are in both."""
    shared = [Term(a.values, 0.5 * (a.factor + b.factor)) for a, b in zip(x.terms[1:], second.terms[1:], strict=True)]
    return Residual((x.terms[0].times(0.5), second.terms[0].times(0.5), *shared))


def _identity_mix(dim: int) -> Tensor:
    """(2, dim): all of the stream, nothing of the embedding. (On the meta device a stack costs a second of imports.)"""
    return torch.tensor([[1.0] * dim, [0.0] * dim])
