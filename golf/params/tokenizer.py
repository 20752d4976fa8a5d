"""How text becomes tokens and shards."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from golf.params.base import Section


@dataclass(frozen=True)
class Tokenizer(Section):
    """SentencePiece BPE and the three splits: train, heldout (training text kept aside), val."""

    SECTION: ClassVar[str] = "tokenizer"

    model: str = "data/source/tokenizer"  # a .model file to reuse, or a folder; an empty folder: train one
    transform: Literal["none", "caseops"] = "none"  # caseops: capitals become markers before the words, losslessly
    vocab_size: int = 2048  # tokens; ignored when a model is reused
    train_bytes: int = 4_000_000  # bytes of training text that the BPE merges are learnt from
    val_share: float = 0.008  # share of documents split off for validation when there are none of your own
    heldout_share: float = 0.02  # share of training tokens kept aside: `select` scores on them
    shard_tokens: int = 100_000_000  # tokens a shard

    def __post_init__(self) -> None:
        self.require(260 <= self.vocab_size <= 65536, "vocab_size", "260 (bytes and controls) to 65536", 1024)
        self.require(self.train_bytes >= 10_000, "train_bytes", "at least 10000", 4_000_000)
        self.require(0 < self.val_share < 0.5, "val_share", "a share between 0 and 0.5", 0.03)
        self.require(0 < self.heldout_share < 0.5, "heldout_share", "a share between 0 and 0.5", 0.02)
        self.require(1024 <= self.shard_tokens < 2**31, "shard_tokens", "1024 to 2^31 - 1", 100_000_000)
