"""What a run is asked for, and how this machine does it; refused here when it can't."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from golf.data.shards import list_shards, read_shard
from golf.model.transformer import Transformer
from golf.params.base import to_dict
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.train import Train
from golf.runtime.device import process_count
from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError
from golf.runtime.files import PARTIAL

CHECKED_TOKENS = 1 << 16  # of each shard, held against the vocabulary; `verify` reads them all


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
        """What determines the result, but for data and code."""
        return {
            "model": to_dict(self.model),
            "optim": to_dict(self.optim),
            "train": to_dict(self.train),
            "seed": self.seed,
            "vocab_size": self.vocab_size,
            "bos_id": self.bos_id,
        }


@dataclass(frozen=True)
class Plan:
    """How a step is divided, and how long the run may take.

    Attributes:
        processes: ranks.
        micro_windows: windows of a forward pass on one rank.
        accumulation: forward passes of a step on one rank.
        budget_seconds: of wall clock; None when steps are the budget.
        clock: ``steps``, ``wall``, or ``stretched x8``: on fewer GPUs than ``train.gpus`` the clock has more seconds.
    """

    processes: int
    micro_windows: int
    accumulation: int
    budget_seconds: float | None
    clock: str


def make_plan(config: Train, hardware: Hardware, processes: int) -> Plan:
    """Divide the batch and the budget over ``processes``; on CPU, a process counts as a GPU.

    Raises:
        ConfigError: the batch does not divide, or the clock must not be stretched.
    """
    windows = config.batch_tokens // config.seq_len
    if windows % processes:
        raise ConfigError(
            f"train.batch_tokens: {config.batch_tokens} = {windows} windows of {config.seq_len} do not divide "
            f"among {processes} processes",
            hint=f"dvc exp run -S train.batch_tokens={-(-windows // processes) * processes * config.seq_len}",
        )
    rank_windows = windows // processes
    micro_windows = min(config.micro_batch_tokens // config.seq_len, rank_windows)
    if rank_windows % micro_windows:
        raise ConfigError(
            f"train.micro_batch_tokens: found {config.micro_batch_tokens}, needed a divisor of the "
            f"{rank_windows * config.seq_len} tokens that each of {processes} processes has of a step",
            hint=f"dvc exp run -S train.micro_batch_tokens={_divisor(rank_windows, micro_windows) * config.seq_len}",
        )
    budget, clock = _budget(config, hardware, processes)
    return Plan(processes, micro_windows, rank_windows // micro_windows, budget, clock)


def _divisor(number: int, at_most: int) -> int:
    return max(part for part in range(1, at_most + 1) if number % part == 0)


def _budget(config: Train, hardware: Hardware, processes: int) -> tuple[float | None, str]:
    if config.steps:
        return None, "steps"
    seconds = config.seconds - config.reserve_seconds
    if processes == config.gpus:
        return seconds, "wall"
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
    return seconds * stretch, f"stretched x{stretch:g}"


def choose_processes(config: Train, hardware: Hardware) -> tuple[int, str]:
    """How many ranks to start on this machine, and the reason.

    Raises:
        ConfigError: more are asked for than there are GPUs.
    """
    at_most = None if config.steps else config.gpus
    return process_count(hardware, divides=config.batch_tokens // config.seq_len, at_most=at_most)


def check(config: TrainConfig) -> None:
    """Refuse data and disks that would fail the run later; reads a little of each shard, computes nothing.

    Raises:
        DataError: a shard holds tokens that are not of the vocabulary.
        FairwayError: the weights will not fit on the disk.
        OSError: the output folder is not writable.
    """
    if not 0 <= config.bos_id < config.vocab_size:
        raise DataError(f"{config.shards}: found bos_id {config.bos_id}, needed 0 to {config.vocab_size - 1}")
    for path in list_shards(config.shards, "train"):
        tokens = read_shard(path)[:CHECKED_TOKENS]
        if tokens.size and int(tokens.max()) >= config.vocab_size:
            raise DataError(
                f"{path}: found token {int(tokens.max())}, needed 0 to {config.vocab_size - 1}: "
                "another tokenizer wrote this shard",
                hint="dvc repro --force tokenize",
            )
    parent = config.out.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{config.out.name}.", suffix=PARTIAL, dir=parent):
        needed, free = weights_bytes(config), shutil.disk_usage(parent).free
    if needed > free:
        raise FairwayError(
            f"{os.fspath(parent)}: {free:,} bytes free, needed {needed:,} for the weights and their averages",
            hint="dvc gc --workspace",
            code=Exit.IO,
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
