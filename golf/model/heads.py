"""One attention layer: projections, normalised rotary heads, exclusive values, output gate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.attention import implementation
from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.kernels.mix_norm import Relay
from golf.model.kernels.projection import project
from golf.model.kernels.rotary import rotary_heads, spread_heads
from golf.model.linear import Adapters, Linear, adapters_of
from golf.model.norm import rms_norm
from golf.model.past import Past
from golf.model.rope import Rotation, rotate
from golf.params.model import Model


class Shared(NamedTuple):
    """What every layer reads besides the residual stream."""

    x0: Relay  # (B, T, D): the normalised embedding
    rope: Rotation
    value_embed: Tensor | None  # (B, T, G * W), for the last layers
    documents: Any  # where attention stops, as golf.model.attention.prepare gives it
    adapters: Adapters | None
    past: Past | None = None  # keys and values of earlier tokens
    kernels: bool = False  # compute with those of golf.model.kernels


class Projected(NamedTuple):
    """What attention makes of its input: q and k normalised and rotated, each head of width W."""

    q: Tensor  # (B, T, H, W)
    k: Tensor  # (B, T, G, W); spread, each for every query head that reads it, (B, T, H, W)
    v: Tensor  # (B, T, G, W)
    read: Tensor  # the values as attention reads them: v, or spread as k
    opened: Tensor | None  # (B, T, H): how far each head's gate stands open


def for_repeat(shared: Shared, repeat: int) -> Shared:
    """``shared`` for a pass of a looped layer after its first: with that pass's own adapters."""
    if shared.adapters is None:
        return shared
    return shared._replace(adapters=adapters_of(shared.adapters, repeat))


class Attention(nn.Module):
    """Causal grouped-query attention with normalised queries and keys: x (B, T, D) -> (B, T, D)."""

    def __init__(self, config: Model, layer: int, backend: str) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.width = config.dim // config.num_heads
        kv_dim = self.kv_heads * self.width
        self.query = Linear(config.dim, config.dim)
        self.key = Linear(config.dim, kv_dim)
        self.value = Linear(config.dim, kv_dim)
        self.output = Linear(config.dim, config.dim)
        self.query_gain = nn.Parameter(torch.full((self.heads,), config.qk_gain))
        self.exclusive = layer >= config.num_layers - config.xsa_layers
        reads_table = config.value_embed_dim > 0 and layer >= config.num_layers - config.value_embed_layers
        self.value_embed_gain = nn.Parameter(torch.ones(())) if reads_table else None
        mixes_first = config.value_residual and layer > 0
        self.value_residual_gate = nn.Parameter(torch.zeros(())) if mixes_first else None
        self.gate = OutputGate(config) if config.attention_gate != "none" else None
        self.attend = implementation(backend)
        # FlashAttention 3 adds the gradients of shared heads up in fp32: a sixth of its time, forward and backward.
        self.spreads = backend == "fa3"

    def forward(
        self, x: Tensor, first_value: Tensor | None, shared: Shared, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: (B, T, D), normalised.
            first_value: (B, T, G, W), the values of layer 0; None in layer 0.
            shared: what every layer reads.
            scale: (D,) of the output, multiplied into its matrix; with the kernels.

        Returns:
            the output (B, T, D) and this layer's own values (B, T, G, W).
        """
        adapters = shared.adapters
        q, k, own, read, opened = self.project(x, shared)
        v = own
        if self.value_embed_gain is not None and shared.value_embed is not None:
            v = v + self.value_embed_gain.to(v.dtype) * shared.value_embed.view_as(v)
        own_value = v
        if self.value_residual_gate is not None and first_value is not None:
            v = v + torch.sigmoid(self.value_residual_gate).to(v.dtype) * first_value
        read = read if v is own else spread_heads(v, k.shape[2] // v.shape[2])
        if shared.past is not None:
            k, read = shared.past.extend(k, read)
        y = self.attend(q, k, read, shared.documents)
        if self.exclusive:
            y = exclude_and_gate(y, v, opened, shared.kernels)
        elif opened is not None:
            y = y * opened[..., None]
        if scale is not None:
            return project(y.flatten(2), [scale[:, None] * self.output.seen_weight()], kernel=True)[0], own_value
        return self.output(y.flatten(2), adapters), own_value

    def project(self, x: Tensor, shared: Shared) -> Projected:
        """Project x (B, T, D)."""
        adapters, parts = shared.adapters, (self.query, self.key, self.value)
        if shared.kernels:
            weights, gate = [part.seen_weight() for part in parts], self.gate
            heads, logits = project(x, weights, None if gate is None else gate.weight, kernel=True)
            read = rotary_heads(heads, self.query_gain, shared.rope, self.kv_heads, kernel=True, spread=self.spreads)
            return Projected(*read, None if gate is None or logits is None else gate.opened(logits))
        q, k, v = (part(x, adapters).unflatten(2, (-1, self.width)) for part in parts)
        q = rotate(rms_norm(q, self.query_gain[:, None]), shared.rope)  # a rotation commutes with the head's gain
        return Projected(q, rotate(rms_norm(k), shared.rope), v, v, None if self.gate is None else self.gate(x))


class OutputGate(nn.Module):
    """The factor of each head's output at each position, (B, T, H), read off the layer's normalised input x (B, T, D).

    With n = ``gate_inputs`` and the published initial weights::

        double  2 * sigmoid(W x[:n])  W = 0, so 1 at first
        dense   sigmoid(W x)          W ~ N(0, gate_init_std^2), so about 1/2
        sparse  sigmoid(s * W x[:n])  W = 0, so 1/2; s = gate_scale
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        kind = config.attention_gate
        self.inputs = config.dim if kind == "dense" else config.gate_inputs
        self.slope = config.gate_scale if kind == "sparse" else 1.0
        self.height = 2.0 if kind == "double" else 1.0
        self.init_std = config.gate_init_std if kind == "dense" else 0.0
        self.weight = nn.Parameter(torch.zeros(config.num_heads, self.inputs))

    def forward(self, x: Tensor) -> Tensor:
        """How far each gate stands open."""
        return self.opened(F.linear(x[..., : self.inputs], self.weight.to(x.dtype)))

    def opened(self, logits: Tensor) -> Tensor:
        """The same from ``W x``."""
        return self.height * torch.sigmoid(self.slope * logits)
