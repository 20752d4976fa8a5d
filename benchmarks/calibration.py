"""Calibration on training text beside calibration on the model's own, at equal bytes, on weights really trained.

    python -m benchmarks.calibration --weights baseline.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --calibration wikipedia/train.jsonl.zst --heldout wikipedia/val.jsonl.zst --score fineweb_val_small_sp1024.bin

``train`` has the windows of :mod:`benchmarks.quantise`; ``train, as many`` as many tokens in windows as short as those
that the model writes without a cache of keys and values; ``self`` is what it writes. Each row's steps are scaled until
its bytes are those of ``train``. The held-out error is on fresh text of training's kind, the bits per byte on text of
the kind that the weights were trained on, of which calibration sees nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.quantise import at_bytes, output_errors, scoring_text, windows
from golf.model.published import load_published
from golf.model.weights import build, tensor_groups
from golf.params.quant import Quant
from golf.quant.calibration import generate
from golf.quant.curvature import calibrate
from golf.quant.heldout import bits_per_byte
from golf.quant.hessian import collect
from golf.quant.model import Quantizer
from golf.quant.quantized import dequantize_model

STEPS = ("row", "column", "curvature")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.split("\n", 1)[0])
    for key in ("weights", "tokenizer", "calibration", "heldout", "score"):
        parser.add_argument(f"--{key}", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=5)
    parser.add_argument("--windows", type=int, default=64, help="of training text, of 512 tokens (default: 64)")
    parser.add_argument("--own", type=int, default=64, help="windows that the model writes (default: 64)")
    parser.add_argument("--own-length", type=int, default=128, help="tokens of each (default: 128)")
    parser.add_argument("--scored", type=int, default=24, help="windows of 1,024 tokens scored (default: 24)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration.json"))
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    spec, state = load_published(parsed.weights)
    model = build(spec, state)
    started = time.process_time()
    own = generate(model, parsed.own, parsed.own_length, seed=0)
    seconds = time.process_time() - started
    texts = {
        "train": windows(parsed.calibration, parsed.tokenizer, parsed.windows, 512),
        "train, as many": windows(parsed.calibration, parsed.tokenizer, parsed.own, parsed.own_length),
        "self": own,
    }
    fresh = collect(model, windows(parsed.heldout, parsed.tokenizer, parsed.windows // 2, 512))
    text = scoring_text(parsed.score, parsed.tokenizer, parsed.scored, 1024)
    before = bits_per_byte(model, text)
    print(f"{parsed.weights.name}: {before:.5f} bpb before; {own[:, 1:].numel():,} tokens written in {seconds:.0f} s")
    rows: list[dict[str, Any]] = []
    for steps in STEPS:
        target: float | None = None
        for name, chosen in texts.items():
            found = calibrate(model, chosen, steps, progress=False)
            config = Quant(bits=parsed.bits, steps=steps)
            quantizer = Quantizer(state, tensor_groups(model), found.hessians, config, spec, print, found.gains,
                                  found.outputs)  # fmt: skip
            quantized, size, multiplier = at_bytes(quantizer, target)
            target = size if target is None else target
            lost = bits_per_byte(build(spec, dequantize_model(quantized)), text) - before
            rows.append({
                "steps": steps, "calibration": name, "tokens": found.tokens, "bits": parsed.bits,
                "multiplier": round(multiplier, 4), "bytes": round(size),
                "heldout_error": output_errors(quantizer, quantized, fresh), "bpb_lost": round(lost, 5),
            })  # fmt: skip
            row = rows[-1]
            print(
                f"{steps:10} {name:15} {found.tokens:>7,} tokens {row['bytes']:>9,} B  held-out error "
                f"{row['heldout_error']:.3e}  bpb lost {lost:+.5f}",
                flush=True,
            )
    document = {"weights": parsed.weights.name, "bpb": before, "own_seconds": round(seconds, 1), "rows": rows}
    parsed.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
