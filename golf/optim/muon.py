"""Muon: momentum whose update is orthogonalised, for the matrices of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Quintic a*X + (b*XX' + c*(XX')^2)*X of Jordan's Muon; steep at 0, it brings singular values to about [0.7, 1.2].
A, B, C = 3.4445, -4.7750, 2.0315
NORM_EPS = 1e-7  # added to the norms that divide, as in the records


def newton_schulz(gradients: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """The nearest matrices with all singular values near 1: U V' of each G = U S V'.

    Args:
        gradients: (N, R, C), a batch of matrices of one shape.
        steps: iterations of the quintic.
        dtype: of the iteration; by default bf16 on a GPU, fp32 elsewhere.

    Returns:
        (N, R, C) in ``dtype``.
    """
    x = gradients.to(dtype or (torch.bfloat16 if gradients.is_cuda else torch.float32))
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + NORM_EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


class Muon:
    """Nesterov momentum, then :func:`newton_schulz`, batched over the matrices of one shape.

    ``m = mu * m + g; u = g + mu * m; w -= lr * (wd * w + sqrt(max(1, R / C)) * orthogonal(u))``

    Args:
        params: matrices (R, C) by name.
        lr: peak learning rate.
        weight_decay: decoupled, multiplied by the learning rate.
        newton_schulz_steps: iterations.
        row_normalize: divide each row of u by its norm first (MuonEq-R of the 1.0810 record).
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        newton_schulz_steps: int = 5,
        row_normalize: bool = False,
    ) -> None:
        self.params = dict(params)
        self.lr, self.weight_decay = lr, weight_decay
        self.newton_schulz_steps, self.row_normalize = newton_schulz_steps, row_normalize
        self.momentum = {name: torch.zeros_like(param) for name, param in self.params.items()}
        self._by_shape: dict[torch.Size, list[str]] = {}
        for name, param in self.params.items():
            self._by_shape.setdefault(param.shape, []).append(name)

    @torch.no_grad()
    def step(self, lr_scale: float, momentum: float) -> None:
        """Apply the gradients, already averaged over ranks; a matrix without gradient counts as zero."""
        for (rows, columns), names in self._by_shape.items():
            params: list[Tensor] = [self.params[name] for name in names]
            buffers = [self.momentum[name] for name in names]
            gradients = [param.grad if param.grad is not None else torch.zeros_like(param) for param in params]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            update = torch.stack(gradients).add_(torch.stack(buffers), alpha=momentum)
            if self.row_normalize:
                update /= torch.linalg.vector_norm(update, dim=2, keepdim=True) + NORM_EPS
            update = newton_schulz(update, self.newton_schulz_steps).float()
            lr = self.lr * lr_scale
            torch._foreach_mul_(params, 1.0 - lr * self.weight_decay)
            torch._foreach_add_(params, list(update.unbind()), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def state_dict(self) -> dict[str, Tensor]:
        """The momentum of each matrix, as ``NAME.momentum``."""
        return {f"{name}.momentum": buffer for name, buffer in self.momentum.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the momenta in; the names and shapes must be this optimizer's."""
        for name, buffer in self.momentum.items():
            buffer.copy_(state[f"{name}.momentum"])
