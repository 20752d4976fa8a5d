"""AdamW over a group of tensors, in one multi-tensor kernel, with its state by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AdamW:
    """Adam with bias correction and decoupled weight decay (Loshchilov & Hutter), state in fp32.

    ``m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g^2;``
    ``w -= lr * (wd * w + (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps))``
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        self.params = dict(params)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.steps = 0
        self.mean = {name: torch.zeros_like(param) for name, param in self.params.items()}
        self.square = {name: torch.zeros_like(param) for name, param in self.params.items()}
        self._counts = [param.new_zeros(()) for param in list(self.params.values())[:1]]  # on its device

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """Apply the gradients, already averaged over ranks; a tensor without gradient counts as zero."""
        if not self.params:
            return
        self.steps += 1
        params: list[Tensor] = list(self.params.values())
        torch._fused_adamw_(
            params,
            [param.grad if param.grad is not None else torch.zeros_like(param) for param in params],
            list(self.mean.values()),
            list(self.square.values()),
            [],
            [self._counts[0].fill_(self.steps)] * len(params),
            lr=self.lr * lr_scale,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """``NAME.mean`` and ``NAME.square`` of each tensor, and the count of steps."""
        state = {f"{name}.mean": value for name, value in self.mean.items()}
        state |= {f"{name}.square": value for name, value in self.square.items()}
        return state | {"steps": torch.tensor(self.steps)}

    def shapes(self) -> dict[str, torch.Size]:
        """Of the tensors of :meth:`state_dict`."""
        return {name: value.shape for name, value in self.state_dict().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the state in; the names and shapes must be this optimizer's."""
        for name in self.params:
            self.mean[name].copy_(state[f"{name}.mean"])
            self.square[name].copy_(state[f"{name}.square"])
        self.steps = int(state["steps"])
