"""The optimizer: Muon for matrices, AdamW for the rest."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section


@dataclass(frozen=True)
class Optim(Section):
    """Learning rates are peaks; the schedule's multiplier (train.warmdown_share, train.min_lr) applies to all."""

    SECTION: ClassVar[str] = "optim"

    matrix_lr: float = 0.015  # Muon: 2-D weights of the blocks
    embed_lr: float = 0.03  # AdamW: token, bigram and value embeddings
    scalar_lr: float = 0.025  # AdamW: gains, gates, mixes
    muon_momentum: float = 0.95
    muon_momentum_start: float = 0.85  # rises linearly to muon_momentum
    muon_momentum_steps: int = 100  # steps of that rise
    muon_weight_decay: float = 0.04
    newton_schulz_steps: int = 5
    row_normalize: bool = False  # divide each row of the update by its norm before Newton-Schulz
    adam_weight_decay: float = 0.04
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1.0e-8
    grad_clip: float = 0.3  # global norm, after reduction over ranks; 0: off

    def __post_init__(self) -> None:
        for key in ("matrix_lr", "embed_lr", "scalar_lr", "eps"):
            self.require(getattr(self, key) > 0, key, "above 0", 0.02)
        for key in ("muon_momentum", "muon_momentum_start", "beta1", "beta2"):
            self.require(0 <= getattr(self, key) < 1, key, "0 to 1", 0.95)
        for key in ("muon_weight_decay", "adam_weight_decay", "grad_clip", "muon_momentum_steps"):
            self.require(getattr(self, key) >= 0, key, "0 or more", 0)
        self.require(1 <= self.newton_schulz_steps <= 12, "newton_schulz_steps", "1 to 12", 5)
