"""The training budget, its schedule and what is kept of the weights."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section


@dataclass(frozen=True)
class Train(Section):
    """The budget is part of the result: ``steps``, or ``gpus`` x ``seconds`` of wall clock when ``steps`` is 0."""

    SECTION: ClassVar[str] = "train"

    steps: int = 420  # optimizer steps; 0: the clock decides
    seconds: float = 600.0  # wall-clock budget on `gpus` GPUs; fewer GPUs stretch it in proportion
    gpus: int = 8
    reserve_seconds: float = 8.0  # of that budget, for calibration reads after the last step
    batch_tokens: int = 2048  # tokens an optimizer step, over all GPUs
    micro_batch_tokens: int = 2048  # tokens a forward pass on one GPU; the rest is accumulated
    seq_len: int = 256
    warmup_steps: int = 10  # linear learning-rate warm-up
    warmdown_share: float = 0.7  # last share of the run over which the learning rate falls
    min_lr: float = 0.02  # the learning rate at the end, as a share of the peak
    ema_decays: tuple[float, ...] = (0.98, 0.99)  # exponential averages kept side by side
    swa_share: float = 0.2  # last share of the run whose weights are averaged equally
    swa_every: int = 5  # steps between two of its snapshots
    qat_share: float = 0.15  # last share of the run with quantisation in the forward pass; 0: none
    qat_bits: int = 6  # width of that quantisation; embeddings have one bit more
    qat_clip_sigma: float = 12.85  # its clip, in standard deviations of a row: quant.clip_sigma is another knob
    log_every: int = 10  # steps
    checkpoint_seconds: float = 30.0  # between two checkpoints to resume from

    def __post_init__(self) -> None:
        self.require(self.steps >= 0, "steps", "0 (the clock decides) or more", 300)
        self.require(self.seconds > self.reserve_seconds >= 0, "seconds", "more than reserve_seconds", 600)
        self.require(self.gpus in (1, 2, 4, 8), "gpus", "1, 2, 4 or 8", 8)
        self.require(self.seq_len >= 16, "seq_len", "at least 16", 512)
        for key in ("batch_tokens", "micro_batch_tokens"):
            self.require(
                getattr(self, key) >= self.seq_len and getattr(self, key) % self.seq_len == 0,
                key, f"a multiple of seq_len ({self.seq_len})", 8 * self.seq_len,
            )  # fmt: skip
        self.require(
            self.batch_tokens % self.micro_batch_tokens == 0,
            "micro_batch_tokens", f"a divisor of batch_tokens ({self.batch_tokens})", self.batch_tokens,
        )  # fmt: skip
        for key in ("warmdown_share", "min_lr", "swa_share", "qat_share"):
            self.require(0 <= getattr(self, key) <= 1, key, "a share, 0 to 1", 0.1)
        self.require(all(0 < decay < 1 for decay in self.ema_decays), "ema_decays", "decays in (0, 1)", "[0.99]")
        self.require(len(set(self.ema_decays)) == len(self.ema_decays), "ema_decays", "distinct decays", "[0.98,0.99]")
        self.require(2 <= self.qat_bits <= 8, "qat_bits", "2 to 8", 6)
        self.require(self.qat_clip_sigma > 0, "qat_clip_sigma", "above 0", 12.85)
        for key in ("swa_every", "log_every"):
            self.require(getattr(self, key) >= 1, key, "at least 1", 10)
        self.require(self.warmup_steps >= 0, "warmup_steps", "0 or more", 10)
        self.require(self.checkpoint_seconds > 0, "checkpoint_seconds", "above 0", 30.0)
