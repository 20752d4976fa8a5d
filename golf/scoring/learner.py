"""What the scorers share: the ranks, the stream's checks, and a copy of the model that learns from scored chunks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from golf.data.vocabulary import check_ids
from golf.params.eval import Eval
from golf.runtime.errors import DataError
from golf.scoring.recorded import forward_of
from golf.scoring.state import digest

OnScored = Callable[[int], None]
"""Called with the number of targets that were just scored."""


class Beside(NamedTuple):
    """What is scored beside the targets, on the model's device: a hint for each, and room for its log-probability."""

    hints: Tensor
    scores: Tensor  # float64


def ranks() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def check_stream(model: nn.Module, tokens: Tensor, position: int = 1) -> None:
    """Refuse what has no target, is not of the model's vocabulary, or has no target at ``position``.

    Raises:
        DataError: so it is.
    """
    count, vocab_size = tokens.numel(), int(getattr(model, "vocab_size"))  # noqa: B009 - any module's
    if tokens.dim() != 1 or count < 2:
        raise DataError(f"a stream of shape {tuple(tokens.shape)} has no target: needed two tokens or more")
    check_ids(tokens, vocab_size, "stream")
    if not 1 <= position < count:
        raise DataError(f"position {position} is no target of a stream of {count} tokens")


def has_time(deadline: float, device: torch.device) -> bool:
    """Whether the clock of rank 0 stands before the ``deadline``: all ranks must decide the same."""
    if not dist.is_initialized():
        return time.monotonic() < deadline
    answer = torch.tensor([float(time.monotonic() < deadline)], device=device)
    dist.broadcast(answer, src=0)
    return bool(answer.item())


def meet(device: torch.device) -> float:
    """Wait until every rank is here, its device done; seconds of standing idle."""
    if not dist.is_initialized():
        return 0.0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    dist.barrier()
    return time.perf_counter() - start


def gather(scores: Tensor) -> Tensor:
    """Sum over ranks, on the CPU: each target was scored by one rank and is zero on the others."""
    if dist.is_initialized():
        dist.all_reduce(scores)
    return scores.cpu()


def refuse_infinite(scores: Tensor, start: int) -> None:
    """Refuse scores (N,) of the targets from ``start`` on that are not finite.

    Raises:
        DataError: there is one.
    """
    bad = ~torch.isfinite(scores)
    if bool(bad.any()):
        first = start + int(bad.nonzero()[0])
        raise DataError(
            f"the model gives no finite score at position {first}: NaN weights, or adaptation diverged",
            hint="dvc exp run -S eval.ttt=none",
        )


class Learner:
    """A copy of the model, adapted by SGD with momentum: ``m = mu * m + g; w -= lr * m``.

    torch.optim would import torch's compiler to do that: 1.5 s of every start of the program.
    """

    def __init__(self, model: nn.Module, config: Eval) -> None:
        self.config = config
        self.model = copy.deepcopy(model)
        self.parameters = [parameter.requires_grad_(True) for parameter in self.model.parameters()]
        self.momentum = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.forward = forward_of(self.model)
        self.waited = 0.0  # seconds for the other ranks

    def learn(self, tokens: Tensor) -> None:
        """``ttt_epochs`` steps on the mean loss of tokens[1:], given tokens (C+1,); gradients summed over ranks."""
        rank, count = ranks()
        length, targets = self.config.seq_len, tokens.numel() - 1
        pieces = [(start, min(start + length, targets)) for start in range(0, targets, length)]
        whole = [start for start, stop in pieces if stop - start == length]
        rows = self.config.batch_windows
        groups = [whole[index : index + rows] for index in range(0, len(whole), rows)]
        for _ in range(self.config.ttt_epochs):
            for group in groups:
                mine = group[rank::count]
                if mine:
                    batch = torch.stack([tokens[start : start + length + 1] for start in mine])
                    (self.forward(batch[:, :-1], batch[:, 1:]).sum() / targets).backward()
            if len(whole) < len(pieces) and rank == count - 1:  # a shorter piece at the end of the chunk
                rest = tokens[None, pieces[-1][0] :]
                (self.forward(rest[:, :-1], rest[:, 1:]).sum() / targets).backward()
            self._step(count)

    @torch.no_grad()
    def _step(self, count: int) -> None:
        """Apply the gradients, summed over ranks, and forget them."""
        gradients = [  # a rank without a piece has none
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        if count > 1:
            self.waited += meet(gradients[0].device)
            for gradient in gradients:
                dist.all_reduce(gradient)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, torch.clamp(self.config.ttt_grad_clip / (norm + 1e-6), max=1.0))
        torch._foreach_mul_(self.momentum, self.config.ttt_momentum)
        torch._foreach_add_(self.momentum, gradients)
        torch._foreach_add_(self.parameters, self.momentum, alpha=-self.config.ttt_lr)
        for parameter in self.parameters:
            parameter.grad = None

    def digest(self) -> str:
        """Digest of the weights and the momentum."""
        return digest(self.model, self.momentum)
