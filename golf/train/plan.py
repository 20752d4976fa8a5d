"""What a run is asked for, and how this machine does it; refused here when it can't."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from golf.data.shards import list_shards, read_shard
from golf.data.vocabulary import check_ids
from golf.model.transformer import Transformer
from golf.params.base import to_dict
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.train import Train
from golf.runtime.device import process_count, uses_gpu
from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError
from golf.runtime.files import PARTIAL
from golf.train.phases import Phase, all_phases, check_loop

MOST_SEGMENTS = (1 << 16) - 1  # of a batch: the grids of attention's backward kernels have 16 bits for them
CHECKED_TOKENS = 1 << 16  # of each shard, held against the vocabulary; `verify` reads them all
BF16_CAPABILITY = 8  # least major compute capability whose matrix units take bf16


@dataclass(frozen=True)
class TrainConfig:
    """Everything that :func:`golf.train.loop.train` is told.

    Attributes:
        model, optim, train, hardware: sections of the parameters.
        seed: of the initial weights and of the order of the data.
        shards: folder with the training shards.
        vocab_size, bos_id: of their tokenizer.
        out: folder that receives the weights, replaced as a whole.
        checkpoints: folder of the checkpoints to resume from, one folder a run in it; None: keep none.
    """

    model: Model
    optim: Optim
    train: Train
    hardware: Hardware
    seed: int
    shards: Path
    vocab_size: int
    out: Path
    bos_id: int = 1
    checkpoints: Path | None = None

    def determining(self) -> dict[str, Any]:
        """What determines the result, but for data and code. A run that a spike ended may go on without that limit."""
        train = to_dict(self.train)
        del train["spike_nats"]
        return {
            "model": to_dict(self.model),
            "optim": to_dict(self.optim),
            "train": train,
            "seed": self.seed,
            "vocab_size": self.vocab_size,
            "bos_id": self.bos_id,
        }


class Division(NamedTuple):
    """How a rank computes its share of a step: ``rows`` of the loader, ``micro_rows`` a forward pass."""

    rows: int
    micro_rows: int


@dataclass(frozen=True)
class Plan:
    """How steps are divided, and how long the run may take.

    Attributes:
        processes: ranks.
        row_tokens: tokens of a row of the loader: a window of ``seq_len``, or a packed micro-batch.
        divisions: by the tokens of a step, of which there are several when the batch grows.
        phases: of the run, in order.
        budget_seconds: of wall clock for steps; None when they are the budget.
        total_seconds: those, and what is left for reads of training text after the last step.
        clock: ``steps``, ``wall``, or ``stretched x8``: on fewer GPUs than ``train.gpus`` the clock has more seconds.
    """

    processes: int
    row_tokens: int
    divisions: Mapping[int, Division]
    phases: Sequence[Phase]
    budget_seconds: float | None
    total_seconds: float | None
    clock: str


def make_plan(config: Train, hardware: Hardware, processes: int, passes: int = 1) -> Plan:
    """Divide the batch and the budget over ``processes``; on CPU, a process counts as a GPU.

    Args:
        config, hardware: sections of the parameters.
        processes: ranks.
        passes: ``model.loop_passes``.

    Raises:
        ConfigError: a batch does not divide, or the clock must not be stretched.
    """
    row_tokens = config.micro_batch_tokens if config.pack == "documents" else config.seq_len
    phases = all_phases(config, passes)
    divisions = {phase.batch_tokens: divide(phase.batch_tokens, config, row_tokens, processes) for phase in phases}
    stretch, clock = _clock(config, hardware, processes)
    total = None if config.steps else config.seconds * stretch
    budget = None if total is None else total - (config.reserve_seconds or 0.0) * stretch
    return Plan(processes, row_tokens, divisions, phases, budget, total, clock)


def divide(batch_tokens: int, config: Train, row_tokens: int, processes: int) -> Division:
    """A rank's share of a step of ``batch_tokens``.

    Raises:
        ConfigError: it is not whole rows, or not whole micro-batches.
    """
    rows = batch_tokens // row_tokens
    if rows % processes:
        key = f"train.{'batch_tokens' if batch_tokens == config.batch_tokens else 'batch_growth'}"
        kind = "windows" if config.pack == "windows" else "packed rows (train.micro_batch_tokens)"
        what = "do not divide among" if rows > processes else "are fewer than"
        raise ConfigError(
            f"{key}: {batch_tokens} = {rows} {kind} of {row_tokens} {what} {processes} processes",
            hint=f"dvc exp run -S hardware.processes={_divisor(rows, processes)}",  # another batch is another result
        )
    rank_rows = rows // processes
    micro_rows = min(config.micro_batch_tokens // row_tokens, rank_rows)
    if rank_rows % micro_rows:
        raise ConfigError(
            f"train.micro_batch_tokens: found {config.micro_batch_tokens}, needed a divisor of the "
            f"{rank_rows * row_tokens} tokens that each of {processes} processes has of a step",
            hint=f"dvc exp run -S train.micro_batch_tokens={_divisor(rank_rows, micro_rows) * row_tokens}",
        )
    return Division(rank_rows, micro_rows)


def _divisor(number: int, at_most: int) -> int:
    return max(part for part in range(1, at_most + 1) if number % part == 0)


def _clock(config: Train, hardware: Hardware, processes: int) -> tuple[float, str]:
    """How many seconds one of ``config.seconds`` is on this machine, and the word for it."""
    if config.steps:
        return 1.0, "steps"
    if processes == config.gpus:
        return 1.0, "wall"
    if processes > config.gpus:
        raise ConfigError(
            f"hardware.processes: found {processes}, needed at most train.gpus = {config.gpus}: "
            "the clock gives that many GPUs their seconds",
            hint=f"dvc exp run -S hardware.processes={config.gpus}",
        )
    if hardware.strict_clock:
        raise ConfigError(
            f"hardware.strict_clock: found {processes} process{'es' if processes > 1 else ''}, "
            f"needed train.gpus = {config.gpus}",
            hint="dvc exp run -S hardware.strict_clock=false",
        )
    stretch = config.gpus / processes
    return stretch, f"stretched x{stretch:g}"


def choose_processes(config: Train, hardware: Hardware) -> tuple[int, str]:
    """How many ranks to start on this machine, and the reason.

    Raises:
        ConfigError: more are asked for than there are GPUs.
    """
    at_most = None if config.steps else config.gpus
    row_tokens = config.micro_batch_tokens if config.pack == "documents" else config.seq_len
    least = [config.batch_tokens, *(tokens for _, tokens in config.batch_growth or ())]
    return process_count(hardware, divides=math.gcd(*least) // row_tokens, at_most=at_most)


def check(config: TrainConfig) -> None:
    """Refuse what would fail the run later; reads a little of each shard, computes nothing.

    Raises:
        ConfigError: the sections do not go together, or the GPU has no bf16.
        DataError: a shard holds tokens that are not of the vocabulary, or all of them too few tokens.
        FairwayError: the weights will not fit on the disk.
        OSError: the output folder is not writable.
    """
    check_loop(config.train, config.model)
    if config.train.pack == "documents" and not config.model.document_mask:
        raise ConfigError(
            "train.pack: found documents with model.document_mask = false, needed a model that tells them apart",
            hint="dvc exp run -S train.pack=windows (or -S model.document_mask=true)",
        )
    tokens = config.train.micro_batch_tokens
    if config.train.pack == "windows" and config.model.document_mask and tokens > MOST_SEGMENTS:
        raise ConfigError(
            f"train.micro_batch_tokens: found {tokens:,} in windows with model.document_mask = true, needed at most "
            f"{MOST_SEGMENTS:,}: there, each token may begin a document, and CUDA counts them in 16 bits",
            hint="dvc exp run -S train.pack=documents",
        )
    check_gpu(config.hardware)
    check_shards(config)
    parent = config.out.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{config.out.name}.", suffix=PARTIAL, dir=parent):
        needed, free = weights_bytes(config), shutil.disk_usage(parent).free
    if needed > free:
        raise FairwayError(
            f"{os.fspath(parent)}: {free:,} bytes free, needed {needed:,} for the weights and their averages",
            hint="dvc gc --workspace --all-experiments",
            code=Exit.IO,
        )


def check_gpu(hardware: Hardware) -> None:
    """Refuse a GPU on which the activations' type would be emulated.

    Raises:
        ConfigError: it has no bf16.
    """
    if not uses_gpu(hardware):
        return
    major, minor = torch.cuda.get_device_capability()
    if major < BF16_CAPABILITY:
        raise ConfigError(
            f"hardware.device: found {torch.cuda.get_device_name()} of compute capability {major}.{minor}, which has "
            f"no bf16, needed {BF16_CAPABILITY}.0 or later (Ampere)",
            hint="dvc exp run -S hardware.device=cpu",
        )


def check_shards(config: TrainConfig) -> None:
    """Hold the training shards against the vocabulary and the step.

    Raises:
        DataError: a token is not of the vocabulary, or there are fewer tokens than one step needs.
    """
    if not 0 <= config.bos_id < config.vocab_size:
        raise DataError(f"{config.shards}: found bos_id {config.bos_id}, needed 0 to {config.vocab_size - 1}")
    paths, tokens = list_shards(config.shards, "train"), 0
    for path in paths:
        shard = read_shard(path)
        tokens += shard.size
        check_ids(shard[:CHECKED_TOKENS], config.vocab_size, str(path))
    train = config.train
    if paths and tokens <= train.batch_tokens:
        unit = train.micro_batch_tokens if tokens > train.micro_batch_tokens else train.seq_len
        fitting = max(tokens - 1, 0) // unit * unit
        also = f" -S train.micro_batch_tokens={fitting}" if unit == train.seq_len else ""
        smaller = f"dvc exp run -S train.batch_tokens={fitting}{also}, or more text"
        raise DataError(
            f"{config.shards}: {tokens:,} tokens of the split 'train', a step needs {train.batch_tokens + 1:,}",
            hint=smaller if fitting else "more text: data.path, data.max_documents, data.max_bytes",
        )


def weights_bytes(config: TrainConfig) -> int:
    """Bytes of the files that the run writes, headers aside."""
    copies = 1 + len(config.train.ema_decays) + (config.train.swa_share > 0)
    return 4 * copies * parameter_count(config)


def parameter_count(config: TrainConfig) -> int:
    """Trained numbers of the model, without drawing them."""
    with torch.device("meta"):
        model = Transformer(config.model, config.vocab_size, config.bos_id)
    return sum(param.numel() for param in model.parameters())
