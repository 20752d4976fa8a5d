"""One layer of the transformer in its three forms: serial, parallel in one lane, parallel in two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from golf.model.heads import Attention, Shared
from golf.model.kernels.mix_norm import mix_norm
from golf.model.mlp import MLP
from golf.model.norm import rms_norm
from golf.params.model import Model

LANE_KEEP = 1.1  # initial factor of a lane in its own update, as in the 1.0734 record


class Block(nn.Module):
    """Attention and MLP around the residual stream, all scales per channel.

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
        self.kernels = False

    def forward(self, x: Tensor, first_value: Tensor | None, shared: Shared) -> tuple[Tensor, Tensor]:
        """Residual stream (B, T, D) -> the new stream (B, T, D) and this layer's own values (B, T, G, W)."""
        if self.kernels and self.resid_mix is not None:
            x, normed = mix_norm([x, shared.x0], self.resid_mix, self.norm_scale, kernel=True)
        else:
            x = self.mixed(x, shared)
            normed = rms_norm(x, self.norm_scale)
        y, own_value = self.attention(normed, first_value, shared)
        if self.kernels and not self.one_lane:
            both = torch.stack((torch.ones_like(self.attention_scale), self.attention_scale))
            x, normed = mix_norm([x, y], both, self.norm_scale, kernel=True)
        else:
            x = torch.addcmul(x, self.attention_scale.to(x.dtype), y)
            normed = normed if self.one_lane else rms_norm(x, self.norm_scale)
        y = self.mlp(normed, shared.adapters)
        return torch.addcmul(x, self.mlp_scale.to(x.dtype), y), own_value

    def branches(
        self, x: Tensor, second: Tensor, first_value: Tensor | None, shared: Shared
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the two branches make of two lanes (B, T, D): attention reads the first, the MLP the second.

        Returns:
            the scaled output of attention, that of the MLP, each (B, T, D), and the layer's own values (B, T, G, W).
        """
        x = rms_norm(self.mixed(x, shared), self.norm_scale)
        attended, own_value = self.attention(x, first_value, shared)
        expanded = self.mlp(rms_norm(second, self.norm_scale), shared.adapters)
        dtype = attended.dtype
        return self.attention_scale.to(dtype) * attended, self.mlp_scale.to(dtype) * expanded, own_value

    def mixed(self, x: Tensor, shared: Shared) -> Tensor:
        """(B, T, D): the learnt mix of the stream and the embedding that the layer reads."""
        if self.resid_mix is None:
            return x
        mix = self.resid_mix.to(x.dtype)
        return torch.addcmul(mix[0] * x, mix[1], shared.x0)


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
        self, x: Tensor, second: Tensor, attended: Tensor, expanded: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """The lanes (B, T, D) after ``layer``, whose branches gave ``attended`` and ``expanded`` (B, T, D)."""
        keep, take = self.keep[layer].to(attended.dtype), self.take[layer].to(attended.dtype)
        return (
            keep[0] * x + take[0, 0] * attended + take[1, 0] * expanded,
            keep[1] * second + take[0, 1] * attended + take[1, 1] * expanded,
        )


def _identity_mix(dim: int) -> Tensor:
    """(2, dim): all of the stream, nothing of the embedding. (On the meta device a stack costs a second of imports.)"""
    return torch.tensor([[1.0] * dim, [0.0] * dim])
