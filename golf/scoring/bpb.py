"""Bits per byte: (sum of nats / ln 2) / (bytes of text), from exact sums, over every target of the split.

The challenge writes it as (mean nats a token / ln 2) x (tokens / bytes), which is the same number. A boundary token
such as BOS counts no bytes, but its nats are in the numerator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golf.runtime.errors import DataError


@dataclass(frozen=True)
class Total:
    """Sums over scored targets; those of disjoint targets add up."""

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        """(nats / ln 2) / bytes.

        Raises:
            DataError: no bytes were counted.
        """
        if self.bytes <= 0:
            raise DataError(f"{self.tokens} targets stand for {self.bytes} bytes: bits per byte has no value")
        return self.nats / math.log(2) / self.bytes

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood of a target."""
        return self.nats / self.tokens

    @property
    def bytes_per_token(self) -> float:
        """How many bytes a target stands for: a bpb times ln 2 times this is nats a token."""
        return self.bytes / self.tokens


def total(nll: Tensor | np.ndarray, byte_counts: Tensor | np.ndarray) -> Total:
    """Sum nll (N,), in nats, in float64 and byte_counts (N,) in int64.

    Raises:
        DataError: the lengths differ, there is nothing to sum, or a score is NaN or infinite: a partial score is
            never reported as a score.
    """
    losses = torch.as_tensor(nll).detach().to("cpu", torch.float64)
    counts = torch.as_tensor(byte_counts).detach().to("cpu", torch.int64)
    if losses.shape != counts.shape or losses.dim() != 1 or losses.numel() == 0:
        raise DataError(f"scores {tuple(losses.shape)} and byte counts {tuple(counts.shape)}: needed one each a target")
    bad = int((~torch.isfinite(losses)).sum())
    if bad:
        first = int((~torch.isfinite(losses)).nonzero()[0]) + 1
        raise DataError(f"{bad} of {losses.numel()} targets have no finite score, the first at position {first}")
    return Total(float(losses.sum()), losses.numel(), int(counts.sum()))


@dataclass(frozen=True)
class SidecarBytes:
    """Byte counts read from a sidecar of the same length as the tokens: counts (T,), one a token of the split.

    ``vocab_size`` is the tokenizer's; 0: not known.
    """

    counts: Tensor
    vocab_size: int = 0

    def count(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) int64: bytes of tokens[1:]; ``tokens`` must begin where the sidecar does.

        Raises:
            DataError: the sidecar holds fewer counts than there are tokens.
        """
        if self.counts.numel() < tokens.numel():
            raise DataError(f"byte sidecar: {self.counts.numel()} counts for {tokens.numel()} tokens")
        return self.counts[1 : tokens.numel()].to(torch.int64)
