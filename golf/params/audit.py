"""How hard the evaluation is tested for legality."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section


@dataclass(frozen=True)
class Audit(Section):
    """A sample of the validation split is scored again and again with changes that must not matter."""

    SECTION: ClassVar[str] = "audit"

    tokens: int = 2048  # validation tokens of the sample
    positions: int = 3  # positions probed a check
    seed: int = 0  # of the random positions and replacements

    def __post_init__(self) -> None:
        self.require(self.tokens >= 64, "tokens", "at least 64", 6144)
        self.require(self.positions >= 1, "positions", "at least 1", 6)
        self.require(self.seed >= 0, "seed", "0 or more", 0)
