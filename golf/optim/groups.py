"""Which tensor is optimised how: Muon for matrices, AdamW for embeddings and for everything small."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from golf.model.transformer import Transformer
from golf.model.weights import check_shapes, tensor_groups
from golf.optim.adamw import AdamW
from golf.optim.exchange import Peers, Replicated
from golf.optim.muon import Muon
from golf.optim.schedule import decay_scale
from golf.params.optim import Optim


class Optimizer:
    """The model's three groups behind one ``step``, which averages the gradients over ranks and clips them.

    Args:
        model: whose parameters are optimised, in place.
        config: the section ``optim``.
        peers: the other ranks, each with gradients of its own part of the batch; None, or one rank: there are none.
        compiled: whether Newton-Schulz goes through ``torch.compile``.
    """

    def __init__(
        self, model: Transformer, config: Optim, peers: Peers | None = None, *, compiled: bool = False
    ) -> None:
        self.config = config
        self._peers = peers if peers is not None and peers.count > 1 else None
        members: dict[str, dict[str, nn.Parameter]] = {"matrix": {}, "embed": {}, "control": {}}
        groups = tensor_groups(model)
        for name, param in model.named_parameters():
            members[groups[name]][name] = param
        self.params = [param for group in members.values() for param in group.values()]
        self.muon = Muon(
            members["matrix"],
            lr=config.matrix_lr,
            weight_decay=config.muon_weight_decay,
            steps=config.newton_schulz_steps,
            coefficients=config.newton_schulz,
            row_normalize=config.row_normalize,
            peers=self._peers,
            compiled=compiled,
        )
        self.embed, self.control = (
            AdamW(members[group], lr=lr, betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=weight_decay)
            for group, lr, weight_decay in (
                ("embed", config.embed_lr, config.embed_weight_decay),
                ("control", config.scalar_lr, config.scalar_weight_decay),
            )
        )
        self._replicated = Replicated([*members["embed"].values(), *members["control"].values()], self._peers)

    @torch.no_grad()
    def step(self, lr_scale: float, step: int, progress: float = 0.0, *, want_norm: bool = True) -> Tensor | None:
        """Apply the mean of the ranks' gradients. Nothing here waits for the device; the gradients are used up.

        Matrices go out first, largest bank first, and come back orthogonalised while AdamW has the rest. Clipping
        needs the norm of the whole, hence all sums, before anything else; without it (``grad_clip`` 0) each bank
        goes on as soon as its own has arrived.

        Args:
            lr_scale: multiplier of all peak learning rates, see :func:`golf.optim.schedule.lr_scale`.
            step: optimizer steps before this one; drives the rise of Muon's momentum.
            progress: share of the budget spent, 0 to 1; drives the taper of Muon's weight decay.
            want_norm: whether the norm is computed even if nothing is clipped.

        Returns:
            The norm of the mean gradient before clipping, 0-d; None when nobody needs it.
        """
        self.muon.collect()
        self._replicated.start()
        factor: Tensor | float | None = None if self._peers is None else 1.0 / self._peers.count
        norm = self._norm() if want_norm or self.config.grad_clip > 0 else None
        if norm is not None and self.config.grad_clip > 0:
            # Torch's own form of clipping allows for a 1e-6 in the denominator.
            factor = torch.clamp(self.config.grad_clip / (norm + 1e-6), max=1.0) * (factor or 1.0)
        self.muon.orthogonalize(muon_momentum(step, self.config), factor)
        replicated = self._replicated.sums()
        if factor is not None and replicated:
            torch._foreach_mul_(replicated, factor)
        self.embed.step(lr_scale)
        self.control.step(lr_scale)
        self.muon.apply(lr_scale, decay_scale(progress, self.config))
        return norm

    def _norm(self) -> Tensor:
        """Of the mean gradient, 0-d: each rank adds the squares of the matrices it owns to those of the rest."""
        square = _square(self.muon.gradients(), self.params[0])
        if self._peers is not None:
            self._peers.sum_(square).wait()
        square = square + _square(self._replicated.sums(), self.params[0])
        return square.sqrt() if self._peers is None else square.sqrt() / self._peers.count

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for param in self.params:
            param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state, flat: ``muon.NAME.momentum``, ``embed.NAME.mean``, ``control.steps``, …; not copied.

        A matrix's momentum lives on the rank that owns it: all ranks must call this, and each gets the whole.
        """
        return {
            f"{prefix}.{name}": value
            for prefix, part in self._parts().items()
            for name, value in part.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what this rank keeps of a state, which any number of ranks may have left.

        Raises:
            DataError: it is the state of another model's optimizer.
        """
        own = {f"{prefix}.{name}": s for prefix, part in self._parts().items() for name, s in part.shapes().items()}
        check_shapes("optimizer state", own, state)
        for prefix, part in self._parts().items():
            start = f"{prefix}."
            part.load_state_dict({name.removeprefix(start): v for name, v in state.items() if name.startswith(start)})

    def _parts(self) -> dict[str, Muon | AdamW]:
        return {"muon": self.muon, "embed": self.embed, "control": self.control}


def _square(tensors: list[Tensor], like: Tensor) -> Tensor:
    """The sum of the squares of all numbers, 0-d fp32."""
    if not tensors:
        return like.new_zeros(())
    return torch.stack(torch._foreach_norm(tensors)).square().sum()


def muon_momentum(step: int, config: Optim) -> float:
    """Muon's momentum: linear from ``muon_momentum_start`` to ``muon_momentum`` over ``muon_momentum_steps``."""
    share = min(1.0, step / config.muon_momentum_steps) if config.muon_momentum_steps else 1.0
    return config.muon_momentum_start + share * (config.muon_momentum - config.muon_momentum_start)


def build_optimizer(
    model: Transformer, config: Optim, peers: Peers | None = None, *, compiled: bool = False
) -> Optimizer:
    """The optimizer of ``model``; see :class:`Optimizer`."""
    return Optimizer(model, config, peers, compiled=compiled)
