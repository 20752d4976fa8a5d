"""The size of a submission by each convention in use for its code.

Code counted as it is logged (raw source at first, later a self-extracting wrapper that need not exist), as the folder
ships it, and as a wrapper of what is shipped. A submission may be under the cap by one and over it by another.
"""

from __future__ import annotations

import base64
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.campaign.published.logs import Log
from pipeline.campaign.published.sourced import LIMIT, Sourced

CODE = (".py", ".c", ".cc", ".cpp", ".cu", ".h")
STUB = 120  # bytes of the two lines that unpack and run a wrapped program


@dataclass(frozen=True)
class Sizes:
    """Bytes of the largest seed, None where nothing tells: ``stated`` by submission.json, ``logged`` by the log's total
    line, ``shipped``: model and code files as they lie in the folder, ``wrapped``: model and the same code, lzma'd
    and in base 85 with a stub of 120 bytes, not minified.
    """

    stated: Sourced | None
    logged: Sourced | None
    shipped: Sourced | None
    wrapped: Sourced | None


def sizes(
    folder: Path,
    top: Path,
    seeds: Sequence[tuple[Log | None, Sourced | None]],
    total: Sourced | None,
    logs: Sequence[Log],
) -> Sizes:
    """Sizes of a folder from its seeds' logs and their stated bytes; of all logs where no seed has one."""
    pairs = [(log, own or total) for log, own in seeds if log is not None] or [(log, total) for log in logs]
    logged = _largest([_total(log, own) for log, own in pairs])
    model = _largest([_model(log, own) for log, own in pairs])
    stated = _largest([total, *(own for _, own in seeds)])
    code = code_files(folder)
    if model is None or not code:
        return Sizes(stated, logged, None, None)
    raw = b"".join(path.read_bytes() for path in code)
    packed = len(base64.b85encode(lzma.compress(raw, preset=9))) + STUB
    where = " + ".join([model.source, *((path.relative_to(top) if path.is_relative_to(top) else path).as_posix()
                                        for path in code)])  # fmt: skip
    return Sizes(
        stated, logged, Sourced(model.value + len(raw), where), Sourced(model.value + packed, f"{where}, wrapped")
    )


def code_files(folder: Path) -> list[Path]:
    """The program and the code files of the folder that it names, those that only prepare data left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in CODE and path.is_file()]
    files = [path for path in files if path.stat().st_size <= LIMIT and not path.name.startswith("prepare")]
    programs = [path for path in files if path.name.startswith("train")]
    if not programs:
        return []
    entry = next((path for path in programs if path.name == "train_gpt.py"), programs[0])
    kept, pending = [entry], [entry]
    while pending:
        text = pending.pop().read_bytes().decode("utf-8", errors="replace")
        new = [path for path in files if path not in kept and path.stem in text]
        kept, pending = kept + new, pending + new
    return kept


def _total(log: Log, stated: Sourced | None) -> Sourced | None:
    """The total that is the stated one, else the last: a log may try several compressors."""
    same = [total for total in log.totals if stated and total.value == stated.value]
    return next(reversed(same or log.totals), None)


def _model(log: Log, stated: Sourced | None) -> Sourced | None:
    total = _total(log, stated)
    codes = [value for name in ("code_packed", "code_raw") if (value := log.value(name)) is not None]
    fits = [model for model in log.models if total and any(model.value + code == total.value for code in codes)]
    return next(reversed(fits or log.models), None)


def _largest(found: Sequence[Sourced | None]) -> Sourced | None:
    return max((value for value in found if value is not None), key=lambda value: value.value, default=None)
