"""Quantise the selected weights by GPTQ, calibrated on text of the training split or of the model's own.

Reads ``runs/select/SEED``, the train split of ``data/shards`` (calibration, unless the model writes its own text) and
its held-out split with the byte table of ``data/tokenizer`` (bits per byte before and after); never validation text.
With ``quant.fit`` also ``reports/bundle.json``: what the program leaves of the budget is what the artifact is fitted
to. Writes ``runs/quantize/SEED`` (codes, steps and fp16 controls, model.json, tensors.csv) and
``reports/quantize/SEED.json``.

    python -m stages.quantize --seed 42
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from golf.data.bytecount import ByteTable
from golf.model.attention import choose_backend
from golf.model.weights import build, load_spec, load_state, tensor_groups
from golf.params.base import check_every_section, load, read_seed
from golf.params.budget import Budget
from golf.params.hardware import Hardware
from golf.params.quant import Quant
from golf.quant.calibration import calibration_text
from golf.quant.curvature import calibrate
from golf.quant.fit import Fitted, fit
from golf.quant.heldout import bits_per_byte, read_heldout
from golf.quant.model import Quantizer, check_state, summary, write_table
from golf.quant.quantized import QuantizedModel, dequantize_model, save
from golf.runtime.apart import ask
from golf.runtime.device import describe, prepare
from golf.runtime.errors import DataError, run_main
from golf.runtime.files import whole_directory
from golf.runtime.report import Stopwatch, read_report, write_report, write_timing

SHARDS = Path("data/shards")
BUNDLE = Path("reports/bundle.json")


def main() -> None:
    """Run the stage for one seed."""
    parser = argparse.ArgumentParser(prog="python -m stages.quantize", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=read_seed, required=True)
    seed = parser.parse_args().seed
    check_every_section()  # a bad stats.alpha must not be found out after every seed was scored
    config, hardware, budget = load(Quant), load(Hardware), load(Budget)
    device = prepare(hardware)
    attention, _ = choose_backend(hardware.attention, device)
    watch = Stopwatch()
    selected = Path("runs/select") / str(seed)
    with watch.part("read"):
        spec, state = load_spec(selected), load_state(selected, "model")
        check_state(state)
        model = build(spec, state, attention, device)
        table = ByteTable.load("data/tokenizer/bytes.safetensors")
        heldout = read_heldout(SHARDS, table, tokens=config.heldout_tokens, seq_len=config.seq_len, spec=spec, say=say)
    with watch.part("hessians"):
        text = calibration_text(model, SHARDS, config, spec, seed, say)
        found = calibrate(model, text, config.steps)
    with watch.part("gptq"):
        quantizer = Quantizer(state, tensor_groups(model), found.hessians, config, spec, say, found.gains,
                              found.outputs)  # fmt: skip
    with watch.part("fit" if config.fit else "gptq"):
        fitted = fit_budget(quantizer, budget) if config.fit else None
        quantized = fitted.model if fitted else quantizer()
    tensors = quantizer.reports(quantized)
    with watch.part("score"):
        pre_bpb = bits_per_byte(model, heldout)
        post_bpb = bits_per_byte(build(spec, dequantize_model(quantized), attention, device), heldout)
    with watch.part("write"), whole_directory(Path("runs/quantize") / str(seed)) as folder:
        save(quantized, folder)
        write_table(tensors, folder / "tensors.csv")
    numbers: dict[str, object] = {
        "bits": config.bits,
        "embed_bits": config.embed_bits,
        "pre_bpb": round(pre_bpb, 6),
        "post_bpb": round(post_bpb, 6),
        **summary(tensors),
    }
    if fitted:
        numbers["fit"] = fitted.report()
    write_report("quantize", numbers, seed=seed)
    text_seconds = watch.parts["hessians"] if config.calibration == "train" else 0.0  # that count as training
    write_timing("quantize", watch, seed=seed, device=describe(device), text_seconds=round(text_seconds, 3))
    print(f"quantize: {config.bits} bits, {pre_bpb:.4f} -> {post_bpb:.4f} bpb on held-out training text")


def fit_budget(quantizer: Quantizer, budget: Budget) -> Fitted:
    """The finest model that fits beside the program in the budget.

    Raises:
        MissingInput: the program has not been built.
        DataError: its report is damaged; see :func:`golf.quant.fit.fit`.
    """
    code_bytes = read_report(BUNDLE, "bundle").get("code_bytes")
    if type(code_bytes) is not int:
        raise DataError(f"{BUNDLE}: found code_bytes {code_bytes!r}, needed an integer", hint="dvc repro -f -s bundle")
    return fit(quantizer, artifact_bytes, budget.artifact_bytes - code_bytes, say)


def artifact_bytes(model: QuantizedModel) -> int:
    """What ``compress`` would make of ``model``, asked of a process of its own; see :mod:`golf.codec.__main__`."""
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        return int(ask("codec", folder))


def say(line: str) -> None:
    """One line to the log."""
    print(f"quantize: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main("quantize", main)
