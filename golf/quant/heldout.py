"""Windows of training text for calibration, and of held-out training text for bits per byte. Never of validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from golf.data.bytecount import ByteTable
from golf.data.loader import windows
from golf.data.shards import list_shards, read_shard, read_split
from golf.data.vocabulary import check_ids, check_vocabulary
from golf.model.transformer import Transformer
from golf.model.weights import ModelSpec
from golf.runtime.errors import DataError

PASS_TOKENS = 8192  # tokens of a forward pass: bounds the memory of the logits
WIDER = 4  # times as many on a GPU that has the memory: of 8,192 the launches take three times as long as the work
ROOMY = 40e9  # bytes
Say = Callable[[str], None]


@dataclass(frozen=True)
class HeldOut:
    """Held-out text: windows (N, T+1), int64, and the bytes of their N * T targets."""

    windows: Tensor
    bytes: int

    @property
    def tokens(self) -> int:
        """Targets scored."""
        return self.windows.shape[0] * (self.windows.shape[1] - 1)


def sample(
    shards: Path | str, split: str, *, tokens: int, seq_len: int, seed: int, spec: ModelSpec, say: Say | None = None
) -> Tensor:
    """About ``tokens`` targets of ``split``, spread over its text: (N, T+1) int64, T at most ``seq_len``.

    Takes what there is when the split holds less, and says so. Of several shards only the first is read when it
    holds enough: a hundred million tokens are a sample.

    Raises:
        MissingInput: no shard of ``split``.
        DataError: fewer than two tokens; a token outside the model's vocabulary.
    """
    paths = list_shards(shards, split)
    enough = bool(paths) and (paths[0].stat().st_size - 1024) // 2 > tokens
    stream = read_shard(paths[0]) if enough else read_split(shards, split)
    if stream.size < 2:
        raise DataError(
            f"{shards}: {stream.size} tokens in the split {split!r}, needed 2 or more",
            hint="dvc exp run -S tokenizer.heldout_share=0.05, or bring more text",
        )
    seq_len = min(seq_len, stream.size - 1)
    wanted, available = max(tokens // seq_len, 1), (stream.size - 1) // seq_len
    if available < wanted and say is not None:
        say(f"{split} text holds {available * seq_len:,} of the {tokens:,} tokens asked for: taking all")
    chosen = windows(stream, seq_len, min(wanted, available), seed)
    check_ids(chosen, spec.vocab_size, f"{shards}: {split} split", "dvc repro train")
    return chosen


def read_heldout(
    shards: Path | str, table: ByteTable, *, tokens: int, seq_len: int, spec: ModelSpec, say: Say | None = None
) -> HeldOut:
    """The same held-out text for every seed and candidate, so that their scores are compared on equal terms.

    Raises:
        MissingInput, DataError: see :func:`sample`; the byte table is another vocabulary's, or the text has no byte.
    """
    check_vocabulary(table.vocab_size, spec.vocab_size, "dvc repro train")
    chosen = sample(shards, "heldout", tokens=tokens, seq_len=seq_len, seed=0, spec=spec, say=say)
    total = sum(int(table.count(row).sum()) for row in chosen)
    if total == 0:
        raise DataError(f"{shards}: the held-out targets stand for no bytes", hint="dvc repro --force tokenize")
    return HeldOut(chosen, total)


def batch_windows(chosen: Tensor, device: torch.device) -> int:
    """How many windows (N, T+1) make a forward pass."""
    roomy = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory > ROOMY
    return max(1, (WIDER if roomy else 1) * PASS_TOKENS // (chosen.shape[1] - 1))


@torch.no_grad()
def bits_per_byte(model: Transformer, heldout: HeldOut) -> float:
    """The model's loss on ``heldout`` by the one forward pass: nats summed in fp64, over bytes and ln 2.

    Raises:
        DataError: it is NaN or infinite.
    """
    device = model.embed.weight.device
    model.eval()
    nats = 0.0
    for part in heldout.windows.split(batch_windows(heldout.windows, device)):
        tokens = part.to(device)
        nats += float(model(tokens[:, :-1], tokens[:, 1:]).double().sum())
    if not math.isfinite(nats):
        raise DataError(f"held-out loss is {nats}: the weights overflow", hint="a lower optim.matrix_lr")
    return nats / heldout.bytes / math.log(2)
