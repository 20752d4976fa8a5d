"""Quantisers beside each other at equal bytes, on weights that were really trained.

    python -m benchmarks.quantise --weights baseline.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --calibration wikipedia/train.jsonl.zst --heldout wikipedia/val.jsonl.zst --score fineweb_val_small_sp1024.bin

The weights are the challenge's baseline's (:mod:`golf.model.published`). Bytes are those of codes, steps and factors:
codes at their ideal length for a coder that knows the column's energy and the trellis state's offset, steps and
factors after brotli. Each variant's steps are scaled until its bytes are those of the first in its table. Scoring text
is never calibrated on.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import sentencepiece
import torch
import zstandard
from torch import Tensor

from golf.data.bytecount import ByteTable
from golf.data.shards import read_shard
from golf.model.published import load_published
from golf.model.transformer import Transformer
from golf.model.weights import build, tensor_groups
from golf.params.quant import Quant
from golf.quant.curvature import curvature
from golf.quant.gptq import output_error
from golf.quant.heldout import HeldOut, bits_per_byte
from golf.quant.hessian import collect
from golf.quant.model import Quantizer
from golf.quant.quantized import QuantizedModel, QuantizedTensor, dequantize_model
from golf.quant.trellis import levels

VARIANTS: dict[str, dict[str, Any]] = {
    "row": {},
    "column": {"steps": "column"},
    "trellis": {"method": "trellis"},
    "trellis, column": {"method": "trellis", "steps": "column"},
    "curvature": {"steps": "curvature"},
    "trellis, curvature": {"method": "trellis", "steps": "curvature"},
}
PLAIN: dict[str, dict[str, Any]] = {  # grids as wide as their codes: what is beyond the clip is cut
    "int4": {"bits": 4, "clip_sigma": 2.8},
    "ternary": {"bits": 2, "clip_sigma": 1.6},
}
BESIDE = ("row", "column", "curvature")  # the variants shown at a plain option's bytes
BATCH = 8  # windows a pass
CLOSE = 0.002  # of the bytes: near enough to be called equal


def ideal_bits(model: QuantizedModel) -> float:
    """Of all codes: their entropy given the state's offset and a quarter octave of the column's root mean square.

    One table for the whole model, as a coder would ship it.
    """
    counts = np.zeros((96, 2, 256))
    for tensor in quantised(model):
        symbols = tensor.codes.numpy()
        level = levels(symbols, tensor.trellis) if tensor.trellis else 2 * symbols.astype(np.int16)
        energy = np.square(level.astype(np.float64)).mean(0)
        bins = np.clip(np.round(2 * np.log2(energy + 0.02)).astype(int) + 24, 0, 95)
        place = (bins * 2 + (level - 2 * symbols.astype(np.int16))) * 256 + symbols.astype(np.int16) + 128
        counts += np.bincount(place.ravel(), minlength=counts.size).reshape(counts.shape)
    total = np.broadcast_to(counts.sum(-1, keepdims=True), counts.shape)
    seen = counts > 0
    return float(-(counts[seen] * np.log2(counts[seen] / total[seen])).sum())


def quantised(model: QuantizedModel) -> list[QuantizedTensor]:
    return [tensor for tensor in model.tensors.values() if isinstance(tensor, QuantizedTensor)]


def side_bytes(model: QuantizedModel) -> int:
    """Steps and factors of all tensors after brotli, fp16 with its two bytes apart."""
    steps = np.concatenate([tensor.steps.numpy() for tensor in quantised(model)])
    factors = b"".join(tensor.columns.numpy().tobytes() for tensor in quantised(model) if tensor.columns is not None)
    planes = np.frombuffer(steps.tobytes(), np.uint8).reshape(-1, steps.itemsize).T.tobytes()
    return len(brotli.compress(planes)) + len(brotli.compress(factors))


def brotli_bytes(model: QuantizedModel) -> int:
    """All codes, each matrix by columns, as one stream."""
    return len(brotli.compress(b"".join(tensor.codes.numpy().T.tobytes() for tensor in quantised(model)), lgwin=24))


def at_bytes(quantizer: Quantizer, target: float | None) -> tuple[QuantizedModel, float, float]:
    """The model of ``target`` bytes (None: with the parameters' steps), its bytes and its multiplier."""
    count = sum(weight.numel() for weight in quantizer.weights.values())
    octaves, slope, before = 0.0, -0.7 * count / 8, None  # below three bits an octave is worth less than a bit
    for _ in range(5):
        model = quantizer(2.0**octaves)
        size = ideal_bits(model) / 8 + side_bytes(model)
        if target is None or abs(size - target) < CLOSE * target:
            break
        if before is not None and octaves != before[0]:
            slope = (size - before[1]) / (octaves - before[0])
        before = (octaves, size)
        octaves += (target - size) / slope
    return model, size, 2.0**octaves


def output_errors(quantizer: Quantizer, model: QuantizedModel, hessians: Mapping[str, Tensor]) -> float:
    """The geometric mean over the matrices, the embedding apart, of the squared error relative to the output's."""
    restored = dequantize_model(model)
    names = [name for name in hessians if name != "embed.weight"]
    hessians = dict(hessians)
    for name, order in quantizer.units.items():
        hessians[name] = hessians[name][order][:, order]
    errors = [output_error(quantizer.weights[name], hessians[name], restored[name]) for name in names]
    return math.exp(sum(map(math.log, errors)) / len(errors))


def windows(path: Path, tokenizer: Path, count: int, length: int) -> Tensor:
    """(count, length + 1) tokens of the documents in ``path``, each after a BOS."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    tokens: list[int] = []
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        for line in io.TextIOWrapper(reader, encoding="utf-8"):
            tokens += [1, *processor.encode(json.loads(line)["text"])]
            if len(tokens) >= count * (length + 1):
                return torch.tensor(tokens[: count * (length + 1)]).view(count, length + 1)
    raise SystemExit(f"{path}: {len(tokens):,} tokens, needed {count * (length + 1):,}")


def scoring_text(path: Path, tokenizer: Path, count: int, length: int) -> HeldOut:
    tokens = torch.from_numpy(read_shard(path)[: count * length + 1].astype(np.int64))
    rows = torch.stack([tokens[start : start + length + 1] for start in range(0, count * length, length)])
    return HeldOut(rows, int(ByteTable.from_sentencepiece(tokenizer).count(tokens).sum()))


def measure(
    variants: Mapping[str, Mapping[str, Any]], model: Transformer, parts: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row a variant, at the bytes that the first one has with the steps of its parameters."""
    rows: list[dict[str, Any]] = []
    spec, state = parts["spec"], parts["state"]
    for name, changed in variants.items():
        config = Quant(**changed)
        hessians, gains = parts["hessians"], {}
        if config.steps == "curvature":
            hessians, gains = parts["curvature"].hessians, parts["curvature"].gains
        quantizer = Quantizer(state, tensor_groups(model), hessians, config, spec, print, gains)
        start = time.process_time()
        quantizer()
        seconds = time.process_time() - start
        quantized, size, multiplier = at_bytes(quantizer, rows[0]["bytes"] if rows else None)
        count = sum(weight.numel() for weight in quantizer.weights.values())
        rows.append({
            "variant": name, "bits": config.bits, "multiplier": round(multiplier, 4), "bytes": round(size),
            "ideal_bits": round(ideal_bits(quantized) / count, 4),
            "brotli_bits": round(brotli_bytes(quantized) * 8 / count, 4), "side_bytes": side_bytes(quantized),
            "output_error": output_errors(quantizer, quantized, parts["hessians"]),
            "heldout_error": output_errors(quantizer, quantized, parts["heldout"]),
            "bpb_lost": round(bits_per_byte(build(spec, dequantize_model(quantized)), parts["text"]) - parts["bpb"], 5),
            "seconds": round(seconds, 1),
        })  # fmt: skip
        row = rows[-1]
        print(
            f"{config.bits} bits  {name:18} {row['bytes']:>9,} B  ideal {row['ideal_bits']:.3f}  brotli "
            f"{row['brotli_bits']:.3f}  error {row['output_error']:.3e}  held-out {row['heldout_error']:.3e} "
            f"({row['heldout_error'] / rows[0]['heldout_error'] - 1:+.0%})  bpb lost {row['bpb_lost']:+.5f}  "
            f"{row['seconds']:.1f} s",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantise", description=__doc__.split("\n", 1)[0])
    for key in ("weights", "tokenizer", "calibration", "heldout", "score"):
        parser.add_argument(f"--{key}", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="*", default=[6, 5])
    parser.add_argument("--plain", action="store_true", help="int4 and ternary too, each beside others at its bytes")
    parser.add_argument("--windows", type=int, default=64, help="of calibration; half as many held out (default: 64)")
    parser.add_argument("--scored", type=int, default=24, help="windows of 1,024 tokens scored (default: 24)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantise.json"))
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    spec, state = load_published(parsed.weights)
    model = build(spec, state)
    calibration = windows(parsed.calibration, parsed.tokenizer, parsed.windows, 512)
    fresh = windows(parsed.heldout, parsed.tokenizer, parsed.windows // 2, 512)
    text = scoring_text(parsed.score, parsed.tokenizer, parsed.scored, 1024)
    parts: dict[str, Any] = {"spec": spec, "state": state, "text": text, "bpb": bits_per_byte(model, text)}
    parts["hessians"], parts["heldout"] = collect(model, calibration, BATCH), collect(model, fresh, BATCH)
    parts["curvature"] = curvature(model, calibration[: parsed.windows // 2], BATCH, parts["hessians"])
    print(f"{parsed.weights.name}: {parts['bpb']:.5f} bpb before, {text.tokens:,} tokens scored", flush=True)
    tables = [{name: {"bits": bits, **changed} for name, changed in VARIANTS.items()} for bits in parsed.bits]
    if parsed.plain:
        tables += [{name: changed} | {other: VARIANTS[other] for other in BESIDE} for name, changed in PLAIN.items()]
    rows = [row for table in tables for row in measure(table, model, parts)]
    document = {"weights": parsed.weights.name, "bpb": parts["bpb"], "tokens": text.tokens, "rows": rows}
    parsed.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
