"""Low-rank adapters (LoRA, Hu et al. 2021), a set for each row: what is learnt of a document stays with it.

``y += (x A) (alpha / rank) B`` with A (in, rank) drawn once for all documents and B (rank, out) zero: at first
nothing is added. Both are fp32, whatever the activations are, and learn by AdamW.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from golf.model.linear import Adapters
from golf.params.eval import Eval
from golf.scoring.state import summaries

BETAS = (0.0, 0.99)  # no momentum, as in the 1.0611 record: a document has few steps
EPSILON = 1e-4  # the record 1e-10: then what hardly has a gradient moves as far as what has one


class RowAdapters:
    """Adapters of B rows and their optimizer.

    All matrices A of a row lie side by side in one tensor, all B in another: casts, the scale and AdamW are then one
    launch each on a GPU, and not one for each of a hundred matrices.

    Args:
        model: any module that names the shapes of its matrices, as
            :meth:`golf.model.transformer.Transformer.adapter_shapes` does. They are on its device.
        config: the eval section; of the matrices, those that ``lora_targets`` names are adapted.
        rows: B.
    """

    def __init__(self, model: nn.Module, config: Eval, rows: int) -> None:
        shapes: Mapping[str, tuple[int, int]] = getattr(model, "adapter_shapes")()  # noqa: B009
        device, self.config = next(model.parameters()).device, config
        self.dtype: torch.dtype = getattr(model, "compute_dtype", torch.float32)  # of what they are multiplied with
        self.shapes = {name: shapes[name] for name in shapes if kind(name) in config.lora_targets}
        generator, rank, drawn, up = torch.Generator().manual_seed(0), config.lora_rank, [torch.empty(0)], 0
        for out_features, in_features in self.shapes.values():
            bound = 1.0 / math.sqrt(in_features)
            drawn.append(torch.empty(in_features * rank).uniform_(-bound, bound, generator=generator))
            up += rank * out_features
        self.drawn = torch.cat(drawn).to(device)
        self.values = [self.drawn.repeat(rows, 1), torch.zeros(rows, up, device=device)]
        self.second = [torch.zeros_like(value) for value in self.values]
        self.steps = torch.zeros((), device=device)
        self.keep(rows)

    @torch.no_grad()
    def forget(self) -> None:
        """Begin anew, in the same memory."""
        down, up = self.values
        down.copy_(self.drawn)  # for each row
        torch._foreach_zero_([up, *self.second, self.steps])

    def keep(self, rows: int) -> None:
        """Go on with the first ``rows`` rows alone."""
        self.values = [value.detach()[:rows].requires_grad_() for value in self.values]
        self.second = [value[:rows] for value in self.second]

    def adapters(self) -> Adapters:
        """For the forward pass over x (B, T, in)."""
        rank = self.config.lora_rank
        downs = self.values[0].to(self.dtype).split([into * rank for _, into in self.shapes.values()], 1)
        ups = (self.values[1] * (self.config.lora_alpha / rank)).to(self.dtype)
        pairs = zip(downs, ups.split([rank * out for out, _ in self.shapes.values()], 1), strict=True)
        return {
            name: partial(_added, down.unflatten(1, (-1, rank)), up.unflatten(1, (rank, -1)))
            for name, (down, up) in zip(self.shapes, pairs, strict=True)
        }

    def learn(self, nll: Tensor) -> None:
        """One step of each row on the mean of its nll (B, T): a row's gradient is its own document's alone.

        Without momentum the first moment is the gradient, in whose memory AdamW may keep it.
        """
        gradients = list(torch.autograd.grad(nll.mean(1).sum(), self.values))
        self.steps += 1
        with torch.no_grad():
            torch._fused_adamw_(
                self.values, gradients, gradients, self.second, [], [self.steps] * len(self.values),
                lr=self.config.lora_lr, beta1=BETAS[0], beta2=BETAS[1], weight_decay=self.config.lora_weight_decay,
                eps=EPSILON, amsgrad=False, maximize=False,
            )  # fmt: skip

    def digests(self, base: str) -> list[str]:
        """Of each row, of all that it has learnt, of its optimizer's state, and of ``base``."""
        steps = base.encode() + self.steps.cpu().numpy().tobytes()
        parts = [summaries(value.detach()) for value in (*self.values, *self.second)]
        return [hashlib.sha256(b"".join((steps, *row))).hexdigest()[:32] for row in zip(*parts, strict=True)]


def _added(down: Tensor, up: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(x, down), up)


def kind(name: str) -> str:
    """``query`` of ``blocks.3.attention.query@1``."""
    return name.partition("@")[0].rpartition(".")[2]
