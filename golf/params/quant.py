"""Post-training quantisation."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from golf.params.base import MOST_CLIP, Section

TERNARY_CLIP = 6.0  # standard deviations: the step itself with 2 bits, and half of it rounds to 0


@dataclass(frozen=True)
class Quant(Section):
    """Full-Hessian GPTQ; the step of a row is clip_sigma * std(row) / (2^(bits-1) - 1).

    Late QAT (train.qat_*) trains on that grid. With steps by column or ``method: trellis`` another one ships, of the
    same step sizes on average: what training has seen is then a stand-in for it, close in size and not in place.
    """

    SECTION: ClassVar[str] = "quant"

    bits: int = 6  # width of the matrices: 5 is smaller and coarser; 2 is ternary, with a clip_sigma of about 1.6
    embed_bits: int = 8  # width of the embeddings
    bits_of: dict[str, int] | None = None  # widths of tensors apart, by a part of their names: mlp.down: 5; null: none
    method: Literal["gptq", "trellis"] = "gptq"  # trellis: about 1 dB finer at equal bytes, slower
    trellis_states: int = 8  # of that trellis: 4, 8, 16 or 32
    steps: Literal["row", "column", "curvature"] = "row"  # column: finer where the inputs weigh most, needs a coder
    # by column; curvature: that, and finer in the tensors that the loss depends on most, for a backward pass more
    fit: bool = False  # all steps times what makes code and model land on budget.artifact_bytes
    clip_sigma: float = 12.85  # clip of the matrices, in standard deviations of a row
    embed_clip_sigma: float = 12.85  # of the embeddings; late QAT trained on this grid (train.qat_embed_clip_sigma)
    calibration: Literal["train", "self"] = "train"  # text of the Hessians; self: the model's own, which is no data
    calibration_tokens: int = 32768  # tokens of that text; of its own a model writes 131072 at most
    seq_len: int = 256  # tokens of a window of that text
    heldout_tokens: int = 8192  # held-out training tokens that bpb before and after is reported on
    damping: float = 0.01  # of the mean diagonal, added to the Hessian; grows when Cholesky fails
    block_size: int = 128  # columns quantised between two updates of the rest

    def __post_init__(self) -> None:
        self.require(2 <= self.bits <= 8, "bits", "2 to 8", 6)
        self.require(2 <= self.embed_bits <= 8, "embed_bits", "2 to 8", 7)
        for part, width in (self.bits_of or {}).items():
            self.require(2 <= width <= 8, "bits_of", f"2 to 8 for {part}", f"'{{{part}: 5}}'")
        zeros = self.bits == 2 and not self.fit and self.clip_sigma > TERNARY_CLIP
        self.require(not zeros, "clip_sigma", f"at most {TERNARY_CLIP} with 2 bits: -1, 0, 1; beyond it all are 0", 1.6)
        self.require(self.trellis_states in (4, 8, 16, 32), "trellis_states", "4, 8, 16 or 32", 8)
        for key in ("clip_sigma", "embed_clip_sigma"):
            self.require(0 < getattr(self, key) <= MOST_CLIP, key, f"above 0, at most {MOST_CLIP}", 12.85)
        self.require(self.damping > 0, "damping", "above 0", 0.01)
        for key, least in {"calibration_tokens": 256, "seq_len": 16, "heldout_tokens": 256, "block_size": 1}.items():
            self.require(getattr(self, key) >= least, key, f"at least {least}", 512)
        tokens = self.calibration_tokens
        self.require(self.seq_len <= tokens, "seq_len", f"at most calibration_tokens ({tokens})", tokens)

    def own_bits(self, name: str) -> int | None:
        """The width that ``bits_of`` gives the tensor ``name``: of the keys that are a part of it the longest decides.

        A part is whole names between dots: ``mlp``, ``mlp.down`` and ``blocks.0`` of ``blocks.0.mlp.down.weight``.
        """
        keys = [key for key in self.bits_of or {} if f".{key}." in f".{name}."]
        return self.bits_of[max(keys, key=len)] if self.bits_of and keys else None
