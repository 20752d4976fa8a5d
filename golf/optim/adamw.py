"""AdamW over a group of tensors, in a few multi-tensor operations, with its state by name."""

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

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """Apply the gradients, already averaged over ranks; a tensor without gradient counts as zero."""
        if not self.params:
            return
        self.steps += 1
        params: list[Tensor] = list(self.params.values())
        means, squares = list(self.mean.values()), list(self.square.values())
        gradients = [param.grad if param.grad is not None else torch.zeros_like(param) for param in params]
        beta1, beta2 = self.betas
        torch._foreach_lerp_(means, gradients, 1.0 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - beta2)
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, (1.0 - beta2**self.steps) ** 0.5)
        torch._foreach_add_(scale, self.eps)
        lr = self.lr * lr_scale
        torch._foreach_mul_(params, 1.0 - lr * self.weight_decay)
        torch._foreach_addcdiv_(params, means, scale, -lr / (1.0 - beta1**self.steps))

    def state_dict(self) -> dict[str, Tensor]:
        """``NAME.mean`` and ``NAME.square`` of each tensor, and the count of steps."""
        state = {f"{name}.mean": value for name, value in self.mean.items()}
        state |= {f"{name}.square": value for name, value in self.square.items()}
        return state | {"steps": torch.tensor(self.steps)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the state in; the names and shapes must be this optimizer's."""
        for name in self.params:
            self.mean[name].copy_(state[f"{name}.mean"])
            self.square[name].copy_(state[f"{name}.square"])
        self.steps = int(state["steps"])
