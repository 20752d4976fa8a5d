"""Where the text comes from."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from golf.params.base import Section


@dataclass(frozen=True)
class Data(Section):
    """Source of the corpus; see docs/data.md."""

    SECTION: ClassVar[str] = "data"

    source: Literal["docstrings", "jsonl", "text", "fineweb"] = "docstrings"
    path: str = "data/source/train"  # your files (jsonl, text), or a local mirror of the published data (fineweb)
    val_path: str = "data/source/val"  # validation documents or shards of your own; empty folder: split off
    max_documents: int = 0  # 0: all
    max_bytes: int = 8_000_000  # UTF-8 bytes of text; 0: all
    repo: str = "willdepueoai/parameter-golf"  # dataset on the Hugging Face hub
    revision: str = "main"  # commit of that dataset; a branch name is resolved once and written to the manifest
    variant: str = "sp1024"  # which published tokenization: fineweb10B_<variant>
    train_shards: int = 80  # how many of the published training shards

    def __post_init__(self) -> None:
        self.require(self.max_documents >= 0, "max_documents", "0 (all) or more", 2000)
        self.require(self.max_bytes >= 0, "max_bytes", "0 (all) or more", 8_000_000)
        self.require(self.train_shards >= 1, "train_shards", "at least 1", 80)
