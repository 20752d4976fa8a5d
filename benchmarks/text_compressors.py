"""The default model against general compressors on the same validation text, in bits per byte.

A compressor sees the validation text alone; the model has read the training text and must fit the artifact.
Both are divided by the same bytes: the normalised text that the tokens decode to.

    python -m benchmarks.text_compressors      # after `dvc repro`; writes benchmarks/results/text_compressors.json
"""

from __future__ import annotations

import lzma
from pathlib import Path

from golf.data.shards import read_split
from golf.params.base import load_seeds
from golf.runtime.errors import DataError, run_main
from golf.runtime.files import write_json
from golf.runtime.report import read_report, report_path

RESULT = Path("benchmarks/results/text_compressors.json")


def validation_text(shards: Path, tokenizer: Path, bos_id: int = 1) -> bytes:
    """The validation split as UTF-8: documents decoded one by one, joined by nothing."""
    import numpy as np
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    documents = np.split(tokens := read_split(shards, "val"), np.flatnonzero(tokens == bos_id)[1:])
    return "".join(processor.decode(document[1:].tolist()) for document in documents).encode()


def bits_per_byte(text: bytes) -> dict[str, float]:
    """Bits per byte of ``text`` under each compressor at its strongest setting."""
    import brotli
    import zstandard

    coded = {
        "brotli -q 11": brotli.compress(text, quality=11, lgwin=24),
        "xz -9e": lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
        "zstd -22 --ultra": zstandard.ZstdCompressor(level=22).compress(text),
    }
    return {name: 8 * len(blob) / len(text) for name, blob in coded.items()}


def main() -> None:
    """Print the table and write the result."""
    scores = {seed: read_report(report_path("evaluate", seed), f"evaluate@{seed}") for seed in load_seeds()}
    text = validation_text(Path("data/shards"), Path("data/tokenizer/tokenizer.model"))
    for seed, score in scores.items():
        if score["bytes"] != len(text):
            raise DataError(
                f"{report_path('evaluate', seed)}: found a score of {score['bytes']:,} bytes, needed the {len(text):,} "
                "of the validation text in data/shards",
                hint="dvc repro",
            )
    rows = bits_per_byte(text) | {f"fairway, seed {seed}": score["bpb"] for seed, score in scores.items()}
    for name, value in sorted(rows.items(), key=lambda row: row[1]):
        print(f"{name:24} {value:.4f}")
    write_json(RESULT, {"text_bytes": len(text), "bpb": {name: round(value, 5) for name, value in rows.items()}})


if __name__ == "__main__":
    run_main("text_compressors", main)
