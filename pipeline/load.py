"""The machine's load while a seed's stages ran here, as :mod:`pipeline.sampler` wrote it down.

``track`` logs it under MLflow's own names, so that its page draws them as system metrics. A stage that DVC restored, or
that another machine ran at that hour, has none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from golf.runtime.place import top_folder

FOLDER = Path("logs/system")
MOST = 500  # lines a run; of more, evenly chosen ones


def during(root: Path, seed: int, spans: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """The lines in which one of ``seed``'s stages ran here, within its span of Unix seconds; ``MOST`` at most."""
    if not spans:
        return []
    begin, end = min(span[0] for span in spans.values()), max(span[1] for span in spans.values())
    days = {
        time.strftime("%Y-%m-%d", time.gmtime(begin + day * 86400)) for day in range(int((end - begin) / 86400) + 2)
    }
    found = []
    for day in sorted(days):
        path = top_folder(root) / FOLDER / f"{day}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            with suppress(ValueError, KeyError, TypeError):  # the line that a kill cut off
                one = json.loads(line)
                if any(f"{stage}@{seed}" in one["stages"] and a <= one["time"] <= b for stage, (a, b) in spans.items()):
                    found.append(one)
    return _thinned(found)


def _thinned(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    step = max(1, -(-len(lines) // MOST))
    return list(lines[::step])
