"""Where runs are recorded."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section


@dataclass(frozen=True)
class Tracking(Section):
    """MLflow; results never depend on it."""

    SECTION: ClassVar[str] = "tracking"

    uri: str = "sqlite:///mlflow.db"  # a relative SQLite path is taken from the repository's top folder
    experiment: str = "fairway"
    notify: str = ""  # where flows tell how they ended: a file, a webhook's URL, or @FILE that holds it; empty: none

    def __post_init__(self) -> None:
        self.require(bool(self.uri), "uri", "a tracking URI", "sqlite:///mlflow.db")
        self.require(bool(self.experiment), "experiment", "a name", "fairway")
