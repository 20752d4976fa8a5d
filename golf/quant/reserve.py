"""How long training text will be read after the last step: what the training clock must leave for it.

What reads it is the choice among several weights (held-out training text) and calibration; of one candidate there is no
choice, and text that the model writes is no data. A dry run on fresh weights times a few passes of each, and the rest
is extrapolated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from golf.model.weights import ModelSpec, build
from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.train import Train
from golf.quant.calibration import Peers, training_text
from golf.quant.candidates import score
from golf.quant.curvature import calibrate
from golf.quant.heldout import HeldOut, batch_windows, sample

MARGIN = 1.25  # on what was measured: a GPU is hotter at the end, a disk slower
FEW = 4  # passes that are timed


def measure(
    shards: Path | str,
    spec: ModelSpec,
    train: Train,
    select: Select,
    quant: Quant,
    seed: int,
    attention: str,
    device: torch.device,
    peers: Peers | None = None,
) -> float:
    """Seconds to leave, the margin included.

    Args:
        shards: folder with the splits train and heldout.
        spec: of the model.
        train, select, quant: sections of the parameters.
        seed: of the run.
        attention, device: how and where it will be done.
        peers: the ranks that will share the calibration; they all call this.

    Raises:
        MissingInput, DataError: the text can't be read.
    """
    with torch.random.fork_rng(devices=[]):  # its draws are not the run's
        model = build(spec, None, attention, device)
    seconds, (index, count) = 0.0, (peers.index, peers.count) if peers is not None else (0, 1)
    if quant.calibration == "train":
        read = partial(training_text, shards, tokens=quant.calibration_tokens, seq_len=quant.seq_len, seed=seed)
        seconds += timed(lambda: read(spec=spec), device)
        text = read(spec=spec)
        batch = batch_windows(text.tokens, device)

        def calibrated(passes: int) -> None:
            rows = slice(passes * count * batch)
            part = text._replace(tokens=text.tokens[rows], starts=None if text.starts is None else text.starts[rows])
            calibrate(model, part, quant.steps, peers, progress=False)

        seconds += extrapolated(calibrated, -(-text.tokens.shape[0] // (batch * count)), device)
    if candidates(train, select) > 1 and index == 0:
        windows = sample(shards, "heldout", tokens=select.tokens, seq_len=select.seq_len, seed=0, spec=spec)
        state, batch = model.state_dict(), batch_windows(windows, device)
        grids = (select.bits, select.clip_sigma, select.embed_bits, select.embed_clip_sigma)

        def scored(passes: int) -> None:
            score("dry run", state, spec, HeldOut(windows[: passes * batch], 1), grids, attention, device)

        seconds += candidates(train, select) * extrapolated(scored, -(-windows.shape[0] // batch), device)
    return MARGIN * seconds


def candidates(train: Train, select: Select) -> int:
    """How many weights `select` will score of those that training keeps."""
    averages = len(train.ema_decays) + (train.swa_share > 0)
    offers = {"raw": 1, "ema": len(train.ema_decays), "swa": int(train.swa_share > 0), "soup": int(averages >= 2)}
    return sum(count for kind, count in offers.items() if kind in select.candidates)


def extrapolated(work: Callable[[int], None], passes: int, device: torch.device) -> float:
    """Seconds of ``work(passes)``, from those of one pass and of a few. A pass is taken for half its mean at least."""
    work(1)  # what only the first time costs
    one, few = timed(lambda: work(1), device), timed(lambda: work(min(FEW, passes)), device)
    if passes <= FEW:
        return max(one, few)
    return one + (passes - 1) * max((few - one) / (FEW - 1), few / FEW / 2)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until ``work`` is done on the device."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
