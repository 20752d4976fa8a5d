"""The text of both sides: the same validation tokens, cut as the script cuts them, and the same training shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golf.data.shards import list_shards, read_split, write_shard
from golf.model.attention import Documents
from golf.runtime.errors import ConfigError, DataError

LONGEST = 2048  # tokens of a document that attend to each other; the next begin anew


def validation(shards: Path, tokens: int, batch: int) -> np.ndarray:
    """The first ``tokens`` of the validation split, uint16 (T,): batches of ``batch`` targets and one token more.

    The script drops what does not fill a batch; so both sides score every target.

    Raises:
        ConfigError: it is not whole batches.
        MissingInput, DataError: there are not as many, or they don't begin with a BOS: then the sides would not
            score the same targets.
    """
    if tokens <= batch or tokens % batch != 1:
        raise ConfigError(f"--tokens: found {tokens:,}, needed a multiple of {batch:,}, and 1", hint="--tokens 393217")
    found = read_split(shards, "val")[:tokens]
    if found.size < tokens:
        raise DataError(f"{shards}: found {found.size:,} validation tokens, needed {tokens:,}", hint="--tokens")
    if found[0] != 1:
        raise DataError(f"{shards}: the validation split begins with token {found[0]}, needed 1 (BOS)")
    return found


def lay_out(folder: Path, tokens: np.ndarray, shards: Path | None = None) -> Path:
    """Write ``tokens`` as the one validation shard of ``folder``, named as the script looks for it; the shard.

    The training shards of ``shards`` are linked beside it.
    """
    for number, shard in enumerate(list_shards(shards, "train") if shards else ()):
        (folder / f"fineweb_train_{number:06}.bin").symlink_to(shard.resolve())
    path = folder / "fineweb_val_000000.bin"
    write_shard(path, tokens)
    return path


def segments(tokens: Tensor) -> Documents:
    """Where attention begins anew in tokens (T,): at each BOS, and every 2,048 tokens behind it."""
    size = tokens.numel()
    begins = (tokens == 1).nonzero().flatten().tolist()
    if not begins or begins[0] > 0:
        begins.insert(0, 0)
    starts = [at for start, stop in zip(begins, [*begins[1:], size], strict=True) for at in range(start, stop, LONGEST)]
    return Documents(torch.tensor([*starts, size], dtype=torch.int32, device=tokens.device), LONGEST)
