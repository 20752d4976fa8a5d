"""What is added to or mixed into the token embedding: hashed bigrams, smearing, value embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.linear import Adapters, Embedding, Linear

# The hash of the 1.1228 and 1.1147 records.
HASH_CURRENT, HASH_PREVIOUS = 36313, 27191
BIGRAM_SCALE = 0.05  # initial weight of the bigram embedding, as in those records
VALUE_EMBED_SCALE = 0.1  # initial weight of the value embedding, as in those records


def has_predecessor(tokens: Tensor, bos_id: int | None) -> Tensor:
    """(B, T) bool: whether the token before stands in the same document and in this window; a token of -1 is none.

    Without ``bos_id`` documents are not told apart, as in the records that have no mask.
    """
    inside = F.pad(tokens[:, :-1], (1, 0), value=-1) >= 0
    return inside if bos_id is None else (tokens != bos_id) & inside


def known(tokens: Tensor, training: bool) -> Tensor:
    """``tokens`` to look up, any in place of a -1; training has none, and no step of it looks for them."""
    return tokens if training else tokens.clamp(min=0)


class BigramHash(nn.Module):
    """tokens (B, T) -> (B, T, D): ``scale * project(table[hash(token, previous token)])``.

    ``hash = (36313 * id_t xor 27191 * id_{t-1}) mod (buckets - 1)``; a token without a predecessor takes the last
    bucket, so a document's first token never depends on the document before it.
    """

    def __init__(self, buckets: int, width: int, dim: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.table = Embedding(buckets, width)
        self.project = Linear(width, dim)
        self.scale = nn.Parameter(torch.tensor(BIGRAM_SCALE))

    def bucket(self, tokens: Tensor, linked: Tensor) -> Tensor:
        """(B, T) int64: the bucket of each position."""
        previous = F.pad(tokens[:, :-1], (1, 0))
        hashed = (HASH_CURRENT * tokens ^ HASH_PREVIOUS * previous) % (self.buckets - 1)
        return torch.where(linked, hashed, self.buckets - 1)

    def forward(self, tokens: Tensor, linked: Tensor, dtype: torch.dtype, adapters: Adapters | None = None) -> Tensor:
        """Embed each pair; ``linked`` is :func:`has_predecessor`; the product runs in ``dtype``."""
        rows = self.table(self.bucket(tokens, linked)).to(dtype)
        return self.project(rows, adapters) * self.scale.to(dtype)


class SmearGate(nn.Module):
    """x (B, T, D) -> ``x_t + sigmoid(gate) * (x_{t-1} - x_t)``, per channel; unchanged without a predecessor.

    Version 1 of the 1.1228 record, on the normalised embedding. The record had no document mask: there, the last token
    of a document leaked into the BOS of the next one, and the first of a window was mixed with zeros, as ``pads`` does.
    """

    def __init__(self, dim: int, *, pads: bool = False) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))
        self.pads = pads

    def forward(self, x: Tensor, linked: Tensor) -> Tensor:
        """Smear; ``linked`` (B, T) is :func:`has_predecessor`."""
        previous = F.pad(x[:, :-1], (0, 0, 1, 0))
        share = torch.sigmoid(self.gate).to(x.dtype)
        return x + (share if self.pads else share * linked[..., None]) * (previous - x)


class TokenSmear(nn.Module):
    """x (B, T, D) -> ``x_t + scale * sigmoid(weight . x_t[:n]) * x_{t-1}``; unchanged without a predecessor.

    Version 2, of the 1.0611 record, on the embedding before its norm: one factor a token, and the identity at first.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs))
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, linked: Tensor) -> Tensor:
        """Smear; ``linked`` (B, T) is :func:`has_predecessor`."""
        logits = (x[..., : self.weight.shape[0]] * self.weight.to(x.dtype)).sum(-1)
        share = self.scale.to(x.dtype) * torch.sigmoid(logits) * linked
        return x + share[..., None] * F.pad(x[:, :-1], (0, 0, 1, 0))


class ValueEmbedding(nn.Module):
    """tokens (B, T) -> (B, T, kv_dim): one table for all reading layers, each with its own weight in its block."""

    def __init__(self, vocab_size: int, width: int, kv_dim: int) -> None:
        super().__init__()
        self.table = Embedding(vocab_size, width)
        self.project = Linear(width, kv_dim)
        self.scale = nn.Parameter(torch.tensor(VALUE_EMBED_SCALE))

    def forward(self, tokens: Tensor, dtype: torch.dtype, adapters: Adapters | None = None) -> Tensor:
        """Embed, a token of -1 as any; the product runs in ``dtype``."""
        return self.project(self.table(known(tokens, self.training)).to(dtype), adapters) * self.scale.to(dtype)
