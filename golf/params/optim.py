"""The optimizer: Muon for matrices, AdamW for the rest."""

from dataclasses import dataclass
from typing import ClassVar, Literal

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
    muon_wd_final: float = 1.0  # multiplier of muon_weight_decay at the end of the run
    wd_taper_share: float = 0.0  # last share of the run over which it falls to that
    newton_schulz: Literal["stock", "polar_express"] = "stock"  # one quintic again and again; one for each iteration
    newton_schulz_steps: int = 5
    row_normalize: bool = False  # divide each row of the update by its norm before Newton-Schulz
    embed_weight_decay: float = 0.04
    scalar_weight_decay: float = 0.04
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1.0e-8
    grad_clip: float = 0.3  # global norm, after reduction over ranks; 0: off

    def __post_init__(self) -> None:
        for key in ("matrix_lr", "embed_lr", "scalar_lr", "eps"):
            self.require(getattr(self, key) > 0, key, "above 0", 0.02)
        for key in ("muon_momentum", "muon_momentum_start", "beta1", "beta2"):
            self.require(0 <= getattr(self, key) < 1, key, "0 to 1", 0.95)
        decays = ("muon_weight_decay", "embed_weight_decay", "scalar_weight_decay")
        for key in (*decays, "muon_wd_final", "grad_clip", "muon_momentum_steps"):
            self.require(getattr(self, key) >= 0, key, "0 or more", 0)
        self.require(0 <= self.wd_taper_share <= 1, "wd_taper_share", "a share, 0 to 1", 0.3)
        self.require(1 <= self.newton_schulz_steps <= 12, "newton_schulz_steps", "1 to 12", 5)
