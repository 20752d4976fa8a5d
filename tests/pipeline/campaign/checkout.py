"""Made-up checkouts of the challenge: a folder of every kind that the public ones come in."""

import json
import math
from pathlib import Path

WHOLE, TOKENS = 151_080_363, 62_021_632
PROGRAM = 'import os\nprint("val_loss:1.0 val_bpb:1.0")\ncode = len("Code size: 5 bytes")\n'


def loss(bpb: float, tokens: int = TOKENS, text: int = WHOLE) -> float:
    """The loss that goes with a score on so much text."""
    return bpb * math.log(2) * text / tokens


def log(
    bpb: float, seed: int | None = 42, *, tokens: int = TOKENS, text: int = WHOLE,
    label: str = "final_int8_zlib_roundtrip", model: int = 15_900_000, code: int = 50_000, train_ms: int = 599_900,
    extra: str = "", stamp: str = "",
) -> str:  # fmt: skip
    """A log as the challenge's program writes it, its own source first."""
    nats, early = loss(bpb, tokens, text), bpb - 0.01
    lines = [
        *PROGRAM.splitlines(),
        "=" * 20,
        f"val_loader:shards pattern=./data/fineweb10B_sp1024/fineweb_val_*.bin tokens:{tokens}",
        "train_loader:dataset:fineweb10B_sp1024 train_shards:80",
        "world_size:8 grad_accum_steps:1",
        *([] if seed is None else [f"seed:{seed}"]),
        *extra.splitlines(),
        f"step:900/20000 val_loss:{loss(early, tokens, text):.4f} val_bpb:{early:.4f} train_time:{train_ms}ms",
        f"stopping_early: wallclock_cap train_time:{train_ms}ms step:900/20000",
        "Serialized model: 67224983 bytes",
        f"Code size: {code} bytes",
        f"Total submission size: {67224983 + code} bytes",
        f"Serialized model int8+zlib: {model} bytes (payload:1 raw_torch:2 payload_ratio:3.9x)",
        f"Total submission size int8+zlib: {model + code} bytes",
        f"{label} val_loss:{nats:.4f} val_bpb:{bpb:.4f} eval_time:61000ms",
        f"{label}_exact val_loss:{nats:.8f} val_bpb:{bpb:.8f}",
    ]
    return "\n".join(stamp + line for line in lines) + "\n"


def folder(top: Path, name: str, submission: object = None, track: str = "track_10min_16mb", **files: str) -> Path:
    """One records folder; ``files``: name (``__`` for the dot) to text. A dict is written as JSON, text as it is."""
    made = top / "records" / track / name
    made.mkdir(parents=True, exist_ok=True)
    if submission is not None:
        text = submission if isinstance(submission, str) else json.dumps(submission, indent=2)
        (made / "submission.json").write_text(text)
    for key, text in files.items():
        (made / key.replace("__", ".")).write_text(text)
    return made
