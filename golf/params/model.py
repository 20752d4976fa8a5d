"""The transformer's shape and switches."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from golf.params.base import Section


@dataclass(frozen=True)
class Model(Section):
    """Every component can be switched off; docs/model.md says what each does and where it comes from."""

    SECTION: ClassVar[str] = "model"

    num_layers: int = 2
    dim: int = 96  # width of the residual stream
    num_heads: int = 2
    num_kv_heads: int = 1  # grouped-query attention: query heads share key/value heads
    mlp_ratio: float = 3.0  # hidden width of the MLP over dim
    activation: Literal["relu2", "leaky_relu2"] = "leaky_relu2"
    leaky_slope: float = 0.5  # slope of leaky_relu2 below zero, before squaring
    rope_dims: int = 16  # rotated dimensions of each head; the rest carries no position
    rope_base: float = 10_000.0
    qk_gain: float = 1.5  # initial per-head gain on normalised queries
    logit_softcap: float = 30.0  # logits are cap * tanh(logits / cap)
    embed_init_std: float = 0.005
    ln_scale: bool = True  # normalised inputs of layer i times 1/sqrt(i + 1)
    resid_mix: bool = True  # each block reads a learnt mix of the stream and the embedding
    unet_skips: Literal["none", "additive", "gated"] = "additive"
    xsa_layers: int = 2  # exclusive self-attention in the last n layers
    value_residual: bool = False  # values mixed with the first layer's
    value_embed_dim: int = 0  # width of the token-to-value table; 0: none
    value_embed_layers: int = 2  # the last n layers that read it
    smear_gate: bool = True  # embeddings mixed with the previous token's, never across a BOS
    bigram_buckets: int = 16384  # hashed bigram embeddings; 0: none
    bigram_dim: int = 64

    def __post_init__(self) -> None:
        for key in ("num_layers", "num_heads", "num_kv_heads"):
            self.require(getattr(self, key) >= 1, key, "at least 1", 1 if key == "num_kv_heads" else 4)
        self.require(self.dim >= 1, "dim", "at least 1", 128)
        self.require(self.dim % self.num_heads == 0, "dim", f"a multiple of num_heads ({self.num_heads})", 128)
        head = self.dim // self.num_heads
        self.require(head % 2 == 0, "dim", f"an even head width, not {head}", 128)
        self.require(self.num_heads % self.num_kv_heads == 0, "num_kv_heads", f"a divisor of {self.num_heads}", 1)
        self.require(self.mlp_ratio > 0, "mlp_ratio", "above 0", 3.0)
        self.require(0 <= self.leaky_slope < 1, "leaky_slope", "0 to 1", 0.5)
        self.require(
            self.rope_dims % 2 == 0 and 0 <= self.rope_dims <= head,
            "rope_dims",
            f"even, 0 to {head}",
            min(16, head),
        )
        self.require(self.rope_base > 1, "rope_base", "above 1", 10_000.0)
        self.require(self.logit_softcap > 0, "logit_softcap", "above 0", 30.0)
        self.require(self.embed_init_std > 0, "embed_init_std", "above 0", 0.005)
        self.require(0 <= self.xsa_layers <= self.num_layers, "xsa_layers", f"0 to {self.num_layers}", 0)
        self.require(self.value_embed_dim >= 0, "value_embed_dim", "0 (off) or more", 0)
        self.require(
            0 <= self.value_embed_layers <= self.num_layers,
            "value_embed_layers",
            f"0 to {self.num_layers}",
            1,
        )
        self.require(self.bigram_buckets == 0 or self.bigram_buckets >= 2, "bigram_buckets", "0 (off) or 2+", 0)
        self.require(self.bigram_dim >= 1, "bigram_dim", "at least 1", 64)
