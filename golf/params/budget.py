"""The cap."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section


@dataclass(frozen=True)
class Budget(Section):
    """Decimal bytes, code and compressed weights together, the largest seed counting."""

    SECTION: ClassVar[str] = "budget"

    artifact_bytes: int = 16_000_000

    def __post_init__(self) -> None:
        self.require(self.artifact_bytes >= 1, "artifact_bytes", "at least 1", 16_000_000)
