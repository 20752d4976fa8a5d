"""What ``dvc plots show`` draws of all seeds together: loss curves, quantisation gap, bytes by stream; as CSV.

Each is a table in long form, a column ``seed`` first, so that one chart lays the seeds, and DVC's revisions, over each
other. Numbers are the files' own; nothing is smoothed or averaged here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from golf.records.reports import seed_numbers
from golf.runtime.errors import DataError, MissingInput
from golf.runtime.report import REPORTS

CURVES = REPORTS / "curves"
ARTIFACTS = Path("runs/compress")


def losses(seeds: Sequence[int]) -> str:
    """Columns seed, step, loss (nats a token of the training batches): ``reports/curves`` of ``seeds``.

    Raises:
        MissingInput: a seed's curve has not been made.
        DataError: it is no such table.
    """
    rows = []
    for seed in seeds:
        curve = _read(CURVES / f"{seed}.csv", ("step", "loss"), f"train@{seed}")
        rows += [[seed, row["step"], row["loss"]] for row in curve]
    return _table(["seed", "step", "loss"], rows)


def gaps(seeds: Sequence[int]) -> str:
    """Columns seed, pre_bpb, post_bpb, gap_bpb: of the model before and after quantisation, on held-out training text.

    Raises:
        MissingInput: a seed has not been quantised.
        DataError: its report lacks a number.
    """
    before, after = (seed_numbers("quantize", seeds, key) for key in ("pre_bpb", "post_bpb"))
    rows = [[seed, before[seed], after[seed], round(after[seed] - before[seed], 6)] for seed in seeds]
    return _table(["seed", "pre_bpb", "post_bpb", "gap_bpb"], rows)


def streams(seeds: Sequence[int]) -> str:
    """Columns seed, stream, codec, bytes; ``program`` and ``index`` beside the streams, so that a seed adds up.

    Raises:
        MissingInput: a seed's artifact has not been made or gated.
        DataError: its table or report is none.
    """
    code, model = (seed_numbers("gate", seeds, key) for key in ("code_bytes", "model_bytes"))
    rows: list[list[object]] = []
    for seed in seeds:
        found = _read(ARTIFACTS / str(seed) / "streams.csv", ("stream", "codec", "coded"), f"compress@{seed}")
        rows.append([seed, "program", "", int(code[seed])])
        rows += [[seed, row["stream"], row["codec"], int(row["coded"])] for row in found]
        rows.append([seed, "index", "", int(model[seed]) - sum(int(row["coded"]) for row in found)])
    return _table(["seed", "stream", "codec", "bytes"], rows)


def _read(path: Path, columns: Sequence[str], target: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise MissingInput(f"{path}: no such table, needed for the seeds asked for", hint=f"dvc repro {target}")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        if any(not row.get(column) for column in columns):
            raise DataError(
                f"{path}:{number}: found {dict(row)!r}, needed the columns {', '.join(columns)}",
                hint=f"dvc repro -f -s {target}",
            )
    return rows


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
