"""Masked text diffusion: hide a random part of the text, predict it from what is left, in both directions.

At time t of the linear schedule (the papers' log-linear noise) each token is hidden with probability t, and the
negative evidence bound is

    -log p(x)  <=  E_t [ 1/t * sum over hidden i of -log p(x_i | what is left) ]      t uniform in (0, 1)

Integrating t out leaves the number n of hidden tokens: it is uniform in 1..T, and the sum has the weight T/n,

    -log p(x)  <=  E_n [ T/n * sum over hidden i of -log p(x_i | what is left) ]

which is the mean cost of an autoregressive model over all orders. Both have the same expectation; the second has no
noise from how many tokens happened to be hidden.

Sources: Sahoo et al., Simple and Effective Masked Diffusion Language Models (MDLM, 2024),
https://arxiv.org/abs/2406.07524; Shi et al., Simplified and Generalized Masked Diffusion (2024),
https://arxiv.org/abs/2406.04329; for the second form Uria et al., A Deep and Tractable Density Estimator (2014),
https://arxiv.org/abs/1310.1757, and Ou et al., Your Absorbing Discrete Diffusion Secretly Models the Conditional
Distributions of Clean Data (2024), https://arxiv.org/abs/2406.03736.

What differs here: the network is the transformer of this library with every position visible to every other; the
number of hidden tokens is drawn, not the time, in training as in scoring; and the first token of a window is context,
never hidden, so that the targets are those of the other ideas.

**Not a legal code for the challenge.** The distribution of a token here depends on later tokens, and ``nll`` is a
Monte-Carlo estimate of a bound over random orders, which no decoder attains in one pass from left to right. The
challenge asks for each token's probability given only its past. Compare it as a bound, never submit it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.attention import Documents
from golf.model.heads import Shared
from golf.model.linear import Adapters
from golf.model.past import Past
from golf.model.transformer import Transformer
from golf.research.idea import Idea, Size

SAMPLES = 16  # masks a window in `nll`
SEED = 20240611  # of those masks


class MaskedDiffusion(Idea):
    """The transformer without its causal mask, trained to fill gaps; its ``nll`` bounds a code length from above."""

    exact: ClassVar[bool] = False

    def __init__(self, size: Size, vocab_size: int) -> None:
        """Build it; token ``vocab_size`` is the mask.

        Raises:
            ConfigError: a shape that the transformer refuses.
        """
        super().__init__(size, vocab_size)
        self.transformer = Bidirectional(size.model(), vocab_size + 1)

    def loss(self, tokens: Tensor) -> Tensor:
        """tokens (B, T + 1) int64 -> a sample of the bound in nats a token, from torch's own random state.

        The numbers of hidden tokens are spread evenly over the batch (low-discrepancy, as in MDLM).
        """
        batch = tokens.shape[0]
        shift = torch.rand((), device=tokens.device)
        places = (torch.arange(batch, device=tokens.device) + shift) / batch
        return self._sample(tokens, places, torch.rand(batch, tokens.shape[1] - 1, device=tokens.device)).mean()

    def nll(self, tokens: Tensor) -> Tensor:
        """An unbiased estimate of the bound: its expectation, not itself, lies above the negative log-likelihood.

        The mean over :data:`SAMPLES` masks, whose sizes are spread evenly over 1..T for each window, from a generator
        of its own: the same tokens on the same kind of device always give the same numbers. A single target's value
        is very noisy (zero when it was never hidden); means over windows are what to read.

        Args:
            tokens: (B, T + 1) int64.

        Returns:
            (B, T) fp32: nats of each target.
        """
        batch, length = tokens.shape[0], tokens.shape[1] - 1
        generator = torch.Generator(tokens.device).manual_seed(SEED)
        total = torch.zeros(batch, length, device=tokens.device)
        shift = torch.rand(batch, generator=generator, device=tokens.device)
        for sample in range(SAMPLES):
            order = torch.rand(batch, length, generator=generator, device=tokens.device)
            total += self._sample(tokens, (shift + sample) / SAMPLES, order)
        return total / SAMPLES

    def log_probs(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) int64, ``vocab_size`` where hidden -> (B, L, V) fp32: log-probabilities of each position.

        The mask itself is no outcome, and only hidden positions are to be read: the others are known.
        """
        return self.transformer(tokens)[..., : self.vocab_size].log_softmax(-1)

    def _sample(self, tokens: Tensor, places: Tensor, order: Tensor) -> Tensor:
        """(B, T) fp32: one sample of the second bound above, as the share of each target.

        Args:
            tokens: (B, T + 1) int64.
            places: (B,) in [0, 1): where in 1..T the number of hidden tokens lies.
            order: (B, T) random numbers; the targets of the lowest are hidden.
        """
        length = order.shape[1]
        count = (places * length).long().clamp_(max=length - 1)[:, None] + 1
        hidden = order.argsort(1).argsort(1) < count
        noisy = tokens.masked_fill(F.pad(hidden, (1, 0)), self.vocab_size)
        nll = -self.log_probs(noisy)[:, 1:].gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return nll * hidden * (length / count)


class Bidirectional(Transformer):
    """The transformer whose every position sees every other."""

    def shared(
        self,
        tokens: Tensor,
        x0: Tensor,
        adapters: Adapters | None = None,
        documents: Documents | None = None,
        past: Past | None = None,
    ) -> Shared:
        """What every layer reads: a mask that hides nothing, in the place of the causal one."""
        everything = torch.ones(1, 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device)
        return super().shared(tokens, x0, adapters, documents, past)._replace(documents=everything)
