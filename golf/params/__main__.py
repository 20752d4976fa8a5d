"""Hold every section of params.yaml against its dataclass, and name the first thing wrong.

    python -m golf.params

`train` runs this before it spends an hour on weights that a later stage's bad parameter would waste.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from pathlib import Path

import golf.params
from golf.params.base import PARAMS_FILE, Section, load, load_seeds, read_document
from golf.params.stats import Stats
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import ConfigError, MissingInput, run_main
from golf.runtime.files import read_json

SHARDS = Path("data/shards/shards.json")


def sections() -> list[type[Section]]:
    """Every section there is, by the name of its module."""
    modules = [f"golf.params.{found.name}" for found in pkgutil.iter_modules(golf.params.__path__)]
    for name in sorted(modules):
        if not name.endswith(("base", "__main__")):
            importlib.import_module(name)
    return Section.__subclasses__()


def main() -> None:
    """Check all sections, that there are no others, the seeds, that the baseline exists, how the shards were made."""
    known = {section.SECTION for section in sections()}
    for name in read_document(PARAMS_FILE):
        if name not in known | {"seeds"}:
            raise ConfigError(f"{PARAMS_FILE}: unknown section {name!r}; known: {', '.join(sorted(known))}")
    checked = [load(section) for section in sections()]
    load_seeds()
    baseline = next(section.baseline for section in checked if isinstance(section, Stats))
    if not Path(baseline).is_file():
        raise MissingInput(f"stats.baseline: {baseline}: no such file", hint="ls golf/stats/baselines")
    transform = next(section.transform for section in checked if isinstance(section, Tokenizer))
    made = transform_of_shards(transform)
    if made != transform:
        raise ConfigError(
            f"tokenizer.transform: found {transform!r}, but {SHARDS} was made with {made!r}", hint="dvc repro tokenize"
        )
    print(f"params: {sum(len(fields(section)) for section in checked)} keys in {len(checked)} sections")  # type: ignore[arg-type, misc]


def transform_of_shards(otherwise: str) -> str:
    """What the shards were made with; ``otherwise`` where no index tells: a stage says what is wrong with that."""
    try:
        index = read_json(SHARDS)
    except (OSError, ValueError):
        return otherwise
    return index.get("transform", "none") if isinstance(index, dict) else otherwise


if __name__ == "__main__":
    run_main("params", main)
