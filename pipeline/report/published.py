"""Published records for the page, as ``fairway records --json`` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from golf.records.record import CAP
from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import read_json
from pipeline.report.files import number
from pipeline.report.own import NAME, WHOLE_SPLIT, text_name

if TYPE_CHECKING:
    from pipeline.report.content import Omissions

KEPT = Path("logs/records.json")  # where the report looks when nothing is named
HOW = f"fairway records DIR --json {KEPT}"


def read(root: Path, place: Path | None, left_out: Omissions) -> Mapping[str, Any]:
    """The leaderboard of a checkout or of a JSON file; of ``KEPT`` if no place is named, empty if there is none.

    Raises:
        MissingInput: the named place doesn't exist.
        DataError: it is no leaderboard.
    """
    if place is None:
        if not (root / KEPT).exists():
            return {}
        try:
            return _file(root / KEPT)
        except (DataError, OSError) as error:
            left_out.add("published records", error)
            return {}
    if place.is_dir():
        from pipeline.campaign.published.leaderboard import as_json, read_checkout

        return as_json(read_checkout(place))
    if not place.is_file():
        raise MissingInput(f"{place}: no such checkout or file, needed published records", hint=HOW)
    return _file(place)


def entries(board: Mapping[str, Any], left_out: Omissions) -> list[dict[str, Any]]:
    """A line of the leaderboard for each published record."""
    found = []
    for place, row in enumerate(board.get("rows", []), 1):
        try:
            found.append(_entry(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = row.get("folder") if isinstance(row, dict) else None
            left_out.add(
                f"published record {name or place}", f"{type(error).__name__}: {error}, needed its form. Try: {HOW}"
            )
    failed = board.get("failed")
    for folder, reason in failed.items() if isinstance(failed, dict) else ():
        left_out.add(f"published record {folder}", reason)
    return found


def _file(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}", hint=HOW) from None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise DataError(f"{path}: found no rows, needed what fairway records writes", hint=HOW)
    return content


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    scores = [number(seed["bpb"]["value"]) for seed in row["seeds"]]
    size = row["sizes"]["logged"] or row["sizes"]["stated"]
    size_bytes = None if size is None else number(size["value"])
    findings = row["findings"]
    test = row["significance"]
    return {
        "origin": "published",
        "id": row["folder"],
        "name": str(row["name"])[:NAME],
        "author": str(row["author"])[:NAME],
        "time": _milliseconds(row["date"]),
        "bpb": number(row["mean"]),
        "std": stdev(scores) if len(scores) > 1 else None,
        "seeds": len(scores),
        "bytes": size_bytes,
        "legal": bool(row["legal"]),
        "fits": None if size_bytes is None else size_bytes <= CAP,
        "text": _text(row["text"]),
        "note": str(test["verdict"]) if test else "",
        "track": str(row["track"])[:NAME],
        "findings": "\n".join(f"{one['kind']}: {one['text']}" for one in findings),
    }


def _text(text: Mapping[str, Any] | None) -> str:
    """By what the leaderboard found it to be: implied bytes are known to a few bytes only."""
    if text is None:
        return "unknown text"
    return WHOLE_SPLIT if text["relation"] == "whole" else f"{text['relation']} {text_name(text['bytes']['value'])}"


def _milliseconds(date: str) -> int | None:
    try:
        return round(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp() * 1000) if date else None
    except ValueError:
        return None
