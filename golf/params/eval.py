"""How the artifact is scored on the validation split."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section

TTT = ("none", "sgd", "lora")
LORA_TARGETS = ("query", "key", "value", "output", "up", "down", "head")


@dataclass(frozen=True)
class Eval(Section):
    """Sliding windows, and score-first test-time training: on chunks of the stream, or on each document."""

    SECTION: ClassVar[str] = "eval"

    seq_len: int = 256  # tokens of context a window holds
    stride: int = 192  # tokens a window scores; the rest of it is context
    batch_windows: int = 16  # windows a forward pass
    ttt: str = "lora"  # none; sgd: all weights on chunks; lora: adapters for each document
    ttt_chunk_tokens: int = 2048  # tokens scored before they are trained on
    ttt_epochs: int = 1  # passes over a scored chunk
    ttt_lr: float = 0.005  # SGD, the same for every chunk: a schedule over the stream would depend on its end
    ttt_momentum: float = 0.9
    ttt_grad_clip: float = 1.0
    lora_rank: int = 16
    lora_alpha: float = 32.0  # the adapters' output times alpha / rank
    lora_targets: tuple[str, ...] = LORA_TARGETS  # matrices adapted
    lora_lr: float = 0.004  # AdamW
    lora_weight_decay: float = 0.5
    lora_documents: int = 64  # documents scored side by side
    lora_chunk_tokens: int = 32  # tokens of a document scored before they are learnt from
    lora_chunk_growth: float = 0.03  # later chunks hold this share of what stands before them
    phase_tokens: int = 0  # tokens scored before all weights are trained on them, too; 0: never
    order: str = "file"  # file; length: phases take the longest documents first, as no stream can be read: not legal
    tilt: bool = False  # towards what the stream said after the same words before
    budget_seconds: float = 600.0  # first line to last score; past it the adaptation stops, the scoring goes on

    def __post_init__(self) -> None:
        for key in ("batch_windows", "ttt_epochs", "lora_rank", "lora_documents"):
            self.require(getattr(self, key) >= 1, key, "at least 1", 1)
        usual = {"ttt_lr": 0.005, "ttt_grad_clip": 1.0, "lora_alpha": 32, "lora_lr": 0.004, "budget_seconds": 600}
        for key, example in usual.items():
            self.require(getattr(self, key) > 0, key, "above 0", example)
        for key in ("lora_weight_decay", "lora_chunk_growth", "phase_tokens"):
            self.require(getattr(self, key) >= 0, key, "0 or more", 0)
        self.require(self.seq_len >= 2, "seq_len", "at least 2", 512)
        self.require(1 <= self.stride <= self.seq_len, "stride", f"1 to seq_len ({self.seq_len})", 64)
        self.require(self.ttt in TTT, "ttt", f"one of {', '.join(TTT)}", "lora")
        self.require(self.ttt_chunk_tokens >= self.seq_len, "ttt_chunk_tokens", "at least seq_len", 32_768)
        self.require(0 <= self.ttt_momentum < 1, "ttt_momentum", "0 to 1", 0.9)
        unknown = set(self.lora_targets) - set(LORA_TARGETS)
        known = "one or more of " + ", ".join(LORA_TARGETS)
        self.require(bool(self.lora_targets) and not unknown, "lora_targets", known, "[query,value]")
        half = self.seq_len // 2
        needed = f"1 to half of seq_len ({half})"
        self.require(1 <= self.lora_chunk_tokens <= half or self.ttt != "lora", "lora_chunk_tokens", needed, half)
        phased = self.order == "length" and self.ttt == "lora" and self.phase_tokens > 0 and not self.tilt
        self.require(self.order == "file" or phased, "order", "file, or length with phases and no tilt", "file")
