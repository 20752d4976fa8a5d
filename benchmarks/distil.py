"""Row steps and control vectors tuned after quantisation, by distillation from the weights before it: does it pay?

    python -m benchmarks.distil --published baseline.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --calibration wikipedia/train.jsonl.zst --heldout wikipedia/val.jsonl.zst --score fineweb_val_small_sp1024.bin

After GPTQ the codes stay; Adam then moves the logarithms of the row steps and all that is not quantised, to the least
KL divergence from the model before, on training text. What is scored is what would be stored: steps in fp16 or on
their logarithmic grid (rounded in every forward pass, gradients straight through), controls in fp16.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from benchmarks.quantise import lost, quantised, quantizer_of, scoring_text, side_bytes, windows
from golf.data.bytecount import ByteTable
from golf.model.published import load_published
from golf.model.weights import build, tensor_groups
from golf.params.quant import Quant
from golf.quant.curvature import curvature
from golf.quant.heldout import HeldOut, bits_per_byte
from golf.quant.hessian import collect
from golf.quant.quantized import QuantizedModel, QuantizedTensor
from golf.quant.steps import ROWS_AN_OCTAVE

LENGTH, ROWS = 256, 4  # tokens of a window, windows a step
Rates = tuple[float, float]  # Adam's: of the steps' logarithms, of the controls


def stored(model: QuantizedModel, octaves: dict[str, Tensor], controls: dict[str, Tensor]) -> QuantizedModel:
    """``model`` with other controls, and steps moved by ``octaves`` (R,), all as they are stored."""
    tensors: dict[str, QuantizedTensor | Tensor] = {name: value.detach().half() for name, value in controls.items()}
    for name, moved in octaves.items():
        tensor = model.tensors[name]
        assert isinstance(tensor, QuantizedTensor)
        if tensor.columns is None:
            steps = (tensor.steps.float() * torch.exp2(moved.detach())).half()
        else:
            steps = (tensor.steps + torch.round(moved.detach() * ROWS_AN_OCTAVE)).clamp(0, 255).to(torch.uint8)
        tensors[name] = replace(tensor, steps=steps)
    return QuantizedModel(model.spec, {name: tensors[name] for name in model.tensors})


def on_grid(octaves: Tensor, tensor: QuantizedTensor) -> Tensor:
    """``octaves`` as they will be stored, with the gradient of those that are not rounded."""
    grid = torch.round(octaves * ROWS_AN_OCTAVE) / ROWS_AN_OCTAVE
    return octaves if tensor.columns is None else octaves + (grid - octaves).detach()


def tune(model: QuantizedModel, parts: dict[str, Any], rates: Rates) -> tuple[QuantizedModel, list[float], float]:
    """The tuned model, the divergence in nats a token at each step, the seconds; ``rates`` of steps and controls."""
    start = time.perf_counter()
    network = parts["build"](parts["state"])
    matrices = {name: part for name, part in model.tensors.items() if isinstance(part, QuantizedTensor)}
    controls = {name: part.float() for name, part in model.tensors.items() if isinstance(part, Tensor)}
    base = {name: part.dequantize() for name, part in matrices.items()}
    octaves = {name: torch.zeros(part.shape[0], requires_grad=True) for name, part in base.items()}
    learnt = {name: part.clone().requires_grad_() for name, part in controls.items()}
    groups = [{"params": [*part.values()], "lr": rate} for part, rate in zip((octaves, learnt), rates, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    count, divergences = len(parts["teacher"]), []
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4) * (1 - step / count))
    for tokens, teacher in parts["teacher"]:
        weights = {
            name: part * torch.exp2(on_grid(octaves[name], matrices[name]))[:, None] for name, part in base.items()
        }
        found = F.log_softmax(functional_call(network, weights | learnt, (tokens,)).float(), -1).flatten(0, 1)
        loss = F.kl_div(found, teacher.flatten(0, 1), log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        divergences.append(loss.item())
    return stored(model, octaves, learnt), divergences, time.perf_counter() - start


def scores(parts: dict[str, Any], model: QuantizedModel) -> dict[str, float]:
    return {
        name: round(lost({**parts, "text": text, "bpb": bpb}, model), 6) for name, (text, bpb) in parts["texts"].items()
    }


def measure(config: Quant, rates: list[Rates], parts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each pair of ``rates``."""
    plain = quantizer_of(config, parts)()
    before = scores(parts, plain)
    rows = []
    for pair in rates:
        tuned, divergences, seconds = tune(plain, parts, pair)
        after = scores(parts, tuned)
        moved = sum(int((a.steps != b.steps).sum()) for a, b in zip(quantised(plain), quantised(tuned), strict=True))
        rows.append({
            "steps": config.steps, "bits": config.bits, "rates": pair, "lost": before, "lost_tuned": after,
            "divergence": [sum(divergences[:4]) / 4, sum(divergences[-4:]) / 4], "steps_moved": moved,
            "side_bytes": [side_bytes(plain), side_bytes(tuned)], "seconds": round(seconds, 1),
        })  # fmt: skip
        told = ", ".join(f"{name} {before[name]:+.5f} to {after[name]:+.5f}" for name in before)
        divergence = " to ".join(f"{value:.5f}" for value in rows[-1]["divergence"])
        print(f"{config.bits} bits {config.steps:9} rates {pair}: bpb lost {told}; KL {divergence}, "
              f"{moved} steps moved, {seconds:.0f} s", flush=True)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distil", description=__doc__.split("\n", 1)[0])
    for key in ("published", "tokenizer", "calibration", "heldout", "score"):
        parser.add_argument(f"--{key}", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="*", default=[6, 5, 4])
    parser.add_argument("--steps", type=int, default=24, help="of Adam (default: 24)")
    parser.add_argument("--scored", type=int, default=8, help="windows of 1,024 tokens of each text (default: 8)")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.01, 0.0002], help="pairs: of steps, controls")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/distil.json"))
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    spec, state = load_published(parsed.published)
    model = build(spec, state)
    text = windows(parsed.calibration, parsed.tokenizer, 32 + parsed.steps * ROWS // 2, 2 * LENGTH)
    calibration, training = text[:32], text[32:, : 2 * LENGTH].reshape(-1, LENGTH)
    fresh = windows(parsed.heldout, parsed.tokenizer, parsed.scored, 1024)
    table = ByteTable.from_sentencepiece(parsed.tokenizer)
    texts = {"fresh Wikipedia": HeldOut(fresh, sum(int(table.count(row).sum()) for row in fresh))}
    texts["FineWeb"] = scoring_text(parsed.score, parsed.tokenizer, parsed.scored, 1024)
    parts: dict[str, Any] = {"spec": spec, "state": state, "groups": tensor_groups(model)}
    parts["build"] = lambda weights: build(spec, weights)
    parts["texts"] = {name: (part, bits_per_byte(model, part)) for name, part in texts.items()}
    parts["hessians"] = collect(model, calibration)
    parts["curvature"] = curvature(model, calibration)
    with torch.no_grad():
        parts["teacher"] = [(part, F.log_softmax(model(part).float(), -1)) for part in training.split(ROWS)]
    pairs = [(parsed.rates[i], parsed.rates[i + 1]) for i in range(0, len(parsed.rates), 2)]
    rows = [
        row for bits in parsed.bits for steps in ("row", "curvature")
        for row in measure(Quant(bits=bits, steps=steps), pairs, parts)
    ]  # fmt: skip
    document = {"weights": parsed.published.name, "tokens": training.numel(), "rows": rows}
    parsed.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
