"""The texts of the records folder: README.md and the training logs."""

from __future__ import annotations

import csv
from pathlib import Path

from golf.records.record import Record, technique

FILES = """\
| file | what it is |
|---|---|
| `train_gpt.py` | the whole program: an executable zip, run by `python` or `torchrun` as it is |
| `check_gpt.py` | audits `train_gpt.py` from outside, or scores a text with it; nothing needs it to train or score |
| `model_seedN.golf` | the compressed weights of a seed |
| `params.json` | every parameter of the run |
| `tokenizer.model`, `bytes.safetensors` | the tokenizer, and the bytes that each token counts for |
| `train_seedN.log` | loss by step, sizes and scores |
| `submission.json` | the figures |
"""


def readme(record: Record) -> str:
    """README.md of the folder."""
    aggregate, results = record.aggregate, record.results
    spread = "" if aggregate["bpb_std"] is None else f" ± {aggregate['bpb_std']:.5f} (sample)"
    lines = [
        f"# {record.name}",
        "",
        f"**{aggregate['bpb_mean']:.5f} bits per byte**{spread}, {len(record.seeds)} seed(s), "
        f"{max(results.total_bytes.values()):,} bytes at most ({results.code_bytes:,} of them code).",
        "",
        f"{aggregate['verdict']}.",
        *(f"Note: {flag}." for flag in aggregate["flags"]),
        "",
        "| seed | steps | train s | round trip | sliding | final bpb | eval s | bytes |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(record, seed) for seed in record.seeds),
        "",
        f"All three scores are on {results.tokens:,} validation targets, {results.bytes:,} bytes. Round trip: windows "
        "that do not overlap; sliding: windows that do; final: what counts.",
        "",
        "## Method",
        "",
        f"{technique(record.params)}.",
        "",
        "## Legality",
        "",
        f"The evaluation passed its audit on every seed ({record.params['audit']['tokens']:,} tokens, "
        f"{record.params['audit']['positions']} positions a check): causal, normalised, score before update, every "
        "target scored once, every byte counted once. Repeat it with the last command below.",
        *_obstacles(record),
        "",
        "## Files",
        "",
        FILES,
        "## Run it",
        "",
        "SHARDS is a folder of tokens in the challenge's format (`train_*.bin`, `heldout_*.bin`, `val_*.bin`).",
        "",
        "```",
        "pip install -r requirements.txt",
        *_commands(record.seeds[0]),
        "```",
        "",
        "On 8 GPUs: `torchrun --standalone --nproc-per-node 8 train_gpt.py ...`.",
        "",
    ]
    return "\n".join(lines)


def training_log(record: Record, seed: int, curve: Path | None) -> str:
    """train_seedN.log: configuration, loss by step, sizes, scores; each line begins with its label.

    Args:
        record: the run.
        seed: one of its seeds.
        curve: CSV with the columns ``step`` and ``loss``; a column ``seconds`` adds the time of each step.
    """
    results, train = record.results, record.reports["train"][seed]
    evaluated = record.reports["evaluate"][seed]
    lines = [
        f"{section}.{key}:{value}"
        for section, content in record.params.items()
        if isinstance(content, dict)
        for key, value in content.items()
    ]
    lines += [f"seed:{seed}", f"hardware:{record.device(seed)}"]
    if (parameters := train.get("parameters")) is not None:
        lines.append(f"model_params:{parameters}")
    lines += [f"val_tokens:{results.tokens + 1}", f"val_bytes:{results.bytes}"]
    lines += _steps(curve, train.get("steps"))
    seconds = record.seconds("train", seed)
    if seconds is not None:
        label = "stopping_early: wallclock_cap" if record.params["train"]["steps"] == 0 else "training_done"
        reads = record.text_seconds(seed)
        lines.append(f"{label} train_time:{(seconds - reads) * 1000:.0f}ms step:{train.get('steps')}")
        if reads:
            lines.append(f"training_text_reads: {reads:.1f}s after the last step, with them train_time: {seconds:.1f}s")
    total, code = results.total_bytes[seed], results.code_bytes
    lines += [
        f"Serialized model golf: {total - code} bytes",
        f"Code size: {code} bytes",
        f"Total submission size golf: {total} bytes",
    ]
    for label, key in (
        ("final_golf_roundtrip_exact", "roundtrip_bpb"),
        ("final_golf_sliding_window_exact", "sliding_bpb"),
    ):
        if isinstance(bpb := evaluated.get(key), (int, float)):
            lines.append(f"{label} val_loss:{record.loss(bpb):.8f} val_bpb:{bpb:.8f}")
    final = "legal_ttt_exact" if record.params["eval"]["ttt"] != "none" else "final_exact"
    lines.append(f"{final} val_loss:{results.losses[seed]:.8f} val_bpb:{results.bpb[seed]:.8f}")
    if (seconds := record.seconds("evaluate", seed)) is not None:
        lines.append(f"total_eval_time:{seconds:.1f}s")
    return "\n".join(lines) + "\n"


def _steps(curve: Path | None, steps: object) -> list[str]:
    if curve is None or not curve.is_file():
        return []
    lines = []
    with curve.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.get("step") or not row.get("loss"):
                continue
            step = int(float(row["step"]))
            line = f"step:{step}/{steps if steps is not None else '?'} train_loss:{float(row['loss']):.4f}"
            if row.get("seconds"):
                elapsed = float(row["seconds"]) * 1000
                line += f" train_time:{elapsed:.0f}ms step_avg:{elapsed / max(step, 1):.2f}ms"
            lines.append(line)
    return lines


def _row(record: Record, seed: int) -> str:
    evaluated, train = record.reports["evaluate"][seed], record.reports["train"][seed]
    scores = [evaluated.get("roundtrip_bpb"), evaluated.get("sliding_bpb"), record.results.bpb[seed]]
    cells = [
        str(seed),
        str(train.get("steps", "")),
        _text(record.seconds("train", seed), ".1f"),
        *(_text(score, ".5f") for score in scores),
        _text(record.seconds("evaluate", seed), ".1f"),
        f"{record.results.total_bytes[seed]:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def _text(value: object, layout: str) -> str:
    return format(value, layout) if isinstance(value, (int, float)) else ""


def _obstacles(record: Record) -> list[str]:
    found = record.obstacles()
    return ["", "Not for the record track:", "", *(f"* {text}" for text in found)] if found else []


def _commands(seed: int) -> list[str]:
    common = "--shards SHARDS --bytes bytes.safetensors --params params.json --out out"
    artifact = f"--artifact model_seed{seed}.golf"
    return [
        f"python train_gpt.py train --seed {seed} {common}",
        f"python train_gpt.py evaluate {artifact} {common}",
        f"python check_gpt.py audit {artifact} --tokenizer tokenizer.model {common}",
    ]
