"""A result to beat: the values of its seeds, and what they were scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.runtime.errors import ConfigError, DataError, MissingInput
from golf.runtime.files import read_json
from golf.stats.units import nats_to_bpb

FINEWEB_VAL_BYTES = 151_080_363  # text bytes of the challenge's whole validation split, from the logs of its records
SAME_TEXT = 5e-4  # relative difference of byte totals within which two exports of one text differ

_KEYS = {"name", "metric", "values", "bytes_per_token", "val_bytes", "dataset", "source", "note"}
_METRICS = {"bpb": (0.0, 16.0), "nats": (0.0, 32.0)}


@dataclass(frozen=True)
class Baseline:
    """Values of seeds: ``metric`` "bpb" (bits a byte) or "nats" (natural-log loss a token); lower is better.

    ``bytes_per_token`` converts between the two on the text of ``val_bytes`` bytes that was scored.
    """

    name: str
    metric: str
    values: tuple[float, ...]
    bytes_per_token: float
    val_bytes: int
    dataset: str
    source: str
    note: str = ""

    @property
    def bpb(self) -> tuple[float, ...]:
        """The values in bits a byte."""
        if self.metric == "bpb":
            return self.values
        return tuple(nats_to_bpb(value, self.bytes_per_token) for value in self.values)


def load_baseline(path: Path | str) -> Baseline:
    """Read and check a baseline file.

    Raises:
        MissingInput: there is no such file.
        DataError: it is not JSON, or a key is unknown, missing or out of range.
    """
    path = Path(path)
    if not path.is_file():
        ready = ", ".join(file.stem for file in sorted((Path(__file__).parent / "baselines").glob("*.json")))
        raise MissingInput(
            f"stats.baseline: {path}: no such file; ready in golf/stats/baselines: {ready}",
            hint="dvc exp run -S stats.baseline=golf/stats/baselines/naive-baseline.json",
        )
    try:
        content = read_json(path)
    except ValueError as error:
        raise DataError(f"stats.baseline: {path}: not JSON: {error}", hint="see docs/statistics.md") from None
    return parse_baseline(content, str(path))


def parse_baseline(content: Any, where: str = "baseline") -> Baseline:
    """Check the content of a baseline file; see docs/statistics.md for the keys."""
    if not isinstance(content, dict):
        raise DataError(f"{where}: found {type(content).__name__}, needed an object with the keys {_names(_KEYS)}")
    unknown, missing = set(content) - _KEYS, _KEYS - {"note"} - set(content)
    if unknown or missing:
        found = f"unknown {_names(unknown)}" if unknown else f"{_names(missing)} missing"
        raise DataError(f"{where}: {found}; the keys are {_names(_KEYS)}")
    for key in ("name", "dataset", "source", "note"):
        if not isinstance(content.get(key, ""), str):
            raise DataError(f"{where}: {key}: found {content[key]!r}, needed text")
    if not content["name"]:
        raise DataError(f"{where}: name: found nothing, needed a name")
    if not isinstance(content["metric"], str) or content["metric"] not in _METRICS:
        raise DataError(f"{where}: metric: found {content['metric']!r}, needed one of {_names(set(_METRICS))}")
    low, high = _METRICS[content["metric"]]
    values = content["values"]
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: values: found {values!r}, needed a list of at least one number")
    numbers = tuple(_number(where, f"values[{i}]", value, low, high) for i, value in enumerate(values))
    if len(numbers) > 1 and len(set(numbers)) == 1:
        raise DataError(f"{where}: values: {len(numbers)} equal values, needed one a seed (seeds differ)")
    if type(content["val_bytes"]) is not int:
        raise DataError(f"{where}: val_bytes: found {content['val_bytes']!r}, needed a whole number")
    return Baseline(
        name=content["name"],
        metric=content["metric"],
        values=numbers,
        bytes_per_token=_number(where, "bytes_per_token", content["bytes_per_token"], 0.0, 64.0),
        val_bytes=int(_number(where, "val_bytes", content["val_bytes"], 0.0, 2.0**53)),
        dataset=content["dataset"],
        source=content["source"],
        note=content.get("note", ""),
    )


def text_relation(baseline: Baseline, val_bytes: int) -> str:
    """Whether ``val_bytes`` bytes of scored text are the baseline's: "same", "export" or "different".

    Byte totals tell texts apart because nobody meets another text's total within 0.05 % by accident.
    "export": both are the whole FineWeb validation split, of which an older export has another total.
    """
    if abs(val_bytes / baseline.val_bytes - 1.0) <= SAME_TEXT:
        return "same"
    if baseline.dataset == "fineweb-val" and abs(val_bytes / FINEWEB_VAL_BYTES - 1.0) <= SAME_TEXT:
        return "export"
    return "different"


def convert_margin(margin_nats: float, baseline: Baseline) -> float:
    """The margin in bits a byte, by the baseline's own bytes a token: a nat belongs to a tokenizer.

    Raises:
        ConfigError: the margin is negative.
    """
    if margin_nats < 0:
        raise ConfigError(f"stats.margin_nats: found {margin_nats!r}, needed 0 or more")
    return nats_to_bpb(margin_nats, baseline.bytes_per_token)


def _number(where: str, key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise DataError(f"{where}: {key}: found {value!r}, needed a number between {low:g} and {high:g}")
    return float(value)


def _names(keys: set[str]) -> str:
    return ", ".join(sorted(keys))
