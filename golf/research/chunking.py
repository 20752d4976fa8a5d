"""Dynamic chunking: the model finds its own units, and most of its layers run once a unit instead of once a token.

Encoder layers read every token; a router puts a boundary where the state turns away from the one before; the states
at boundaries go through the inner layers; each result is spread over the tokens from its boundary to the next one,
and decoder layers predict the next token. Everything learns from the one loss, boundaries included: the smoothing
blends an uncertain chunk with the one before it, so the loss says whether the boundary was worth it.

Source: Hwang, Wang & Gu, Dynamic Chunking for End-to-End Hierarchical Sequence Modeling (H-Net, 2025),
https://arxiv.org/abs/2507.07955.

What differs here:

* It chunks tokens, not bytes, towards three tokens a chunk; all layers are the transformer's, of one width.
* Shapes are static: a window has a fixed number of chunks, half as many again as the target, and no more than that in
  each segment of 32 tokens. Boundaries beyond join the chunk before. No step waits for the device.
* The first token of a document always begins a chunk, and smoothing does not reach across it.
* The connection around the inner layers starts as the identity. From zero, as published, the decoder does not know
  which token of a chunk it stands on until it has learnt to: 0.01 to 0.03 bpb worse after a few hundred steps.

Causal throughout: a boundary is decided from the tokens up to it, a chunk is made of its first token's state, and its
result reaches only positions from that token on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.linear import Linear
from golf.research.idea import Ends, Idea, Size, draw_weights, layers_of, run
from golf.research.state_space import recurrence

BOS = 1  # of the challenge's tokenizers
TARGET = 3.0  # tokens a chunk
SPARE = 1.5  # places for chunks over the number at the target
SEGMENT = 32  # tokens
RATIO_WEIGHT = 0.03  # of the ratio loss, as in the paper
MOST = 1 - 1e-4  # bound of a probability before its logarithm


class Chunks(NamedTuple):
    """Where the chunks of B windows lie: at most C in each."""

    first: Tensor  # (B, C) int64: position of each chunk's first token; unused places hold the last position
    member: Tensor  # (B, T) int64: the chunk of each token


class DynamicChunking(Idea):
    """Encoder, router, inner layers and decoder; its ``nll`` is a causal code length."""

    def __init__(self, size: Size, vocab_size: int) -> None:
        """Build it: a quarter of the layers before the inner ones, a quarter behind them, at least one each.

        Raises:
            ConfigError: fewer than three layers, or a shape that the transformer refuses.
        """
        super().__init__(size, vocab_size)
        size.require_layers(3, "chunking", "an encoder, an inner one, a decoder")
        config = size.model()
        outer = max(1, size.layers // 4)
        layers = layers_of(config, size.layers)
        self.ends = Ends(config, vocab_size)
        self.encoder, self.inner, self.decoder = layers[:outer], layers[outer:-outer], layers[-outer:]
        self.around = Linear(size.dim, size.dim)
        draw_weights(self)
        nn.init.eye_(self.around.weight)
        self.router = Router(size.dim)

    def loss(self, tokens: Tensor) -> Tensor:
        """tokens (B, T + 1) int64 -> nats a token plus the weighted ratio loss."""
        nll, probability = self._forward(tokens)
        return nll.mean() + RATIO_WEIGHT * ratio_loss(probability)

    def nll(self, tokens: Tensor) -> Tensor:
        """See :meth:`golf.research.idea.Idea.nll`."""
        return self._forward(tokens)[0]

    def _forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T + 1) -> nats of each target and the probability of each boundary, both (B, T) fp32."""
        inputs = tokens[:, :-1]
        starts = document_starts(inputs)
        x0 = self.ends.embed(inputs)
        shared = self.ends.shared(x0)
        encoded = run(self.encoder, x0, shared)
        probability = self.router(encoded, starts)
        chunks = choose(probability, starts)
        picked = encoded.gather(1, chunks.first[..., None].expand(-1, -1, encoded.shape[-1]))
        inner = run(self.inner, picked, self.ends.shared(picked))
        spread = dechunk(inner, probability, starts, chunks)
        decoded = run(self.decoder, spread + self.around(encoded), shared)
        return self.ends.nll(decoded, tokens[:, 1:]), probability


class Router(nn.Module):
    """Encoded states x (B, T, D) -> (B, T) fp32, the probability of a boundary: ``(1 - cos(W x_t, V x_{t-1})) / 2``.

    W = V = 1 at first. A document's first token has the probability 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = Linear(dim, dim), Linear(dim, dim)
        for matrix in (self.query, self.key):
            nn.init.eye_(matrix.weight)

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        """Compare neighbours; ``starts`` (B, T) is :func:`document_starts`."""
        turn = F.cosine_similarity(self.query(x[:, 1:]).float(), self.key(x[:, :-1]).float(), dim=-1)
        return F.pad(0.5 * (1 - turn), (1, 0)).masked_fill(starts, 1.0)


def document_starts(tokens: Tensor) -> Tensor:
    """(B, T) bool: at each beginning of a document, and of the window."""
    starts = tokens == BOS
    starts[:, 0] = True
    return starts


def capacity(length: int) -> tuple[int, int]:
    """The most chunks of a window of ``length`` tokens, and of a segment of it."""
    return math.ceil(SPARE * length / TARGET), math.ceil(SPARE * SEGMENT / TARGET)


def choose(probability: Tensor, starts: Tensor) -> Chunks:
    """The chunks whose first tokens have a probability of at least 1/2, as far as there is room.

    In a segment the first boundaries win, and a document's start always does; in a window the first ones, whatever
    they are. Whether a token begins a chunk depends on no later one.

    Args:
        probability: (B, T) of a boundary.
        starts: (B, T) bool, where a document begins; true at 0.
    """
    length = probability.shape[1]
    most, in_segment = capacity(length)
    wanted = (probability >= 0.5) | starts
    rank = F.pad(wanted, (0, -length % SEGMENT)).unflatten(1, (-1, SEGMENT)).cumsum(-1).flatten(1)[:, :length]
    chosen = starts | (wanted & (rank <= in_segment))
    number = chosen.cumsum(1)
    places = torch.arange(1, most + 1, device=number.device).expand(len(number), -1).contiguous()
    first = torch.searchsorted(number, places).clamp_(max=length - 1)
    return Chunks(first, number.clamp(max=most) - 1)


def dechunk(inner: Tensor, probability: Tensor, starts: Tensor, chunks: Chunks) -> Tensor:
    """The inner layers' results, smoothed and given to the tokens of each chunk.

    With P the probability of a chunk's boundary, ``smooth_c = P_c * inner_c + (1 - P_c) * smooth_{c-1}``; a token gets
    its chunk's value times its confidence (p where it begins a chunk, else 1 - p), which is rounded up to 1 with a
    straight-through gradient.

    Args:
        inner: (B, C, D).
        probability: (B, T) of a boundary.
        starts: (B, T) bool, where a document begins.
        chunks: where they lie.

    Returns:
        (B, T, D) in the dtype of ``inner``.
    """
    weight = probability.gather(1, chunks.first)
    kept = torch.log1p(-weight.clamp(max=MOST)).masked_fill(starts.gather(1, chunks.first), -math.inf)
    one = torch.ones_like(inner[..., :1])
    smooth = recurrence(one, one, (weight[..., None].to(inner.dtype) * inner)[:, :, None], kept[..., None])[:, :, 0]
    spread = smooth.gather(1, chunks.member[..., None].expand(-1, -1, inner.shape[-1]))
    begins = chunks.member.diff(dim=1, prepend=torch.full_like(chunks.member[:, :1], -1)) > 0
    confidence = torch.where(begins, probability, 1 - probability)
    return spread * (confidence + (1 - confidence).detach())[..., None].to(inner.dtype)


def ratio_loss(probability: Tensor) -> Tensor:
    """(B, T) boundary probabilities -> 0-d: ``N / (N - 1) * ((N - 1) F G + (1 - F) (1 - G))``, N = :data:`TARGET`.

    F is the share of tokens that begin a chunk, room or not, without a gradient, and G the mean probability. The loss
    is 1 at F = G = 1/N and pushes the probabilities down where F is above, up where it is below.
    """
    share, mean = (probability >= 0.5).to(probability.dtype).mean(), probability.mean()
    return TARGET / (TARGET - 1) * ((TARGET - 1) * share * mean + (1 - share) * (1 - mean))
