"""Code the quantised weights into one artifact: the smallest of every codec and layout, stream by stream.

Reads ``runs/quantize/SEED``; writes ``runs/compress/SEED/model.golf`` (decoded again and compared before it is kept),
``streams.csv`` beside it with what each alternative would have cost, ``reports/compress/SEED.json``, and the table of
alternatives with their seconds, ``reports/timing/compress/SEED.csv``.

    python -m stages.compress --seed 42
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.codec.alternatives import alternatives
from golf.codec.artifact import encode_arrays, summary, table
from golf.params.base import load, read_seed
from golf.params.compress import Compress
from golf.quant.stored import read_arrays
from golf.runtime.errors import run_main
from golf.runtime.files import whole_directory, write_bytes
from golf.runtime.progress import Progress
from golf.runtime.report import Stopwatch, timing_path, write_report, write_timing


def main() -> None:
    """Compress one seed."""
    parser = argparse.ArgumentParser(prog="python -m stages.compress", description="Compress the quantised weights.")
    parser.add_argument("--seed", type=read_seed, required=True, help="which of runs/quantize to compress")
    seed = parser.parse_args().seed
    config = load(Compress)
    watch = Stopwatch()
    with watch.part("read"):
        metadata, arrays = read_arrays(Path("runs/quantize") / str(seed))
        raw_bytes = sum(array.nbytes for array in arrays.values())
    with watch.part("encode"), Progress("compress", raw_bytes) as progress:
        blob, reports = encode_arrays(metadata, arrays, config, progress.advance)
    with whole_directory(Path("runs/compress") / str(seed)) as folder:
        (folder / "model.golf").write_bytes(blob)
        (folder / "streams.csv").write_text(table(reports), encoding="utf-8")
    write_report("compress", {"seed": seed, **summary(blob, reports)}, seed=seed)
    write_bytes(timing_path("compress", seed).with_suffix(".csv"), alternatives(reports).encode())
    write_timing("compress", watch, seed=seed)


if __name__ == "__main__":
    run_main("compress", main)
