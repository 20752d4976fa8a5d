"""Our entropy coder beside the alternatives on the same integers: bytes over order-0 entropy, seconds both ways.

    python -m benchmarks.codec                        # 36 M synthetic weights of the record's shapes, int6
    python -m benchmarks.codec --weights MODEL.ptz    # a published int8 model, quantised to 6 bits by row
    python -m benchmarks.codec --quick                # the ninth part, for a look

Writes benchmarks/results/codec-NAME.json. Seconds are of one thread's processor, so that another process on the machine
doesn't count. ``rans`` is the whole stream: tables, states and words, less what its lanes carry; the others code each
matrix on its own, column-major where that says so. ``best`` is what the container would keep of
all of them, matrix by matrix.
"""

from __future__ import annotations

import argparse
import io
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from golf.codec.codecs import decode, encode
from golf.codec.joint import choose, join, measure_groups
from golf.codec.lanes import CARRIED, read
from golf.codec.streams import entropy_bytes, lay, spec_of
from golf.runtime.errors import DataError, run_main
from golf.runtime.files import write_json

RESULTS = Path("benchmarks/results")
BITS, CLIP_SIGMA = 6, 12.85
LAYERS, DIM, KV_DIM, HIDDEN, VOCABULARY = 11, 512, 256, 2048, 8192
Arrays = dict[str, np.ndarray]


def synthetic(layers: int, vocabulary: int, seed: int = 0) -> Arrays:
    """Gaussian weights with lognormal deviations of rows and of columns (12 %), quantised by row as the model is."""
    random = np.random.default_rng(seed)
    shapes = {"q": (DIM, DIM), "k": (KV_DIM, DIM), "v": (KV_DIM, DIM), "o": (DIM, DIM)}
    shapes |= {"up": (HIDDEN, DIM), "down": (DIM, HIDDEN)}
    matrices = {f"blocks.{i}.{name}": shape for i in range(layers) for name, shape in shapes.items()}
    limit = 2 ** (BITS - 1) - 1
    arrays = {}
    for name, (rows, columns) in (matrices | {"embed": (vocabulary, DIM)}).items():
        spread = np.exp(0.12 * random.standard_normal((rows, 1))) * np.exp(0.12 * random.standard_normal(columns))
        weight = random.standard_normal((rows, columns), np.float32) * spread
        steps = CLIP_SIGMA / limit * weight.std(axis=1, keepdims=True)
        arrays[name] = np.clip(np.rint(weight / steps), -limit, limit).astype(np.int8)
    return arrays


def published(path: Path) -> Arrays:
    """The matrices of a zlib-packed checkpoint with ``quantized`` (int8) and ``scales`` (a row), to 6 bits by row."""
    import torch

    from golf.quant.fast import round_to_nearest

    content = torch.load(io.BytesIO(zlib.decompress(path.read_bytes())), weights_only=True)
    if not {"quantized", "scales"} <= content.keys():
        raise DataError(f"{path}: found {sorted(content)}, needed quantized and scales")
    weights = {
        name: codes.float() * content["scales"][name].float()[:, None] for name, codes in content["quantized"].items()
    }
    return {
        name: round_to_nearest(weight, BITS, CLIP_SIGMA, name=name).codes.numpy() for name, weight in weights.items()
    }


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The call's result and its processor seconds."""
    start = time.thread_time()
    return call(*arguments), time.thread_time() - start


def of_bytes(arrays: Arrays, codec: str, layout: str) -> tuple[dict[str, int], float, float]:
    """Bytes by matrix, seconds to code, seconds to decode."""
    sizes, encoding, decoding = {}, 0.0, 0.0
    for name, array in arrays.items():
        data = lay([spec_of(name, array)], arrays, layout)
        coded, seconds = timed(encode, codec, data)
        back, more = timed(decode, codec, coded, len(data), name)
        if back != data:
            raise DataError(f"{name}: {codec} does not give it back")
        sizes[name], encoding, decoding = len(coded), encoding + seconds, decoding + more
    return sizes, encoding, decoding


def of_rans(arrays: Arrays) -> tuple[dict[str, float], int, float, float]:
    """Bytes by matrix, of the stream less what it carries, seconds to code, seconds to decode."""
    groups = [[spec_of(name, array)] for name, array in arrays.items()]
    specs = [spec for group in groups for spec in group]

    def code() -> tuple[bytes, int, dict[int, float]]:
        joint = join(measure_groups(groups, arrays, 0)[0])
        return *joint.encode(0, bytes(CARRIED * max(spec.shape[1] for spec in specs))), joint.sizes

    (coded, carried, sizes), encoding = timed(code)
    (found, _), decoding = timed(read, specs, coded, "rans")
    if any(not np.array_equal(array, arrays[spec.name]) for array, spec in zip(found, specs, strict=True)):
        raise DataError("rans does not give the matrices back")
    return {specs[i].name: size for i, size in sizes.items()}, len(coded) - carried, encoding, decoding


def best_of(arrays: Arrays, shared: dict[str, float], alone: dict[str, int]) -> int:
    """What the container keeps: one rANS stream of the matrices that gain by it, the rest alone.

    Beside them stand the rows' steps as fp16, of which the lanes carry what they can.
    """
    names = list(arrays)
    steps = np.zeros(sum(len(array) for array in arrays.values()), np.float16)
    groups = [[spec_of(name, arrays[name])] for name in names] + [[spec_of("steps", steps)]]
    sizes = [alone[name] for name in names] + [steps.nbytes]
    joined = [names[i] for i in choose(sizes, groups, {i: shared[name] for i, name in enumerate(names)})]
    together = of_rans({name: arrays[name] for name in joined})[1] if joined else 0
    return together + sum(alone[name] for name in names if name not in joined)


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a published int8 model instead of the synthetic one")
    parser.add_argument(
        "--quick", action="store_true", help="one layer and an eighth of the vocabulary; writes nothing"
    )
    parsed = parser.parse_args()
    scale = (1, VOCABULARY // 8) if parsed.quick else (LAYERS, VOCABULARY)
    arrays = published(parsed.weights) if parsed.weights else synthetic(*scale)
    name = parsed.weights.name.partition(".")[0] if parsed.weights else "synthetic"
    weights, entropy = sum(array.size for array in arrays.values()), sum(map(entropy_bytes, arrays.values()))
    print(f"{name}: {weights:,} weights of {len(arrays)} matrices, order-0 entropy {entropy:,.0f} bytes\n")
    print(f"{'codec':16}{'bytes':>12}{'/H0':>9}{'encode s':>10}{'decode s':>10}")
    rows: dict[str, dict[str, float]] = {}

    def row(codec: str, size: int, *seconds: float) -> None:
        rows[codec] = {"bytes": size, "ratio": round(size / entropy, 5)}
        rows[codec] |= {key: round(value, 2) for key, value in zip(("encode_s", "decode_s"), seconds, strict=False)}
        print(f"{codec:16}{size:12,}{size / entropy:9.4f}" + "".join(f"{value:10.2f}" for value in seconds), flush=True)

    shared, size, encoding, decoding = of_rans(arrays)
    row("rans", size, encoding, decoding)
    found = {}
    for codec, layout in (("brotli", "column"), ("brotli", "row"), ("zstd", "row"), ("lzma", "row")):
        sizes, encoding, decoding = of_bytes(arrays, codec, layout)
        found[f"{codec} {layout}"] = sizes
        row(f"{codec} {layout}", sum(sizes.values()), encoding, decoding)
    alone = {name: min(sizes[name] for sizes in found.values()) for name in arrays}
    row("best", best_of(arrays, shared, alone))
    if not parsed.quick:
        write_json(
            RESULTS / f"codec-{name}.json", {"weights": weights, "entropy_bytes": round(entropy), "codecs": rows}
        )


if __name__ == "__main__":
    run_main("benchmarks.codec", main)
