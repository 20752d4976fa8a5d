"""Which tensor is optimised how: Muon for matrices, AdamW for embeddings and for everything small."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from golf.model.transformer import Transformer
from golf.model.weights import tensor_groups
from golf.optim.adamw import AdamW
from golf.optim.muon import Muon
from golf.params.optim import Optim
from golf.runtime.errors import DataError


class Optimizer:
    """The model's three groups behind one ``step``. Gradients must be averaged over ranks before."""

    def __init__(self, model: Transformer, config: Optim) -> None:
        self.config = config
        members: dict[str, dict[str, nn.Parameter]] = {"matrix": {}, "embed": {}, "control": {}}
        groups = tensor_groups(model)
        for name, param in model.named_parameters():
            members[groups[name]][name] = param
        self.params = [param for group in members.values() for param in group.values()]
        self.muon = Muon(
            members["matrix"],
            lr=config.matrix_lr,
            weight_decay=config.muon_weight_decay,
            newton_schulz_steps=config.newton_schulz_steps,
            row_normalize=config.row_normalize,
        )
        self.embed, self.control = (
            AdamW(
                members[group],
                lr=lr,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                weight_decay=config.adam_weight_decay,
            )
            for group, lr in (("embed", config.embed_lr), ("control", config.scalar_lr))
        )

    def step(self, lr_scale: float, step: int) -> None:
        """Apply the gradients.

        Args:
            lr_scale: multiplier of all peak learning rates, see :func:`golf.optim.schedule.lr_scale`.
            step: optimizer steps before this one; drives the rise of Muon's momentum.
        """
        self.muon.step(lr_scale, muon_momentum(step, self.config))
        self.embed.step(lr_scale)
        self.control.step(lr_scale)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for param in self.params:
            param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state, flat: ``muon.NAME.momentum``, ``embed.NAME.mean``, ``control.steps``, …; not copied."""
        return {
            f"{prefix}.{name}": value
            for prefix, part in self._parts().items()
            for name, value in part.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state in.

        Raises:
            DataError: it is the state of another model's optimizer.
        """
        own = self.state_dict()
        shapes = {name: value.shape for name, value in own.items()}
        if shapes != {name: value.shape for name, value in state.items()}:
            wrong = next(
                name
                for name in [*own, *state]
                if name not in state or name not in own or state[name].shape != own[name].shape
            )
            raise DataError(f"optimizer state: {wrong} is missing, unknown or of another shape in the checkpoint")
        for prefix, part in self._parts().items():
            start = f"{prefix}."
            part.load_state_dict({name.removeprefix(start): v for name, v in state.items() if name.startswith(start)})

    def _parts(self) -> dict[str, Muon | AdamW]:
        return {"muon": self.muon, "embed": self.embed, "control": self.control}


def muon_momentum(step: int, config: Optim) -> float:
    """Muon's momentum: linear from ``muon_momentum_start`` to ``muon_momentum`` over ``muon_momentum_steps``."""
    share = min(1.0, step / config.muon_momentum_steps) if config.muon_momentum_steps else 1.0
    return config.muon_momentum_start + share * (config.muon_momentum - config.muon_momentum_start)


def build_optimizer(model: Transformer, config: Optim) -> Optimizer:
    """The optimizer of ``model``."""
    return Optimizer(model, config)
