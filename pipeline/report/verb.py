"""``fairway report``: gather, render, write, and tell what was left out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from golf.runtime.files import write_bytes
from pipeline.report.content import gather
from pipeline.report.page import render

TOLD = 5  # omissions that are printed; the page has all


def write(out: Path, records: Path | None, root: Path) -> list[str]:
    """Write the page to ``out``; lines that say what is in it.

    Raises:
        ConfigError: params.yaml is wrong.
        MissingInput, DataError: ``records`` was named and can't be read.
        FairwayError: the charts' packages aren't installed.
    """
    content = gather(root, records, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    text = render(content).encode()
    write_bytes(out, text)
    runs, entries = len(content["runs"].get("entry", [])), len(content["entries"].get("bpb", []))
    left_out = content["left_out"]
    lines = [f"{out}: {runs:,} runs, a leaderboard of {entries:,}, {len(text) / 1e6:.1f} MB"]
    lines += [f"left out: {one['what']}: {one['why']}" for one in left_out[:TOLD]]
    return [*lines, f"and {len(left_out) - TOLD} more, in the page"] if len(left_out) > TOLD else lines
