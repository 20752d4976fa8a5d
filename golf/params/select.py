"""Which of the trained weights go on."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import MOST_CLIP, Section


@dataclass(frozen=True)
class Select(Section):
    """Candidates are scored after fast quantisation on held-out training text, never on validation."""

    SECTION: ClassVar[str] = "select"

    candidates: tuple[str, ...] = (
        "raw",
        "ema",
        "swa",
        "soup",
    )  # ema: every decay kept; soup: mean of the averages
    tokens: int = 16_384  # held-out tokens scored for each candidate
    seq_len: int = 256  # tokens of a window; the model's own training length is the fair one
    bits: int = 6  # width of the fast quantisation; its own knob, so that quant.bits reruns nothing before quantize
    clip_sigma: float = 12.85  # its clip, in standard deviations of a row
    embed_bits: int = 8  # both for the embeddings, as quant.embed_* will have it
    embed_clip_sigma: float = 12.85

    def __post_init__(self) -> None:
        known = {"raw", "ema", "swa", "soup"}
        self.require(
            bool(self.candidates) and set(self.candidates) <= known,
            "candidates",
            f"some of {sorted(known)}",
            "[raw]",
        )
        self.require(2 <= self.bits <= 7, "bits", "2 to 7", 6)
        self.require(2 <= self.embed_bits <= 8, "embed_bits", "2 to 8", 8)
        for key in ("clip_sigma", "embed_clip_sigma"):
            self.require(0 < getattr(self, key) <= MOST_CLIP, key, f"above 0, at most {MOST_CLIP}", 12.85)
        self.require(self.tokens >= 256, "tokens", "at least 256", 16_384)
        self.require(self.seq_len >= 16, "seq_len", "at least 16", 512)
