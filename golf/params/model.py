"""The transformer's shape and switches."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from golf.params.base import Section

MOST = 10_000  # of layers, heads, channels: the public records have 11, 8 and 512


@dataclass(frozen=True)
class Model(Section):
    """Every component can be switched off; docs/model.md says what each does and where it comes from."""

    SECTION: ClassVar[str] = "model"

    num_layers: int = 2
    dim: int = 96  # width of the residual stream
    num_heads: int = 2
    num_kv_heads: int = 1  # grouped-query attention: query heads share key/value heads
    mlp_ratio: float = 3.0  # hidden width of the MLP over dim
    activation: Literal["relu2", "leaky_relu2", "star_relu"] = "leaky_relu2"
    leaky_slope: float = 0.5  # slope of leaky_relu2 below zero, before squaring
    rope_dims: int = 16  # rotated dimensions of each head; the rest carries no position
    rope_base: float = 10_000.0
    rope_train_len: int = 0  # tokens; longer windows stretch the base by the NTK rule; 0: never
    qk_gain: float = 1.5  # initial per-head gain on normalised queries
    logit_softcap: float = 30.0  # logits are cap * tanh(logits / cap)
    softcap_kind: Literal["symmetric", "asymmetric"] = "symmetric"  # asymmetric: two learnt caps, by sign
    embed_init_std: float = 0.005
    ln_scale: bool = True  # normalised inputs of layer i times 1/sqrt(i + 1)
    resid_mix: bool = True  # each block reads a learnt mix of the stream and the embedding
    unet_skips: Literal["none", "additive", "gated"] = "additive"
    skip_binding: Literal["layer", "position"] = "layer"  # what a slot of skip weights stays with; position: published
    loop_first: int = 0  # first and last layer of the group that runs more than once
    loop_last: int = 0
    loop_passes: int = 1  # runs of that group; 1: no loop
    parallel: Literal["none", "one_lane", "two_lane"] = "none"  # attention and MLP side by side
    parallel_from: int = 0  # first layer of that
    xsa_layers: int = 2  # exclusive self-attention in the last n layers
    attention_gate: Literal["none", "double", "dense", "sparse"] = "none"  # factor on each head's output
    gate_inputs: int = 12  # leading channels that the double and sparse gate and the token smear read
    gate_scale: float = 0.5  # of the sparse gate's logits
    gate_init_std: float = 0.005  # of the dense gate
    document_mask: bool = False  # attention stops at the document's start
    value_residual: bool = False  # values mixed with the first layer's
    value_embed_dim: int = 0  # width of the token-to-value table; 0: none
    value_embed_layers: int = 2  # the last n layers that read it
    smear_gate: bool = True  # embeddings mixed with the previous token's, never across a BOS
    smear_kind: Literal["channel", "token"] = "channel"  # channel: a gate each; token: one, read off the embedding
    bos_mask: bool = True  # smear gate and bigrams stop at a BOS; false: published, they read the document before
    bigram_buckets: int = 16384  # hashed bigram embeddings; 0: none
    bigram_dim: int = 64

    def __post_init__(self) -> None:
        counts = {"num_layers": 4, "num_heads": 4, "num_kv_heads": 1, "loop_passes": 2, "dim": 128, "bigram_dim": 64}
        for key, count in counts.items():
            self.require(1 <= getattr(self, key) <= MOST, key, f"1 to {MOST}", count)
        for key, example in {"mlp_ratio": 3, "logit_softcap": 30, "embed_init_std": 0.005, "gate_scale": 0.5}.items():
            self.require(getattr(self, key) > 0, key, "above 0", example)
        for key in ("loop_passes", "mlp_ratio"):  # 16 times what the public records have
            self.require(getattr(self, key) <= 64, key, "at most 64", 3)
        for key in ("rope_train_len", "value_embed_dim", "gate_init_std"):
            self.require(getattr(self, key) >= 0, key, "0 or more", 0)
        head, fitting = self.dim // self.num_heads, 64 * self.num_heads
        self.require(self.dim % self.num_heads == 0, "dim", f"a multiple of num_heads ({self.num_heads})", fitting)
        self.require(head % 2 == 0, "dim", f"an even head width, not {head}", fitting)
        self.require(self.num_heads % self.num_kv_heads == 0, "num_kv_heads", f"a divisor of {self.num_heads}", 1)
        self.require(0 <= self.leaky_slope < 1, "leaky_slope", "0 to 1", 0.5)
        self.require(
            self.rope_dims % 2 == 0 and 0 <= self.rope_dims <= head,
            "rope_dims",
            f"even, 0 to {head}",
            min(16, head),
        )
        self.require(self.rope_base > 1, "rope_base", "above 1", 10_000.0)
        self.require(0 <= self.xsa_layers <= self.num_layers, "xsa_layers", f"0 to {self.num_layers}", 0)
        fits = not self.value_embed_dim or 0 <= self.value_embed_layers <= self.num_layers
        self.require(fits, "value_embed_layers", f"0 to {self.num_layers}", 1)
        self.require(self.bigram_buckets == 0 or self.bigram_buckets >= 2, "bigram_buckets", "0 (off) or 2+", 0)
        reads = self.attention_gate in ("double", "sparse") or (self.smear_gate and self.smear_kind == "token")
        fits = not reads or 1 <= self.gate_inputs <= self.dim
        self.require(fits, "gate_inputs", f"1 to dim ({self.dim})", min(12, self.dim))
        self._check_depth()

    def _check_depth(self) -> None:
        last = self.num_layers - 1
        self.require(0 <= self.loop_last <= last, "loop_last", f"0 to {last}", last)
        self.require(0 <= self.loop_first <= self.loop_last, "loop_first", f"0 to loop_last ({self.loop_last})", 0)
        self.require(0 <= self.parallel_from <= last, "parallel_from", f"0 to {last}", last)
        splits = self.loop_passes > 1 and self.loop_first < self.parallel_from <= self.loop_last
        self.require(
            not (self.parallel == "two_lane" and splits),
            "parallel_from",
            f"two lanes that begin before or behind the loop, not at {self.loop_first + 1} to {self.loop_last}",
            min(self.loop_last + 1, last),
        )
