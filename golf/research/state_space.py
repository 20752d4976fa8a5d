"""Mostly recurrent: selective state-space layers, with attention in every fourth layer.

A layer keeps a matrix for each head, which decays by a factor that each token chooses and to which each token adds an
outer product. Work and memory grow with the length, not with its square, and a step of generation costs the same at
every position.

Sources: Dao & Gu, Transformers are SSMs (Mamba-2, 2024), https://arxiv.org/abs/2405.21060, for the layer and its
evaluation in chunks; Lieber et al., Jamba (2024), https://arxiv.org/abs/2403.19887, for the mixture with attention.

What differs here:

* The recurrence is evaluated in chunks by plain matrix products, in any dtype and without a kernel of its own.
* Queries and keys are as wide as a head of attention, and the five projections are separate matrices, because Muon
  orthogonalises each for itself. The short convolution starts as the identity.
* Everything else (embedding, MLPs, residual mixes, skips, head, loss) is the transformer's own forward pass: a
  recurrent layer takes the place of an attention layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.heads import Shared
from golf.model.linear import Linear
from golf.model.norm import rms_norm
from golf.model.transformer import Transformer
from golf.params.model import Model
from golf.research.idea import Idea, Size

ATTENTION_EVERY = 4  # of so many layers the last one attends
CHUNK = 64  # positions: quadratic inside, linear across
TAPS = 4  # of the short convolution
RATES = (0.001, 0.1)  # initial step sizes of the heads, spread evenly in logarithm, as in Mamba
SPEEDS = (1.0, 16.0)  # initial decay of a head in nats for a unit step, the same


class StateSpaceHybrid(Idea):
    """The transformer with recurrent layers; its ``nll`` is a causal code length."""

    def __init__(self, size: Size, vocab_size: int) -> None:
        """Build it.

        Raises:
            ConfigError: fewer than two layers, or a shape that the transformer refuses.
        """
        super().__init__(size, vocab_size)
        size.require_layers(2, "state_space", "one is recurrent, one attends")
        config = size.model()
        self.transformer = Transformer(config, vocab_size)
        every = min(ATTENTION_EVERY, size.layers)
        for layer in range(size.layers):
            if (layer + 1) % every:
                self.transformer.set_submodule(f"blocks.{layer}.attention", SelectiveRecurrence(config))

    def nll(self, tokens: Tensor) -> Tensor:
        """See :meth:`golf.research.idea.Idea.nll`."""
        return self.transformer(tokens[:, :-1], tokens[:, 1:])


class SelectiveRecurrence(nn.Module):
    """In the place of an attention layer: x (B, T, D) -> (B, T, D).

    With q, k (width W) and v (H heads of W) from projections, a short convolution and SiLU, for each head::

        rate_t  = softplus(w . x_t + b)
        state_t = exp(-speed * rate_t) * state_{t-1} + rate_t * k_t v_t^T
        y_t     = state_t^T q_t + skip * v_t

    and the layer returns ``output(norm(y * silu(gate(x))))``.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.heads, self.width = config.num_heads, config.dim // config.num_heads
        self.query = Linear(config.dim, self.width)
        self.key = Linear(config.dim, self.width)
        self.value = Linear(config.dim, config.dim)
        self.gate = Linear(config.dim, config.dim)
        self.rate = Linear(config.dim, self.heads)
        self.output = Linear(config.dim, config.dim)
        self.convolution = nn.Parameter(_identity_taps(config.dim + 2 * self.width))
        self.rate_bias = nn.Parameter(torch.log(torch.expm1(_log_spread(RATES, self.heads))))  # softplus's inverse
        self.log_speed = nn.Parameter(_log_spread(SPEEDS, self.heads).log())
        self.skip = nn.Parameter(torch.ones(self.heads))
        for matrix in (self.query, self.key, self.value, self.gate, self.rate):
            nn.init.orthogonal_(matrix.weight)  # the output stays zero: the layer starts as the identity

    def forward(self, x: Tensor, first_value: Tensor | None, shared: Shared) -> tuple[Tensor, Tensor]:
        """Mix over time.

        Args:
            x: (B, T, D), normalised.
            first_value, shared: what attention layers read; not used.

        Returns:
            the output (B, T, D) and this layer's values (B, T, H, W).
        """
        mixed = F.silu(self._convolved(torch.cat((self.query(x), self.key(x), self.value(x)), dim=-1)))
        query, key, value = mixed.split([self.width, self.width, x.shape[-1]], dim=-1)
        value = value.unflatten(-1, (self.heads, self.width))
        rate = F.softplus(self.rate(x).float() + self.rate_bias)
        y = recurrence(query, key, value * rate[..., None].to(value.dtype), -self.log_speed.exp() * rate)
        y = y + self.skip[:, None].to(value.dtype) * value
        return self.output(rms_norm(y.flatten(-2) * F.silu(self.gate(x)))), value

    def _convolved(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C): each channel filtered over its last ``TAPS`` positions."""
        padded, taps = F.pad(x, (0, 0, TAPS - 1, 0)), self.convolution.to(x.dtype)
        y = padded[:, : x.shape[1]] * taps[0]
        for lag in range(1, TAPS):
            y = torch.addcmul(y, padded[:, lag : lag + x.shape[1]], taps[lag])
        return y


def recurrence(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, chunk: int = CHUNK) -> Tensor:
    """The linear recurrence ``S_t = exp(log_decay_t) S_{t-1} + key_t value_t^T; y_t = S_t^T query_t`` from S = 0.

    Within a chunk ``y`` is masked attention without softmax; every chunk's contribution to the state is one product,
    and the states at the chunks' starts are one more (section 6 of the paper). No factor exceeds 1, and no small
    decay is the difference of large sums, so it is stable for any decay.

    Args:
        query, key: (B, T, N), shared by the heads.
        value: (B, T, H, P); its dtype is that of the products.
        log_decay: (B, T, H), at most 0, fp32 or wider; minus infinity forgets everything before.
        chunk: positions in a chunk; T need not be a multiple.

    Returns:
        (B, T, H, P) in the dtype of ``value``.
    """
    length, dtype = value.shape[1], value.dtype
    padding = -length % chunk  # behind the end, where nothing reads it
    query, key, log_decay = (F.pad(x, (0, 0, 0, padding)).unflatten(1, (-1, chunk)) for x in (query, key, log_decay))
    value = F.pad(value, (0, 0, 0, 0, 0, padding)).unflatten(1, (-1, chunk)).transpose(2, 3)  # B, chunks, H, C, P
    query, key, log_decay = query[:, :, None], key[:, :, None], log_decay.transpose(2, 3)

    inside = decays(log_decay)  # B, chunks, H, C, C
    y = (inside.to(dtype) * (query @ key.mT)) @ value
    added = (key * inside[..., -1, :, None].to(dtype)).mT @ value  # B, chunks, H, N, P: by each chunk to the state
    across = decays(log_decay.sum(-1).transpose(1, 2))  # B, H, chunks, chunks
    ends = torch.einsum("bhij,bjhnp->bihnp", across.to(dtype), added)
    starts = torch.cat((torch.zeros_like(ends[:, :1]), ends[:, :-1]), dim=1)
    y = y + (query * log_decay.cumsum(-1).exp()[..., None].to(dtype)) @ starts
    return y.transpose(2, 3).flatten(1, 2)[:, :length]


def decays(log_decay: Tensor) -> Tensor:
    """(..., L) -> (..., L, L): at (i, j) the decay from j to i, ``exp(sum over j < m <= i)``; 0 above the diagonal.

    Each sum is taken by itself: the difference of two prefix sums loses the small decays of a long chunk, and is
    undefined behind an infinite one.
    """
    lower = torch.ones(log_decay.shape[-1], log_decay.shape[-1], dtype=torch.bool, device=log_decay.device).tril()
    terms = log_decay[..., :, None].masked_fill(~lower.tril(-1), 0.0)
    return terms.cumsum(-2).masked_fill(~lower, -math.inf).exp()


def _log_spread(bounds: tuple[float, float], count: int) -> Tensor:
    return torch.logspace(math.log10(bounds[0]), math.log10(bounds[1]), count)


def _identity_taps(channels: int) -> Tensor:
    """(TAPS, channels): only the present position counts."""
    taps = torch.zeros(TAPS, channels)
    taps[-1] = 1.0
    return taps
