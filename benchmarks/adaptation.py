"""What test-time training gains and what it costs, form by form, on the same weights and text.

    python -m benchmarks.adaptation --published baseline_7x384_sp1024.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --shard fineweb_val_small_sp1024.bin --tokens 10770
    python -m benchmarks.adaptation --run runs/train/42 --weights raw --tokenizer tokenizer.model \\
        --shard val_000000.bin --device cuda --only documents lora "lora at" --rates 2e-5 5e-5 1e-4 2e-4

Seconds are of the scoring alone, one process, after a warm-up on the first documents.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.data.bytecount import ByteTable
from golf.data.shards import read_shard
from golf.model.attention import choose_backend
from golf.model.published import load_published
from golf.model.weights import build, load_spec, load_state
from golf.params.eval import Eval
from golf.scoring.bpb import total
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.evaluator import SlidingScorer, TestTimeTrainer
from golf.scoring.protocol import Evaluator

WARM_UP = 2048  # tokens


def forms(
    model: torch.nn.Module, config: dict[str, Any], growth: float, phase: int, rates: Sequence[float] = ()
) -> dict[str, Evaluator]:
    """From the name of each form to its scorer."""

    def documents(**overrides: Any) -> DocumentScorer:
        return DocumentScorer(model, Eval(**{**config, "lora_chunk_growth": 0.0, **overrides}))

    windows = Eval(**config)
    return {
        "windows": SlidingScorer(model, windows),
        "documents": DocumentScorer(model, windows, adapts=False),
        "sgd": TestTimeTrainer(model, windows),
        "lora": documents(),
        f"lora, growth {growth:g}": documents(lora_chunk_growth=growth),
        f"lora, growth {growth:g}, phases of {phase:,}": documents(lora_chunk_growth=growth, phase_tokens=phase),
        **{f"lora at {rate:g}": documents(lora_lr=rate) for rate in rates},
    }


def chosen(names: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """Of all ``names`` those that ``only`` asks for: what is a whole name asks for that one, else it is a word."""
    if not only:
        return list(names)
    return [name for name in names if any(word == name or (word not in names and word in name) for word in only)]


def measure(scorer: Any, tokens: Tensor, counts: Tensor) -> dict[str, float]:
    """Score ``tokens`` (T,) whose targets have ``counts`` (T - 1,) bytes."""
    start = time.perf_counter()
    if next(scorer.model.parameters()).is_cuda:
        scorer.score(tokens[:WARM_UP])
        torch.cuda.synchronize()
    warm_up, start = time.perf_counter() - start, time.perf_counter()
    found = total(-scorer.score(tokens), counts)
    return {
        "nats": found.nats_per_token,
        "bpb": found.bits_per_byte,
        "seconds": time.perf_counter() - start,
        "warm_up_seconds": warm_up,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptation", description=__doc__.split("\n", 1)[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--published", type=Path, help="weights of the challenge's baseline script")
    source.add_argument("--run", type=Path, help="folder of weights that training wrote")
    parser.add_argument("--weights", default="raw", help="which weights of --run (default: raw)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.model or its bytes.safetensors")
    parser.add_argument("--shard", type=Path, required=True, help="validation tokens")
    parser.add_argument("--tokens", type=int, default=0, help="the first so many tokens (default: all)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="forms by their whole name, or words that a form must have one of")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="eval.lora_lr of further forms, one each")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="eval parameters")
    parser.add_argument("--phase", type=int, default=65_536, help="eval.phase_tokens of the phased form")
    parser.add_argument("--growth", type=float, default=0.125, help="eval.lora_chunk_growth where pieces grow")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/adaptation.json"))
    parsed = parser.parse_args()
    if parsed.published is not None:
        spec, state = load_published(parsed.published)
    else:
        spec, state = load_spec(parsed.run), load_state(parsed.run, parsed.weights)
    attention, _ = choose_backend("auto", parsed.device)
    model = build(spec, state, attention, parsed.device)
    model.graphs = True  # as the program has it
    raw = read_shard(parsed.shard).astype(np.int64)
    tokens = torch.from_numpy(raw[: parsed.tokens or raw.size])
    is_table = parsed.tokenizer.suffix == ".safetensors"
    table = ByteTable.load(parsed.tokenizer) if is_table else ByteTable.from_sentencepiece(parsed.tokenizer)
    counts = table.count(tokens)
    config = {"seq_len": 1024, "stride": 1024, "ttt_chunk_tokens": 32_768, "lora_documents": 16, "ttt": "lora"}
    config |= {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in parsed.set)}
    rows = []
    made = forms(model, config, parsed.growth, parsed.phase, parsed.rates)
    for name in chosen(list(made), parsed.only):
        row = {"form": name, **measure(made[name], tokens, counts)}
        rows.append(row)
        print(f"{name:40} {row['nats']:.5f} nats  {row['bpb']:.5f} bpb  {row['seconds']:8.1f} s", flush=True)
    where = torch.cuda.get_device_name() if parsed.device == "cuda" else platform.machine()
    settings = {"tokens": tokens.numel(), "device": where, "torch": torch.__version__, "eval": config}
    parsed.out.write_text(json.dumps({**settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
