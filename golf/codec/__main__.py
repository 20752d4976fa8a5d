"""How many bytes `compress` would make of a folder of quantised weights.

    python -m golf.codec runs/quantize/42

`quantize` asks this of a process of its own when it fits the budget: if it imported the codec it would depend on it,
and every edit of a coder would quantise again. The gate has the last word on the size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.codec.artifact import encode_arrays
from golf.params.base import load
from golf.params.compress import Compress
from golf.quant.stored import read_arrays
from golf.runtime.errors import run_main


def main() -> None:
    """Print the size."""
    parser = argparse.ArgumentParser(prog="python -m golf.codec", description="Bytes of an artifact.")
    parser.add_argument("folder", type=Path, help="with quantized.safetensors and model.json")
    metadata, arrays = read_arrays(parser.parse_args().folder)
    print(len(encode_arrays(metadata, arrays, load(Compress))[0]))


if __name__ == "__main__":
    run_main("codec", main)
