"""The training budget, its schedule and what is kept of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from golf.params.base import MOST_CLIP, Section


@dataclass(frozen=True)
class Train(Section):
    """The budget is part of the result: ``steps``, or ``gpus`` x ``seconds`` of wall clock when ``steps`` is 0."""

    SECTION: ClassVar[str] = "train"

    steps: int = 420  # optimizer steps; 0: the clock decides
    seconds: float = 600.0  # wall-clock budget on `gpus` GPUs; fewer GPUs stretch it in proportion
    gpus: int = 8
    reserve_seconds: float | None = 8.0  # of that budget, for reads of training text after the last step, which are the
    # choice among weights and calibration; None: what they are measured to take before the clock starts
    batch_tokens: int = 2048  # tokens an optimizer step, over all GPUs
    micro_batch_tokens: int = 2048  # tokens a forward pass on one GPU; the rest is accumulated
    seq_len: int = 256
    pack: Literal["windows", "documents"] = "windows"  # documents: rows of micro_batch_tokens, attention within each
    seq_growth: tuple[tuple[float, int], ...] | None = None  # (until this share, length) before seq_len
    seq_ramp_steps: int = 0  # steps in which the learning rate rises from 0 again after each growth
    batch_growth: tuple[tuple[float, int], ...] | None = None  # (until this share, tokens a step) before batch_tokens
    loop_shares: tuple[float, ...] | None = None  # when the loop's extra passes begin: one for all, or one each
    warmup_steps: int = 10  # linear learning-rate warm-up
    warmdown_share: float = 0.7  # last share of the run over which the learning rate falls
    min_lr: float = 0.02  # the learning rate at the end, as a share of the peak
    ema_decays: tuple[float, ...] = (0.98, 0.99)  # exponential averages kept side by side
    swa_share: float = 0.2  # last share of the run whose weights are averaged equally
    swa_every: int = 5  # steps between two of its snapshots
    qat_share: float = 0.15  # last share of the run with quantisation in the forward pass; 0: none
    qat_bits: int = 6  # width of that quantisation, of the matrices; quant.bits, what ships, is another knob
    qat_clip_sigma: float = 12.85  # its clip, in standard deviations of a row
    qat_embed_bits: int = 8  # both for the embeddings
    qat_embed_clip_sigma: float = 12.85
    spike_nats: float = 0.0  # a loss so far above the running median ends the run; 0: only one that is no number
    log_every: int = 10  # steps
    checkpoint_seconds: float = 30.0  # between two checkpoints to resume from

    def __post_init__(self) -> None:
        self.require(self.steps >= 0, "steps", "0 (the clock decides) or more", 300)
        self.require(self.seconds > (self.reserve_seconds or 0) >= 0, "seconds", "more than reserve_seconds", 600)
        self.require(self.gpus in (1, 2, 4, 8), "gpus", "1, 2, 4 or 8", 8)
        self.require(self.seq_len >= 16, "seq_len", "at least 16", 512)
        for key in ("micro_batch_tokens", "batch_tokens"):
            tokens = getattr(self, key)
            self.require(tokens >= 16, key, "at least 16", 8 * self.seq_len)
            self.require(tokens >= self.seq_len, "seq_len", f"at most {key} ({tokens})", tokens)
            self.require(tokens % self.seq_len == 0, key, f"a multiple of seq_len ({self.seq_len})", 8 * self.seq_len)
        self.require(
            self.batch_tokens % self.micro_batch_tokens == 0,
            "micro_batch_tokens", f"a divisor of batch_tokens ({self.batch_tokens})", self.batch_tokens,
        )  # fmt: skip
        for key in ("warmdown_share", "min_lr", "swa_share", "qat_share"):
            self.require(0 <= getattr(self, key) <= 1, key, "a share, 0 to 1", 0.1)
        self.require(all(0 < decay < 1 for decay in self.ema_decays), "ema_decays", "decays in (0, 1)", "[0.99]")
        self.require(len(set(self.ema_decays)) == len(self.ema_decays), "ema_decays", "distinct decays", "[0.98,0.99]")
        for key in ("qat_bits", "qat_embed_bits"):
            self.require(2 <= getattr(self, key) <= 8, key, "2 to 8", 6)
        for key in ("qat_clip_sigma", "qat_embed_clip_sigma"):
            self.require(0 < getattr(self, key) <= MOST_CLIP, key, f"above 0, at most {MOST_CLIP}", 12.85)
        self._check_growth()
        for key in ("swa_every", "log_every"):
            self.require(getattr(self, key) >= 1, key, "at least 1", 10)
        for key in ("warmup_steps", "seq_ramp_steps", "spike_nats"):
            self.require(getattr(self, key) >= 0, key, "0 or more", 10)
        self.require(self.checkpoint_seconds > 0, "checkpoint_seconds", "above 0", 30.0)

    def _check_growth(self) -> None:
        """What changes along the run: shares that rise within (0, 1), sizes that rise and divide."""
        for key, final in (("seq_growth", self.seq_len), ("batch_growth", self.batch_tokens)):
            steps = getattr(self, key) or ()
            shares, sizes = [share for share, _ in steps], [size for _, size in steps]
            example = f"[[0.1,{final // 2}]]"
            self.require(_rising([0.0, *shares, 1.0]), key, "shares that rise between 0 and 1", example)
            self.require(_rising([0, *sizes, final]), key, f"sizes that rise to {final}", example)
        for _, length in self.seq_growth or ():
            divides = self.pack == "documents" or self.seq_len % length == 0
            needed = f"lengths of 16 or more that divide train.seq_len ({self.seq_len})"
            self.require(length >= 16 and divides, "seq_growth", needed, f"[[0.1,{self.seq_len // 2}]]")
        unit = self.micro_batch_tokens if self.pack == "documents" else self.seq_len
        for _, tokens in self.batch_growth or ():
            self.require(tokens % unit == 0, "batch_growth", f"multiples of {unit} tokens", f"[[0.1,{unit}]]")
        shares = list(self.loop_shares or ())
        self.require(_rising([0.0, *shares, 1.0]), "loop_shares", "shares that rise between 0 and 1", "[0.35]")


def _rising(values: Sequence[float]) -> bool:
    return all(low < high for low, high in pairwise(values))
