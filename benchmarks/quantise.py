"""Quantisers beside each other at equal bytes, on weights that were really trained.

    python -m benchmarks.quantise --published baseline.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --calibration wikipedia/train.jsonl.zst --heldout wikipedia/val.jsonl.zst --score fineweb_val_small_sp1024.bin
    python -m benchmarks.quantise --run runs/train/42 runs/train/314 runs/train/999 --tokenizer data/tokenizer \\
        --shards data/shards --device cuda

The weights are the challenge's baseline's (:mod:`golf.model.published`), or those of runs. Bytes are those of codes,
steps and factors: codes at their ideal length for a coder that knows the column's energy and the trellis state's
offset, steps and factors after brotli. Each variant's steps are scaled until its bytes are those of the first in its
table. Scoring text is never calibrated on; of shards, as much training text is as the profile asks for.

Last, whole files: what the record profile's quantiser loses in an artifact of as many bytes as row-scaled GPTQ takes
whose codes brotli packs column by column, and their ratio. Clips of the latter are the parameters' defaults: on the
published weights, at 6 bits, they lose less than those of the profiles ``record`` and ``r1061`` (0.0404, 0.0868 bpb).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import sentencepiece
import torch
import yaml
import zstandard
from torch import Tensor

from golf.codec.artifact import encode_arrays
from golf.data.bytecount import ByteTable
from golf.data.loader import Rows
from golf.data.shards import list_shards, read_shard
from golf.model.attention import choose_backend
from golf.model.published import load_published
from golf.model.weights import ModelSpec, build, load_spec, load_state, tensor_groups
from golf.params.compress import Compress
from golf.params.quant import Quant
from golf.quant.calibration import training_text
from golf.quant.curvature import Curvature, curvature
from golf.quant.gptq import output_error
from golf.quant.heldout import HeldOut, bits_per_byte, sample
from golf.quant.hessian import collect
from golf.quant.model import Quantizer
from golf.quant.quantized import CODES, QuantizedModel, QuantizedTensor, dequantize_model, to_arrays
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
CLOSE, CLOSER = 0.002, 0.0008  # of the bytes: near enough to be called equal
STREAM = 1 << 20  # bytes of a stream of brotli's
PASSES = 8  # at most, to come that near


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
    return len(brotli.compress(planes(steps))) + len(brotli.compress(factors))


def planes(values: np.ndarray) -> bytes:
    """The first byte of every value, then the second."""
    return np.frombuffer(values.tobytes(), np.uint8).reshape(-1, values.itemsize).T.tobytes()


def brotli_bytes(model: QuantizedModel) -> int:
    """All codes, each matrix by columns and as streams of its own: no more than as one, and side by side."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        columns = [tensor.codes.numpy().T.tobytes() for tensor in quantised(model)]
        parts = [data[start : start + STREAM] for data in columns for start in range(0, len(data), STREAM)]
        return sum(map(len, pool.map(lambda data: brotli.compress(data, lgwin=24), parts)))


def packed_bytes(model: QuantizedModel) -> int:
    """All of ``model`` as brotli packs it: codes, steps and factors, and what is not quantised."""
    controls = [tensor.numpy().ravel() for tensor in model.tensors.values() if isinstance(tensor, Tensor)]
    rest = len(brotli.compress(planes(np.concatenate(controls)))) if controls else 0
    return brotli_bytes(model) + side_bytes(model) + rest


def artifact_bytes(model: QuantizedModel) -> int:
    """The artifact's, with codes by our coder and the rest by brotli, not the best of all.

    For 36 million codes with a step a row that was 0.12 % more, in 3 s of two cores instead of 54.
    """
    metadata, arrays = to_arrays(model)
    rest = {name: array for name, array in arrays.items() if not name.endswith(CODES)}

    def size(some: Mapping[str, np.ndarray], codec: str) -> int:
        return len(encode_arrays(metadata, some, Compress(codecs=(codec,)))[0])

    return size(arrays, "rans") - size(rest, "rans") + size(rest, "brotli")


def table_bytes(model: QuantizedModel) -> float:
    """What a row of the tables counts."""
    return ideal_bits(model) / 8 + side_bytes(model)


def at_bytes(
    quantizer: Quantizer,
    target: float | None,
    size_of: Callable[[QuantizedModel], float] = table_bytes,
    close: float = CLOSE,
    start: float = 1.0,
) -> tuple[QuantizedModel, float, float]:
    """The model of ``target`` bytes (None: that of ``start`` times the parameters' steps), bytes, multiplier."""
    octaves, finer, coarser = math.log2(start), -math.inf, math.inf  # the last two: known to take more bytes, and less
    slope = -0.7 * sum(weight.numel() for weight in quantizer.weights.values()) / 8  # below three bits less than a bit
    sizes: dict[float, float] = {}
    best: tuple[QuantizedModel, float, float] | None = None
    for _ in range(PASSES):
        model = quantizer(2.0**octaves)
        size = sizes[octaves] = size_of(model)
        if best is None or target is None or abs(size - target) < abs(best[1] - target):
            best = (model, size, 2.0**octaves)
        if target is None or abs(size - target) < close * target:
            break
        finer, coarser = (max(finer, octaves), coarser) if size > target else (finer, min(coarser, octaves))
        octaves = next_octaves(sizes, target, slope, finer, coarser)
    assert best is not None
    return best


def next_octaves(sizes: Mapping[float, float], target: float, slope: float, finer: float, coarser: float) -> float:
    """Where ``target`` bytes are looked for next, by the sizes so far: a line through the last, within the bracket."""
    (last, size), *before = [*sizes.items()][::-1]
    if before:
        slope = min((before[0][1] - size) / (before[0][0] - last), slope / 4)  # of two near passes it can be anything
    wanted = last + (target - size) / slope
    return wanted if finer < wanted < coarser else (max(finer, last - 1) + min(coarser, last + 1)) / 2


def output_errors(quantizer: Quantizer, model: QuantizedModel, hessians: Mapping[str, Tensor]) -> float:
    """The geometric mean over the matrices, the embedding apart, of the squared error relative to the output's."""
    restored = dequantize_model(model)
    names = [name for name in hessians if name != "embed.weight"]
    hessians = dict(hessians)
    for name, order in quantizer.units.items():
        hessians[name] = hessians[name][order][:, order]
    errors = [
        output_error(quantizer.weights[name].to(hessians[name].device), hessians[name], restored[name])
        for name in names
    ]
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
    """The first ``count`` windows of a shard; ``tokenizer`` is a SentencePiece model, or a folder with its table."""
    tokens = torch.from_numpy(read_shard(path)[: count * length + 1].astype(np.int64))
    rows = torch.stack([tokens[start : start + length + 1] for start in range(0, len(tokens) - length, length)])
    is_folder = tokenizer.is_dir()
    table = ByteTable.load(tokenizer / "bytes.safetensors") if is_folder else ByteTable.from_sentencepiece(tokenizer)
    return HeldOut(rows, int(table.count(tokens[: rows.shape[0] * length + 1]).sum()))


def lost(parts: dict[str, Any], model: QuantizedModel) -> float:
    """Bits per byte that ``model`` loses on the scoring text."""
    return bits_per_byte(parts["build"](dequantize_model(model)), parts["text"]) - float(parts["bpb"])


def quantizer_of(config: Quant, parts: dict[str, Any]) -> Quantizer:
    known = parts["curvature"] if config.steps == "curvature" else Curvature(parts["hessians"], {}, {}, 0)
    given = parts["state"], parts["groups"], known.hessians, config, parts["spec"]
    return Quantizer(*given, print, known.gains, known.outputs)


def measure(variants: Mapping[str, Mapping[str, Any]], parts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a variant, at the bytes that the first one has with the steps of its parameters."""
    rows: list[dict[str, Any]] = []
    clock = time.perf_counter if parts["device"] == "cuda" else time.process_time
    for name, changed in variants.items():
        config = Quant(**changed)
        quantizer = quantizer_of(config, parts)
        start = clock()
        quantizer()
        seconds = clock() - start
        quantized, size, multiplier = at_bytes(quantizer, rows[0]["bytes"] if rows else None)
        count = sum(weight.numel() for weight in quantizer.weights.values())
        rows.append({
            "variant": name, "bits": config.bits, "multiplier": round(multiplier, 4), "bytes": round(size),
            "ideal_bits": round(ideal_bits(quantized) / count, 4),
            "brotli_bits": round(brotli_bytes(quantized) * 8 / count, 4), "side_bytes": side_bytes(quantized),
            "output_error": output_errors(quantizer, quantized, parts["hessians"]),
            "heldout_error": output_errors(quantizer, quantized, parts["heldout"]),
            "bpb_lost": round(lost(parts, quantized), 5), "seconds": round(seconds, 1),
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


def compare(profile: Quant, beside: Quant, parts: dict[str, Any]) -> dict[str, Any]:
    """What ``profile`` loses in an artifact of the bytes that ``beside`` and brotli take, and what they lose."""
    plain = quantizer_of(beside, parts)()
    target = packed_bytes(plain)
    quantizer = quantizer_of(profile, parts)
    _, _, guess = at_bytes(quantizer, target)
    ours, size, multiplier = at_bytes(quantizer, target, artifact_bytes, CLOSER, guess)
    row = {"bits": profile.bits, "bytes": target, "artifact_bytes": size, "multiplier": round(multiplier, 4)}
    row |= {"row_bpb_lost": round(lost(parts, plain), 5), "bpb_lost": round(lost(parts, ours), 5)}
    return {**row, "ratio": round(row["bpb_lost"] / row["row_bpb_lost"], 3)}


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of rows of one width, over the runs: mean losses, and the ratio of the means."""
    row, ours = (sum(row[key] for row in rows) / len(rows) for key in ("row_bpb_lost", "bpb_lost"))
    return {"bits": rows[0]["bits"], "row_bpb_lost": row, "bpb_lost": ours, "ratio": ours / row}


def tell(name: str, row: Mapping[str, float]) -> None:
    size = f"{row['bytes']:,} B of brotli, {row['artifact_bytes']:,} B of artifact: " if "bytes" in row else ""
    print(
        f"{row['bits']} bits  {name}: {size}bpb lost {row['bpb_lost']:+.5f} against {row['row_bpb_lost']:+.5f} of row "
        f"steps: {row['ratio']:.3f}",
        flush=True,
    )


def sources(parsed: argparse.Namespace) -> Iterator[tuple[str, ModelSpec, dict[str, Tensor]]]:
    """Name, shape and weights of every model."""
    if parsed.published is not None:
        yield parsed.published.name, *load_published(parsed.published)
    for folder in parsed.run or ():
        yield f"{folder}/{parsed.weights}", load_spec(folder), load_state(folder, parsed.weights)


def texts(parsed: argparse.Namespace, spec: ModelSpec, profile: Quant) -> tuple[Tensor | Rows, Tensor, HeldOut]:
    """What is calibrated on, windows of other text of the kind, and what is scored."""
    half = parsed.windows // 2
    if parsed.shards is None:
        calibration = windows(parsed.calibration, parsed.tokenizer, parsed.windows, 512)
        fresh = windows(parsed.heldout, parsed.tokenizer, half, 512)
        return calibration, fresh, scoring_text(parsed.score, parsed.tokenizer, parsed.scored, 1024)
    fresh = sample(parsed.shards, "heldout", tokens=half * 512, seq_len=512, seed=0, spec=spec, say=print)
    length, tokens = profile.seq_len, profile.calibration_tokens
    known = training_text(parsed.shards, tokens=tokens, seq_len=length, seed=0, spec=spec, say=print)
    return known, fresh, scoring_text(list_shards(parsed.shards, "val")[0], parsed.tokenizer, parsed.scored, 1024)


def prepare(
    parsed: argparse.Namespace, name: str, spec: ModelSpec, state: dict[str, Tensor], profile: Quant
) -> dict[str, Any]:
    """What all variants of one model share."""
    attention = choose_backend("auto", parsed.device)[0] if parsed.device == "cuda" else "sdpa"

    def built(weights: Mapping[str, Tensor]) -> torch.nn.Module:
        return build(spec, weights, attention, parsed.device)

    model = build(spec, state, attention, parsed.device)
    calibration, fresh, text = texts(parsed, spec, profile)
    parts = {"spec": spec, "state": state, "text": text, "bpb": bits_per_byte(model, text), "build": built}
    parts |= {"groups": tensor_groups(model), "device": parsed.device}
    parts["hessians"], parts["heldout"] = collect(model, calibration), collect(model, fresh)
    parts["curvature"] = curvature(model, calibration)
    print(f"{name}: {parts['bpb']:.5f} bpb before, {text.tokens:,} tokens scored", flush=True)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantise", description=__doc__.split("\n", 1)[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--published", type=Path, help="weights of the challenge's baseline script")
    source.add_argument("--run", type=Path, nargs="+", help="folders of weights that training wrote")
    parser.add_argument("--weights", default="raw", help="which weights of --run (default: raw)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.model, or with --shards its folder")
    parser.add_argument("--shards", type=Path, help="train to calibrate on, heldout and val to score, instead of:")
    for key in ("calibration", "heldout", "score"):
        parser.add_argument(f"--{key}", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bits", type=int, nargs="*", default=[6, 5])
    parser.add_argument("--plain", action="store_true", help="int4 and ternary too, each beside others at its bytes")
    parser.add_argument("--files-only", action="store_true", help="no tables: whole files alone")
    parser.add_argument("--profile", default="record", help="whose quantiser makes the whole files (default: record)")
    parser.add_argument(
        "--windows", type=int, default=64, help="of calibration without shards; half as many held out (default: 64)"
    )
    parser.add_argument("--scored", type=int, default=24, help="windows of 1,024 tokens scored (default: 24)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantise.json"))
    parsed = parser.parse_args()
    if parsed.shards is None and None in (parsed.calibration, parsed.heldout, parsed.score):
        parser.error("needed --shards, or --calibration, --heldout and --score")
    if parsed.device == "cpu":
        torch.set_num_threads(1)
    profile = Quant(**yaml.safe_load(Path("profiles", f"{parsed.profile}.yaml").read_text())["quant"])
    tables = [{name: {"bits": bits, **changed} for name, changed in VARIANTS.items()} for bits in parsed.bits]
    if parsed.plain:
        tables += [{name: changed} | {other: VARIANTS[other] for other in BESIDE} for name, changed in PLAIN.items()]
    runs, files = [], []
    for name, spec, state in sources(parsed):
        parts = prepare(parsed, name, spec, state, profile)
        rows = [row for table in tables for row in ([] if parsed.files_only else measure(table, parts))]
        files += [compare(replace(profile, bits=bits), Quant(bits=bits), parts) for bits in parsed.bits]
        for row in files[-len(parsed.bits) :]:
            tell(name, row)
        runs.append({"weights": name, "bpb": parts["bpb"], "rows": rows, "files": files[-len(parsed.bits) :]})
    means = [mean_of([row for row in files if row["bits"] == bits]) for bits in parsed.bits]
    for row in means:
        tell(f"mean of {len(runs)}", row)
    where = torch.cuda.get_device_name() if parsed.device == "cuda" else platform.machine()
    document = {
        "device": where,
        "torch": torch.__version__,
        "tokens": parts["text"].tokens,
        "runs": runs,
        "mean": means,
    }
    parsed.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
