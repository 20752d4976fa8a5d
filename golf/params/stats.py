"""The significance test."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section


@dataclass(frozen=True)
class Stats(Section):
    """One-sided Welch test of the seeds against a baseline, without and with a margin."""

    SECTION: ClassVar[str] = "stats"

    baseline: str = "golf/stats/baselines/naive-baseline.json"  # seed values and bytes a token
    alpha: float = 0.01  # level of the test
    margin_nats: float = 0.005  # a record must win by this many nats a token

    def __post_init__(self) -> None:
        self.require(0 < self.alpha < 1, "alpha", "between 0 and 1", 0.01)
        self.require(self.margin_nats >= 0, "margin_nats", "0 or more", 0.005)
