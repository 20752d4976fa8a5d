"""Muon: momentum whose update is orthogonalised, for the matrices of the model, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from golf.optim.exchange import Peers, Pending
from golf.optim.newton_schulz import Kind, newton_schulz, quintics

Orthogonalize = Callable[[Tensor], Tensor]  # (N, R, C) -> (N, R, C)


@dataclass
class Bank:
    """The matrices of one shape (R, C), as one batch through all of a step.

    Of N matrices on P ranks each owns K = ceil(N / P), in their order; the last ranks' may be zeros that stand for
    none. Only the owner has a matrix's momentum and orthogonalises its update.

    Attributes:
        params: the N matrices by name.
        momentum: (K, R, C), of the matrices that this rank owns.
        whole: (P K, R, C): the gradients of all, then the updates of all; None between steps.
        share: (K, R, C): the gradients, then the updates, of this rank's; alone it is ``whole``.
        pending: the exchange that fills ``share``, then ``whole``.
    """

    params: dict[str, nn.Parameter]
    momentum: Tensor
    whole: Tensor | None = None
    share: Tensor | None = None
    pending: Pending | None = None

    def wait(self) -> None:
        """For the exchange under way, if there is one."""
        if self.pending is not None:
            self.pending.wait()
            self.pending = None


class Muon:
    """Nesterov momentum, then :func:`golf.optim.newton_schulz.newton_schulz`, batched over matrices of one shape.

    ``m = mu * m + g; u = g + mu * m; w -= lr * (wd * w + sqrt(max(1, R / C)) * orthogonal(u))``

    A step is :meth:`collect`, :meth:`orthogonalize` and :meth:`apply`. Between them the exchange with the peers goes
    on while this rank computes; alone there is none, and the result is the same.

    Args:
        params: matrices (R, C) by name.
        lr: peak learning rate.
        weight_decay: decoupled, multiplied by the learning rate.
        steps: iterations of Newton-Schulz.
        coefficients: ``stock`` or ``polar_express``.
        row_normalize: divide each row of u by its norm first.
        peers: the other ranks; None: there are none.
        compiled: run Newton-Schulz through ``torch.compile``, one graph a shape, made at its first step.
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        steps: int = 5,
        coefficients: Kind = "stock",
        row_normalize: bool = False,
        peers: Peers | None = None,
        compiled: bool = False,
    ) -> None:
        self.params = dict(params)
        self.lr, self.weight_decay, self.peers = lr, weight_decay, peers
        self._orthogonal = _orthogonalize(steps, coefficients, row_normalize, compiled)
        shapes: dict[torch.Size, dict[str, nn.Parameter]] = {}
        for name, param in self.params.items():
            shapes.setdefault(param.shape, {})[name] = param
        ranks = 1 if peers is None else peers.count
        self.banks = [
            Bank(members, next(iter(members.values())).new_zeros(-(-len(members) // ranks), *shape))
            for shape, members in sorted(shapes.items(), key=lambda item: -len(item[1]) * item[0].numel())
        ]  # the largest first: its exchange takes longest

    @torch.no_grad()
    def collect(self) -> None:
        """Batch the gradients and start to sum them over ranks; a matrix without gradient counts as zero.

        Copying them together here moves less memory than accumulating into views of a batch would: backward hands a
        step's first gradient over without touching it, and the copy is what momentum is then added to.
        """
        for bank in self.banks:
            params = list(bank.params.values())
            gradients = [param.grad if param.grad is not None else torch.zeros_like(param) for param in params]
            if self.peers is None:
                bank.whole = bank.share = torch.stack(gradients)
                continue
            bank.share = torch.empty_like(bank.momentum)
            bank.whole = bank.share.new_empty(self.peers.count * len(bank.share), *bank.share.shape[1:])
            torch.stack(gradients, out=bank.whole[: len(gradients)])
            bank.whole[len(gradients) :].zero_()
            bank.pending = self.peers.sum_shares(bank.whole, bank.share)

    def gradients(self) -> list[Tensor]:
        """The sums over ranks of this rank's gradients, (K, R, C) a bank; waits for them."""
        for bank in self.banks:
            bank.wait()
        return [bank.share for bank in self.banks if bank.share is not None]

    @torch.no_grad()
    def orthogonalize(self, momentum: float, factor: Tensor | float | None = None) -> None:
        """Turn this rank's gradients, times ``factor``, into updates, and start to gather everybody's."""
        for bank in self.banks:
            bank.wait()
            assert bank.share is not None, "collect comes first"
            update = bank.share if factor is None else bank.share.mul_(factor)
            bank.momentum.mul_(momentum).add_(update)
            bank.share = bank.whole = self._orthogonal(update.add_(bank.momentum, alpha=momentum))
            if self.peers is not None:
                bank.share = bank.share.contiguous()
                bank.whole = bank.share.new_empty(self.peers.count * len(bank.share), *bank.share.shape[1:])
                bank.pending = self.peers.gather_shares(bank.share, bank.whole)

    @torch.no_grad()
    def apply(self, lr_scale: float, decay_scale: float = 1.0) -> None:
        """Decay all weights and take the updates off them, in the order in which they arrive.

        Args:
            lr_scale: multiplier of the learning rate.
            decay_scale: multiplier of the weight decay, beside that of the learning rate.
        """
        lr = self.lr * lr_scale
        for bank in self.banks:
            params: list[Tensor] = list(bank.params.values())
            torch._foreach_mul_(params, 1.0 - lr * self.weight_decay * decay_scale)
            bank.wait()
            assert bank.whole is not None, "orthogonalize comes first"
            updates = bank.whole[: len(params)].to(torch.float32, memory_format=torch.contiguous_format)
            _, rows, columns = updates.shape
            torch._foreach_add_(params, list(updates.unbind()), alpha=-lr * max(1.0, rows / columns) ** 0.5)
            bank.whole = bank.share = None

    def state_dict(self) -> dict[str, Tensor]:
        """The momentum of every matrix, as ``NAME.momentum``; with peers all must call it, and each gets all."""
        state: dict[str, Tensor] = {}
        for bank in self.banks:
            whole = bank.momentum
            if self.peers is not None:
                whole = whole.new_empty(self.peers.count * len(whole), *whole.shape[1:])
                self.peers.gather_shares(bank.momentum, whole).wait()
            state |= {f"{name}.momentum": whole[slot] for slot, name in enumerate(bank.params)}
        return {f"{name}.momentum": state[f"{name}.momentum"] for name in self.params}

    def shapes(self) -> dict[str, torch.Size]:
        """Of the tensors of :meth:`state_dict`; asks no peer."""
        return {f"{name}.momentum": param.shape for name, param in self.params.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy this rank's momenta in from the state of all; names and shapes must be those of :meth:`shapes`."""
        for name, momentum in self._owned():
            momentum.copy_(state[f"{name}.momentum"])

    def _owned(self) -> Iterator[tuple[str, Tensor]]:
        """Each matrix that this rank owns, and its momentum."""
        index = 0 if self.peers is None else self.peers.index
        for bank in self.banks:
            first = index * len(bank.momentum)
            yield from zip(list(bank.params)[first : first + len(bank.momentum)], bank.momentum, strict=False)


def _orthogonalize(steps: int, kind: Kind, row_normalize: bool, compiled: bool) -> Orthogonalize:
    coefficients = quintics(kind, steps)

    def orthogonalize(update: Tensor) -> Tensor:
        return newton_schulz(update, coefficients, row_normalize=row_normalize)

    return torch.compile(orthogonalize, dynamic=False, fullgraph=True) if compiled else orthogonalize
