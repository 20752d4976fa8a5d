"""Both evaluations on the same weights, not quantised, and the same text: what learning gains, and what it takes.

    script-plain     the script's plain score: documents in segments of 2,048 tokens, one compiled graph
    script-windows   its test-time training without steps and phases: each 48 tokens behind their last 2,048
    script-ttt       its test-time training as documented, the share of documents in its phases kept: 1 in 20
    script-lora      the same without phases
    ours-documents   documents read piece by piece behind what stands before, without learning
    ours-lora        the same, learning as profile r1061 says

What learning gains is measured against the same reading without it. Seconds are of the scoring; what compiles or
warms up before it, out of the script's own timer too, stands apart. Bytes are counted once, for both sides.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import adaptation
from benchmarks.beside import script
from benchmarks.beside.text import lay_out, validation
from benchmarks.beside.theirs import Theirs, begin_memory
from golf.data.bytecount import ByteTable
from golf.model.attention import choose_backend
from golf.model.weights import ModelSpec, build, load_spec, load_state
from golf.params.base import from_dict, read_document
from golf.params.eval import Eval
from golf.runtime.device import peak_memory
from golf.runtime.errors import FairwayError
from golf.runtime.files import write_json
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.documents import Pieces

PARTS = ("ours-documents", "ours-lora", "script-plain", "script-windows", "script-ttt", "script-lora")
BASES = {"ours-lora": "ours-documents", "script-ttt": "script-windows", "script-lora": "script-windows"}
ROW = "{part:<16}{nats:>10}{bpb:>10}{gain:>10}{seconds:>10}{compile:>10}"


def evaluate(parsed: argparse.Namespace) -> None:
    """Every part that is asked for; ``evaluate.json`` and the table grow part by part.

    Raises:
        FairwayError: a part failed; the others were done.
    """
    device = torch.device(parsed.device)
    settings = script.EVALUATION | dict(parsed.set)
    stream = validation(parsed.shards, parsed.tokens, int(settings["VAL_BATCH_TOKENS"]) // 8)
    tokens = torch.from_numpy(stream.astype(np.int64))
    counts = ByteTable.from_sentencepiece(parsed.tokenizer).count(tokens)
    documents = int((tokens[:-1] == 1).sum())
    settings = {"PHASED_TTT_PREFIX_DOCS": str(round(documents / 20))} | settings  # 2,500 of 50,000 in the record
    spec, state = load_spec(parsed.run), load_state(parsed.run, parsed.weights)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result = {"run": str(parsed.run), "weights": parsed.weights, "tokens": tokens.numel(), "documents": documents,
              "bytes": int(counts.sum()), "settings": settings, "device": where, "torch": torch.__version__,
              "parts": {}}  # fmt: skip
    parts: dict[str, dict[str, Any]] = result["parts"]
    theirs: Theirs | None = None
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), stream)
        paths = {"DATA_PATH": folder, "TOKENIZER_PATH": str(parsed.tokenizer), "ARTIFACT_DIR": folder}
        for name in (name for name in PARTS if name in parsed.parts):
            side, _, form = name.partition("-")
            if side == "ours":
                parts[name] = ours(form == "lora", spec, state, tokens, counts, device)
            else:
                theirs = theirs or Theirs(parsed.script, spec, state, settings | paths, device)
                parts[name] = theirs(form)
            if "nats" in parts[name]:
                parts[name]["bpb"] = parts[name]["nats"] / math.log(2) * counts.numel() / int(counts.sum())
            result["compared"] = compared(parts)
            write_json(parsed.out / "evaluate.json", result)
            print(table(parts), flush=True)
    failed = [name for name, part in parts.items() if "error" in part]
    if failed:
        raise FairwayError(f"evaluate: found {len(failed)} parts that failed, needed none: {', '.join(failed)}")


def ours(
    adapts: bool, spec: ModelSpec, state: Mapping[str, Tensor], tokens: Tensor, counts: Tensor, device: torch.device
) -> dict[str, Any]:
    """Our scorer of documents with the profile's settings on tokens (T,), whose targets have counts (T - 1,) bytes."""
    section = read_document(Path("params.yaml"))["eval"] | read_document(Path("profiles/r1061.yaml"))["eval"]
    model = build(spec, state, choose_backend("auto", device)[0], device)
    model.graphs = True  # as the program has it
    scorer = DocumentScorer(model, from_dict(Eval, section), adapts=adapts)
    begin_memory(device)
    found = adaptation.measure(scorer, Pieces, tokens, counts)
    return {"nats": found["nats"], "seconds": found["seconds"], "compile_seconds": found["warm_up_seconds"],
            "peak_memory_bytes": peak_memory(device)}  # fmt: skip


def gain(parts: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """Bits per byte that learning takes off; None: not known."""
    base = parts.get(BASES.get(name, ""), {})
    return base["bpb"] - parts[name]["bpb"] if "bpb" in base and "bpb" in parts.get(name, {}) else None


def compared(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """``ours-lora`` over each form of the script that learns: gain, seconds, and seconds with compiling."""
    own, found = parts.get("ours-lora", {}), {}
    for name in ("script-ttt", "script-lora"):
        theirs = parts.get(name, {})
        if "bpb" in own and "bpb" in theirs:
            gains = gain(parts, "ours-lora"), gain(parts, name)
            both = [part["seconds"] + part["compile_seconds"] for part in (own, theirs)]
            found[name] = {"gain": gains[0] / gains[1] if gains[0] is not None and gains[1] else None,
                           "seconds": own["seconds"] / theirs["seconds"], "all_seconds": both[0] / both[1]}  # fmt: skip
    return found


def table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a part, and one for each comparison."""
    lines = [ROW.format(part="", nats="nats", bpb="bpb", gain="gain", seconds="seconds", compile="compile")]
    for name, part in parts.items():
        if "error" in part:
            lines.append(f"{name:<16}  failed: {part['error'].strip().splitlines()[-1]}")
            continue
        gained = gain(parts, name)
        lines.append(ROW.format(part=name, nats=f"{part['nats']:.5f}", bpb=f"{part['bpb']:.5f}",
                                gain="" if gained is None else f"{gained:.5f}", seconds=f"{part['seconds']:.1f}",
                                compile=f"{part['compile_seconds']:.1f}"))  # fmt: skip
    for name, ratio in compared(parts).items():
        gains = "" if ratio["gain"] is None else f"{ratio['gain']:.2f} times the gain, "
        lines.append(f"ours-lora beside {name}: {gains}{ratio['seconds']:.2f} times the seconds, "
                     f"{ratio['all_seconds']:.2f} with compiling")  # fmt: skip
    return "\n".join(lines)
