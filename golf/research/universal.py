"""A Universal Transformer: one layer, applied again and again, told by an embedding which step it is at.

Sharing weights over depth is the cheapest compression there is: the artifact holds the layer once however often it
runs, and a step costs the D numbers of its embedding.

Source: Dehghani et al., Universal Transformers (2018), https://arxiv.org/abs/1807.03819: one layer applied T times,
its input the state plus an embedding of the step.

What differs here: the embeddings are learnt instead of sinusoids, and positions are rotary in every attention instead
of added with them; every token takes the same number of steps (no adaptive halting, which would save computation and
no byte). The steps are as many as the baseline has layers, so both compute the same; the bytes that are saved are not
spent on width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golf.research.idea import Ends, Idea, Size, draw_weights, layers_of, run


class UniversalTransformer(Idea):
    """``size.layers`` steps ``x = layer(x + e_s)`` of one layer, e_s (D,) the embedding of step s."""

    def __init__(self, size: Size, vocab_size: int) -> None:
        super().__init__(size, vocab_size)
        config = size.model()
        self.ends = Ends(config, vocab_size)
        self.layers = layers_of(config, 1)
        self.step_embedding = nn.Parameter(torch.zeros(size.layers, size.dim))
        draw_weights(self)

    def nll(self, tokens: Tensor) -> Tensor:
        """See :meth:`Idea.nll`."""
        x = self.ends.embed(tokens[:, :-1])
        shared = self.ends.shared(x)
        for embedding in self.step_embedding:
            x = run(self.layers, x + embedding, shared)
        return self.ends.nll(x, tokens[:, 1:])
