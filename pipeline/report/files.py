"""What the verbs and the graph leave in files, for the page. A file that can't be read is left out by name."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf.runtime.errors import DataError
from golf.runtime.files import read_json
from pipeline.campaign import ablate
from pipeline.campaign.sweep import journal
from pipeline.campaign.sweep.verb import FOLDER as SWEEPS

if TYPE_CHECKING:
    from pipeline.report.content import Omissions

DOCTOR = Path("logs/doctor")
LOG = Path("docs/log.md")
_BROKEN = (KeyError, TypeError, ValueError, AttributeError)


def ledgers(root: Path, left_out: Omissions) -> list[dict[str, Any]]:
    """Every sweep: seconds and dollars, by stage. One that has no ledger yet is read from its journal."""
    found = list(_each(root, SWEEPS / "*.json", _ledger, left_out))
    ended = {one["sweep"] for one in found}
    for path in sorted((root / SWEEPS).glob("*.jsonl")):
        if path.stem in ended:
            continue
        try:
            found.append(_running(path))
        except (DataError, OSError, *_BROKEN) as error:
            left_out.add(str(path.relative_to(root)), _why(error))
    return found


def effects(root: Path, left_out: Omissions) -> list[dict[str, Any]]:
    """Every switch of every ablation: differences from its base, bits a byte, bytes and ms a step."""
    return [one for table in _each(root, ablate.FOLDER / "*.json", _effects, left_out) for one in table]


def machines(root: Path, left_out: Omissions) -> list[dict[str, Any]]:
    """What ``fairway doctor --json`` measured of each machine: TFLOP/s by device, by the data sheet, of attention."""
    return [one for table in _each(root, DOCTOR / "*.json", _machine, left_out) for one in table]


def streams(root: Path, seeds: Sequence[int], left_out: Omissions) -> list[dict[str, Any]]:
    """Bytes by stream of the workspace's artifacts, the program's own among them."""
    found: list[dict[str, Any]] = []
    for seed in seeds:
        path = root / "runs/compress" / str(seed) / "streams.csv"
        if not path.exists():
            continue
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [_stream(seed, row) for row in csv.DictReader(file)]
            gate = root / "reports/gate" / f"{seed}.json"
            sizes = _object(gate) if gate.is_file() else {}
            found += [*rows, *_rest(seed, rows, sizes)]
        except (OSError, csv.Error, *_BROKEN) as error:
            left_out.add(str(path.relative_to(root)), _why(error))
    return found


def findings_log(root: Path, left_out: Omissions) -> list[list[str]]:
    """The rows of docs/log.md: idea, measured, verdict."""
    path = root / LOG
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        left_out.add(str(LOG), _why(error))
        return []
    found = []
    for place, line in enumerate(lines, 1):
        if not line.startswith("|"):
            continue
        cells = _cells(line)
        if len(cells) == 3 and cells != ["idea", "measured", "verdict"] and set("".join(cells)) - set("-: "):
            found.append(cells)
        elif len(cells) != 3:
            left_out.add(f"{LOG}:{place}", f"found {len(cells)} cells, needed idea, measured and verdict")
    return found


def _cells(line: str) -> list[str]:
    """The cells of a row of Markdown; a bar that is escaped, or in a code span, is text."""
    found: list[str] = []
    text, code, place = "", False, 1
    while place < len(line):
        sign = line[place]
        if sign == "`":
            code = not code and "`" in line[place + 1 :]
        if sign == "\\" and line[place + 1 : place + 2] == "|":
            sign, place = "|", place + 1
        elif sign == "|" and not code:
            found, text, sign = [*found, text.strip()], "", ""
        text, place = text + sign, place + 1
    return found


def _each(root: Path, pattern: Path, read: Callable[[Path], Any], left_out: Omissions) -> Iterator[Any]:
    for path in sorted((root / pattern.parent).glob(pattern.name)):
        try:
            yield read(path)
        except (OSError, *_BROKEN) as error:
            left_out.add(str(path.relative_to(root)), _why(error))


def _ledger(path: Path) -> dict[str, Any]:
    content = _object(path)
    dollars = content["dollars"]
    return {
        "sweep": str(content["sweep"]), "stopped": str(content["stopped"]), "complete": bool(content["complete"]),
        "seconds": number(content["seconds"]), "dollars": None if dollars is None else number(dollars),
        "rest": None if content["rest_dollars"] is None else number(content["rest_dollars"]),
        "runs": len(content["runs"]), "failed": sum(one["failed"] is not None for one in content["runs"]),
        "stages": {str(stage): number(seconds) for stage, seconds in content["stages"].items()},
    }  # fmt: skip


def _running(path: Path) -> dict[str, Any]:
    """A sweep that runs, or was killed before it wrote its ledger."""
    state = journal.fold(journal.read(path))
    stages: dict[str, float] = {}
    for outcome in state.outcomes.values():
        for stage, seconds in outcome.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    priced = any(session.price for session in state.sessions)
    return {
        "sweep": path.stem, "stopped": f"not ended: {len(state.begun)} runs begun", "complete": False,
        "seconds": state.seconds, "dollars": state.dollars if priced else None, "rest": None,
        "runs": len(state.outcomes), "failed": sum(not one.done for one in state.outcomes.values()), "stages": stages,
    }  # fmt: skip


def _effects(path: Path) -> list[dict[str, Any]]:
    found = []
    for one in _object(path)["effects"]:
        ends = one["interval"]
        low, high = (None, None) if ends is None else (number(ends[0]), number(ends[1]))
        numbers = {key: _optional(one[key]) for key in ("difference", "before", "ms_per_step", "total_bytes")}
        texts = {key: str(one[key]) for key in ("switch", "basis", "verdict")}
        found.append({"table": path.stem, **texts, **numbers, "low": low, "high": high})
    return found


def _machine(path: Path) -> list[dict[str, Any]]:
    checks = {one["name"]: one for one in _object(path)["checks"]}
    facts = checks.get("attention", {}).get("facts", {})
    attention = max((number(row["tflops"]) for row in facts.get("rows", []) if "tflops" in row), default=None)
    devices = checks["products"]["facts"].get("devices")
    if not devices:
        raise ValueError(f"products: {checks['products']['found']}")
    return [
        {"machine": path.stem, "device": f"{place}: {device['name']}", "tflops": number(device["tflops"]),
         "peak": _optional(device.get("peak")), "attention": attention, "chosen": str(facts.get("chosen", ""))}
        for place, device in enumerate(devices)
    ]  # fmt: skip


def _stream(seed: int, row: Mapping[str, str]) -> dict[str, Any]:
    return {"seed": seed, "stream": row["stream"], "bytes": int(row["coded"]), "raw": int(row["raw"]),
            "codec": row["codec"]}  # fmt: skip


def _rest(seed: int, rows: list[dict[str, Any]], sizes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the submission holds beside the streams."""
    if "code_bytes" in sizes:
        yield {"seed": seed, "stream": "program", "bytes": int(sizes["code_bytes"]), "raw": None, "codec": "program"}
    if "model_bytes" in sizes:
        index = int(sizes["model_bytes"]) - sum(row["bytes"] for row in rows)
        yield {"seed": seed, "stream": "header and index", "bytes": index, "raw": None, "codec": "header"}


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"found {type(content).__name__}, needed an object")
    return content


def number(value: Any) -> float:
    """A finite number of a foreign file.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"found {value!r}, needed a number")
    return float(value)


def _optional(value: Any) -> float | None:
    return None if value is None else number(value)


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}: half-written, or of another program"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
