"""The transformer, top to bottom: embedding, blocks with U-Net skips, tied head, softcapped logits.

Shapes: B windows, T tokens, D = ``dim``, H query heads, G key/value heads of width W = D / H, V vocabulary.
Weights are fp32; activations run in ``Transformer.compute_dtype``; norms, logits and loss are fp32. docs/model.md
says for each switch what it does, what it costs and which record it comes from.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.attention import implementation
from golf.model.embedding import BigramHash, SmearGate, ValueEmbedding, has_predecessor
from golf.model.linear import Adapters, Embedding, Linear, TiedHead
from golf.model.loss import softcap, softcapped_nll
from golf.model.norm import rms_norm
from golf.model.rope import Rotation, rotate, rotation
from golf.params.model import Model

VALUE_TABLE_STD = 0.01  # of the value-embedding table, as in the 1.1228 record


class Shared(NamedTuple):
    """What every layer reads besides the residual stream."""

    x0: Tensor  # (B, T, D): the normalised embedding
    rope: Rotation
    value_embed: Tensor | None  # (B, T, G * W), for the last layers
    adapters: Adapters | None


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
        self.attend = implementation(backend)

    def forward(self, x: Tensor, first_value: Tensor | None, shared: Shared) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: (B, T, D), normalised.
            first_value: (B, T, G, W), the values of layer 0; None in layer 0.
            shared: what every layer reads.

        Returns:
            the output (B, T, D) and this layer's own values (B, T, G, W).
        """
        adapters = shared.adapters
        batch, length, _ = x.shape
        q = self.query(x, adapters).view(batch, length, self.heads, self.width)
        k = self.key(x, adapters).view(batch, length, self.kv_heads, self.width)
        v = self.value(x, adapters)
        if self.value_embed_gain is not None and shared.value_embed is not None:
            v = v + self.value_embed_gain.to(v.dtype) * shared.value_embed
        v = own_value = v.view(batch, length, self.kv_heads, self.width)
        if self.value_residual_gate is not None and first_value is not None:
            v = v + torch.sigmoid(self.value_residual_gate).to(v.dtype) * first_value
        q = rotate(rms_norm(q, self.query_gain[:, None]), shared.rope)  # a rotation commutes with the head's gain
        k = rotate(rms_norm(k), shared.rope)
        y = self.attend(q, k, v)
        if self.exclusive:
            y = exclude_own_value(y, v)
        return self.output(y.reshape(batch, length, -1), adapters), own_value


def exclude_own_value(y: Tensor, v: Tensor) -> Tensor:
    """Exclusive self-attention (XSA): y (B, T, H, W) minus its component along its own position's v (B, T, G, W)."""
    direction = F.normalize(v, dim=-1, eps=1e-12).unsqueeze(3)  # (B, T, G, 1, W)
    grouped = y.view(*v.shape[:3], -1, v.shape[3])  # (B, T, G, H / G, W): no copy of v for each query head
    return (grouped - (grouped * direction).sum(-1, keepdim=True) * direction).view(y.shape)


class MLP(nn.Module):
    """x (B, T, D) -> (B, T, D): ``down(phi(up(x)))``, phi the squared ReLU or its leaky form."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        hidden = max(1, round(config.mlp_ratio * config.dim))
        self.up = Linear(config.dim, hidden)
        self.down = Linear(hidden, config.dim)
        self.slope = config.leaky_slope if config.activation == "leaky_relu2" else 0.0

    def forward(self, x: Tensor, adapters: Adapters | None) -> Tensor:
        """phi(z) = z^2 for z > 0, (slope * z)^2 below."""
        return self.down(F.leaky_relu(self.up(x, adapters), self.slope).square(), adapters)


class Block(nn.Module):
    """One layer: ``u = m0 * x + m1 * x0; u += a * attention(norm(u)); u += b * mlp(norm(u))``, per channel."""

    def __init__(self, config: Model, layer: int, backend: str) -> None:
        super().__init__()
        self.attention = Attention(config, layer, backend)
        self.mlp = MLP(config)
        self.attention_scale = nn.Parameter(torch.ones(config.dim))
        self.mlp_scale = nn.Parameter(torch.ones(config.dim))
        self.resid_mix = nn.Parameter(_identity_mix(config.dim)) if config.resid_mix else None
        self.norm_scale = 1.0 / math.sqrt(layer + 1) if config.ln_scale else 1.0

    def forward(self, x: Tensor, first_value: Tensor | None, shared: Shared) -> tuple[Tensor, Tensor]:
        """Residual stream (B, T, D) -> the new stream (B, T, D) and this layer's own values (B, T, G, W)."""
        if self.resid_mix is not None:
            mix = self.resid_mix.to(x.dtype)
            x = torch.addcmul(mix[0] * x, mix[1], shared.x0)
        y, own_value = self.attention(rms_norm(x, self.norm_scale), first_value, shared)
        x = torch.addcmul(x, self.attention_scale.to(x.dtype), y)
        y = self.mlp(rms_norm(x, self.norm_scale), shared.adapters)
        return torch.addcmul(x, self.mlp_scale.to(x.dtype), y), own_value


def _identity_mix(dim: int) -> Tensor:
    """(2, dim): all of the stream, nothing of the embedding. (On the meta device a stack costs a second of imports.)"""
    return torch.tensor([[1.0] * dim, [0.0] * dim])


class Skips(nn.Module):
    """U-Net skips: decoder layer k merges the output of encoder layer L/2 - 1 - k, last in, first out.

    additive: ``x + w_k * skip``; gated: ``g * x + (1 - g) * w_k * skip`` with ``g = sigmoid(gate_k)``, per channel.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.count = config.num_layers // 2
        self.weights = nn.Parameter(torch.ones(self.count, config.dim))
        gated = config.unet_skips == "gated"
        self.gates = nn.Parameter(torch.zeros(self.count, config.dim)) if gated else None

    def forward(self, x: Tensor, skip: Tensor, slot: int) -> Tensor:
        """Merge ``skip`` (B, T, D) into x (B, T, D)."""
        skip = self.weights[slot].to(x.dtype) * skip
        if self.gates is None:
            return x + skip
        return torch.lerp(skip, x, torch.sigmoid(self.gates[slot]).to(x.dtype))


class Transformer(nn.Module):
    """The model. Its random initialisation depends on ``torch.manual_seed`` alone.

    Args:
        config: shape and switches.
        vocab_size: V.
        bos_id: the token that begins a document.
        attention: an implementation of :mod:`golf.model.attention`, already chosen for the device.

    Attributes:
        compute_dtype: dtype of the activations; bf16 on GPUs. Set it before the first forward pass.
    """

    def __init__(self, config: Model, vocab_size: int, bos_id: int = 1, attention: str = "sdpa") -> None:
        super().__init__()
        self.config, self.vocab_size, self.bos_id = config, vocab_size, bos_id
        self.compute_dtype = torch.float32
        kv_dim = config.dim // config.num_heads * config.num_kv_heads
        has_values = config.value_embed_dim > 0 and config.value_embed_layers > 0
        self.embed = Embedding(vocab_size, config.dim)
        buckets = config.bigram_buckets
        self.bigram = BigramHash(buckets, config.bigram_dim, config.dim) if buckets else None
        self.smear = SmearGate(config.dim) if config.smear_gate else None
        self.values = ValueEmbedding(vocab_size, config.value_embed_dim, kv_dim) if has_values else None
        self.blocks = nn.ModuleList(Block(config, layer, attention) for layer in range(config.num_layers))
        self.skips = Skips(config) if config.unet_skips != "none" and config.num_layers > 1 else None
        self.head = TiedHead()
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                module.name = name
        if not self.embed.weight.is_meta:
            self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw the weights: orthogonal matrices, zero output projections, small normal embeddings."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.orthogonal_(module.weight)
        for block in cast(list[Block], self.blocks):
            nn.init.zeros_(block.attention.output.weight)
            nn.init.zeros_(block.mlp.down.weight)
        nn.init.normal_(self.embed.weight, std=self.config.embed_init_std)
        if self.bigram is not None:
            nn.init.zeros_(self.bigram.table.weight)
        if self.values is not None:
            nn.init.normal_(self.values.table.weight, std=VALUE_TABLE_STD)

    def forward(self, tokens: Tensor, targets: Tensor | None = None, adapters: Adapters | None = None) -> Tensor:
        """The only forward pass: training, calibration, scoring and test-time training all call it.

        Args:
            tokens: (B, T) int64.
            targets: (B, T) int64, the token that follows each.
            adapters: functions added to the outputs of named matrices, see :data:`golf.model.linear.Adapters`.

        Returns:
            without targets the logits (B, T, V), with targets their negative log-likelihood (B, T) in nats; fp32.
        """
        weight = self.embed.seen_weight()
        x = self.embed_tokens(tokens, weight, adapters)
        shared = Shared(
            x0=x,
            rope=rotation(tokens.shape[1], self.config.rope_dims, self.config.rope_base, tokens.device, x.dtype),
            value_embed=None if self.values is None else self.values(tokens, x.dtype, adapters),
            adapters=adapters,
        )
        first_value: Tensor | None = None
        skips: list[Tensor] = []
        encoders = len(self.blocks) // 2
        for layer, block in enumerate(self.blocks):
            if self.skips is not None and layer >= encoders and skips:
                x = self.skips(x, skips.pop(), layer - encoders)
            x, own_value = block(x, first_value, shared)
            first_value = own_value if layer == 0 else first_value
            if layer < encoders:
                skips.append(x)
        logits = self.head(rms_norm(x), weight, adapters).float()
        if targets is None:
            return softcap(logits, self.config.logit_softcap)
        return softcapped_nll(logits, targets, self.config.logit_softcap)

    def embed_tokens(self, tokens: Tensor, weight: Tensor, adapters: Adapters | None = None) -> Tensor:
        """tokens (B, T) -> the normalised embedding (B, T, D) that enters layer 0 and each residual mix."""
        linked = has_predecessor(tokens, self.bos_id)
        x = F.embedding(tokens, weight)
        if self.bigram is not None:
            x = x + self.bigram(tokens, linked, self.compute_dtype, adapters)
        x = rms_norm(x).to(self.compute_dtype)
        return x if self.smear is None else self.smear(x, linked)
