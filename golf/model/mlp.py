"""The feed-forward layer and its squared activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golf.model.kernels.mlp import activate, mlp
from golf.model.linear import Adapters, Linear
from golf.params.model import Model

# StarReLU (Yu et al., MetaFormer Baselines for Vision, 2022): zero mean and unit variance for a normal input.
STAR_SCALE, STAR_BIAS = 0.8944, -0.4472


class MLP(nn.Module):
    """x (B, T, D) -> (B, T, D): ``down(phi(up(x)))``.

    phi(z): ``relu2`` max(z, 0)^2; ``leaky_relu2`` the same above zero and (slope * z)^2 below; ``star_relu``
    s * max(z, 0)^2 + b with one learnt s and b.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        hidden = max(1, round(config.mlp_ratio * config.dim))
        self.up = Linear(config.dim, hidden)
        self.down = Linear(hidden, config.dim)
        self.slope = config.leaky_slope if config.activation == "leaky_relu2" else 0.0
        star = config.activation == "star_relu"
        self.star_scale = nn.Parameter(torch.tensor(STAR_SCALE)) if star else None
        self.star_bias = nn.Parameter(torch.tensor(STAR_BIAS)) if star else None

    def forward(self, x: Tensor, adapters: Adapters | None, scale: Tensor | None = None) -> Tensor:
        """Expand, activate, contract; ``scale`` (D,) of what comes out, with the kernels."""
        if scale is not None and self.star_scale is None:
            return mlp(x, self.up.seen_weight(), scale[:, None] * self.down.seen_weight(), self.slope, kernel=True)
        z = activate(self.up(x, adapters), self.slope)
        if self.star_scale is not None and self.star_bias is not None:
            z = self.star_scale.to(z.dtype) * z + self.star_bias.to(z.dtype)
        out = self.down(z, adapters)
        return out if scale is None else scale.to(out.dtype) * out
