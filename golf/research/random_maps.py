"""Adapters on random linear maps: every matrix is fixed and random, and what is learnt is a small correction of it.

A matrix drawn from a seed takes no byte of the artifact. The bytes go to a low-rank term, which turns the few
directions that matter, and to two scales, which choose among the random features.

Sources: Hu et al., LoRA (2021), https://arxiv.org/abs/2106.09685, for the low-rank term; Kopiczko et al., VeRA (2023),
https://arxiv.org/abs/2310.11454, for learnt scales around frozen random matrices; Frankle et al., Training BatchNorm
and Only BatchNorm (2020), https://arxiv.org/abs/2003.00152, for how far scales of random features carry by themselves.

What differs here: there is no pretrained matrix underneath, the random one is the layer, so rank and scales are
trained from the start; and the random numbers are signs, expanded from a hash, so that the decoder has the same bits
on every machine and with every version of every library.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.linear import Adapters, Linear, adapted
from golf.model.transformer import Transformer
from golf.research.idea import Idea, Size

SEED = "fairway"  # of all random maps
RANK_DIVISOR = 8  # the rank of a correction is D over this


def random_signs(key: str, rows: int, columns: int) -> Tensor:
    """(rows, columns) fp32 of ±1, the bits of SHAKE-256 of ``key``: a function of its arguments alone."""
    digest = hashlib.shake_256(key.encode()).digest(-(-rows * columns // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=rows * columns)
    return torch.from_numpy(2 * bits.astype(np.float32) - 1).view(rows, columns)


class RandomMap(nn.Module):
    """x (…, in) -> (…, out): ``a * (R (b * x)) + U V x``.

    R is random signs over sqrt(in), so it keeps the size of a vector on average; a (out,) and b (in,) are learnt
    scales, U (out, r) and V (r, in) the learnt correction, r the rank.

    Args:
        linear: the matrix whose place it takes, its shape and its name.
        rank: r; never more than the smaller side.
        writes: whether it writes to the residual stream: it then starts with a = 0, so that each block starts as the
            identity, as in the baseline.
    """

    random: Tensor

    def __init__(self, linear: Linear, rank: int, *, writes: bool) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        rank = min(rank, outputs, inputs)
        self.name = linear.name
        signs = random_signs(f"{SEED}/{self.name}", outputs, inputs)
        self.register_buffer("random", signs / math.sqrt(inputs), persistent=False)
        self.output_scale = nn.Parameter(torch.zeros(outputs) if writes else torch.ones(outputs))
        self.input_scale = nn.Parameter(torch.ones(inputs))
        self.narrow, self.widen = Linear(inputs, rank), Linear(rank, outputs)
        nn.init.orthogonal_(self.narrow.weight)

    def forward(self, x: Tensor, adapters: Adapters | None = None) -> Tensor:
        """Multiply; ``adapters`` may add to the result, as to that of a ``Linear``."""
        random = self.output_scale * F.linear(self.input_scale * x, self.random)
        return adapted(random + self.widen(self.narrow(x)), x, self.name, adapters)


class RandomMaps(Idea):
    """The baseline with a :class:`RandomMap` in the place of every matrix; the embedding is learnt as ever."""

    def __init__(self, size: Size, vocab_size: int) -> None:
        super().__init__(size, vocab_size)
        self.transformer = Transformer(size.model(), vocab_size)
        rank = max(1, size.dim // RANK_DIVISOR)
        for name, module in list(self.transformer.named_modules()):
            if isinstance(module, Linear):
                writes = name.endswith(("attention.output", "mlp.down"))
                self.transformer.set_submodule(name, RandomMap(module, rank, writes=writes))

    def nll(self, tokens: Tensor) -> Tensor:
        """See :meth:`Idea.nll`."""
        return self.transformer(tokens[:, :-1], tokens[:, 1:])
