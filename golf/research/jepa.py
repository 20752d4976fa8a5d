"""A JEPA term beside the usual loss: from the latent of a token predict the latent of a later one.

The next token is the model's own target; that of the term is what the model itself will make of the text some tokens
later, which leaves out what can't be known of the words. The term exists in training alone: the artifact has neither
the predictor nor a byte more than the baseline's, and costs nothing to score.

Sources: Assran et al., I-JEPA (2023), https://arxiv.org/abs/2301.08243, for prediction in latent space; Huang, LeCun
and Balestriero, LLM-JEPA (2025), https://arxiv.org/abs/2509.14252, for the term beside a language model's loss; Chen
and He, SimSiam (2020), https://arxiv.org/abs/2011.10566, for the stopped gradient of the target; Bardes et al., VICReg
(2021), https://arxiv.org/abs/2105.04906, for the hinge on the spread.

What differs here: the views are positions of one text, no pairs of texts; the target is the same network without
gradient, not its average over steps, which saves a second forward pass; and of VICReg only the hinge on the standard
deviation is left: the loss over tokens reads the same latents, so they may lose spread but can't all become one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.linear import Linear
from golf.model.norm import rms_norm
from golf.research.idea import Ends, Idea, Size, draw_weights, layers_of, run

AHEAD = 4  # tokens from a latent to the one that it predicts
WEIGHT = 0.1  # of the prediction error in the loss
SAFEGUARD = 0.1  # of the hinge on the spread in the loss
SPREAD = 0.5  # standard deviation of a channel below which the hinge pulls; normalised latents can reach 1


class LatentPrediction(Idea):
    """The baseline, trained with :func:`prediction_error` and :func:`collapse` beside its loss."""

    def __init__(self, size: Size, vocab_size: int) -> None:
        super().__init__(size, vocab_size)
        config = size.model()
        self.ends = Ends(config, vocab_size)
        self.layers = layers_of(config, size.layers)
        self.predictor = Predictor(size.dim)
        draw_weights(self)

    def encode(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) int64 -> (B, T, D): the latents, the stream after the last layer."""
        x = self.ends.embed(tokens)
        return run(self.layers, x, self.ends.shared(x))

    def nll(self, tokens: Tensor) -> Tensor:
        """See :meth:`Idea.nll`: the baseline's."""
        return self.ends.nll(self.encode(tokens[:, :-1]), tokens[:, 1:])

    def loss(self, tokens: Tensor) -> Tensor:
        """See :meth:`Idea.loss`; rows of :data:`AHEAD` inputs or fewer have no later latent, hence no term."""
        x = self.encode(tokens[:, :-1])
        loss = self.ends.nll(x, tokens[:, 1:]).mean()
        latents = rms_norm(x.float())
        if latents.shape[1] <= AHEAD:
            return loss
        error = prediction_error(self.predictor(latents[:, :-AHEAD]), latents[:, AHEAD:].detach())
        return loss + WEIGHT * error + SAFEGUARD * collapse(latents)

    def shipped(self) -> dict[str, nn.Parameter]:
        """See :meth:`Idea.shipped`: the predictor stays behind."""
        return {name: param for name, param in self.named_parameters() if not name.startswith("predictor.")}


class Predictor(nn.Module):
    """Latents (…, D) -> predicted latents (…, D), by one hidden layer of 2 D units."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up, self.down = Linear(dim, 2 * dim), Linear(2 * dim, dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Predict."""
        return self.down(F.gelu(self.up(latents)))


def prediction_error(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of predicted and target (…, D), averaged: 0-d, 0 to 2."""
    return 1.0 - F.cosine_similarity(predicted.float(), target, dim=-1).mean()


def collapse(latents: Tensor) -> Tensor:
    """How far channels fall short of the spread that they must keep: 0-d, 0 to 1.

    ``mean over channels of max(0, 1 - std / SPREAD)``, the deviation taken over all positions of latents (B, T, D).
    """
    variance = latents.flatten(0, -2).var(dim=0)
    return F.relu(1.0 - torch.sqrt(variance + 1e-6) / SPREAD).mean()
