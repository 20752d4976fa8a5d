"""The training loop: one batch after the other until the budget, in steps or in seconds, is spent.

``train`` reads top to bottom. It is told everything by its argument and reads no parameter file, so the stage and
the shipped program train by the same code; under torchrun each rank calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from golf.model.weights import save_model
from golf.optim.schedule import lr_scale
from golf.runtime.errors import ConfigError, DataError
from golf.runtime.files import whole_directory
from golf.runtime.progress import Progress
from golf.runtime.report import Stopwatch
from golf.train.clock import Pace, WallClock
from golf.train.connect import connect
from golf.train.diagnose import diagnosis
from golf.train.distributed import Ranks, world_size
from golf.train.log import Diverged, say
from golf.train.meter import speed
from golf.train.phases import phase_at
from golf.train.plan import TrainConfig, check, make_plan
from golf.train.run import Run, set_up
from golf.train.step import enter, logged, ramp, take_step
from golf.train.warmup import measure_work, warm_up


@dataclass
class TrainResult:
    """What a run ended with. ``first``: this process is the one that reports, the only one whose weights are written.

    Attributes:
        steps, tokens: trained, over all ranks and resumptions.
        final_loss: nats a token, mean over the steps of the last row of ``curve``.
        parameters: trained numbers.
        clock: see :class:`golf.train.plan.Plan`.
        resumed: a checkpoint of an interrupted run was continued.
        curve: rows of :data:`golf.train.log.COLUMNS`.
        speed: rows of :data:`golf.train.meter.COLUMNS`.
        timing: what depends on the machine: speed, memory, device, versions.
        checkpoints: folder to remove once the result is safe; None: there is none.
        left_seconds: of the clock, for reads of training text after the last step; None: steps were the budget.
    """

    first: bool
    steps: int
    tokens: int
    final_loss: float
    parameters: int
    clock: str
    resumed: bool
    curve: list[list[float]]
    speed: list[list[float | None]]
    timing: dict[str, Any]
    checkpoints: Path | None
    left_seconds: float | None


Reserve = Callable[[Ranks], float]  # seconds of reads after the last step; every rank asks, the first one's count


def train(
    config: TrainConfig, watch: Stopwatch | None = None, failure: Path | None = None, reserve: Reserve | None = None
) -> TrainResult:
    """Train one seed and write its weights to ``config.out``: ``raw``, an ``ema-DECAY`` each, ``swa``, model.json.

    Args:
        config: everything; see :class:`golf.train.plan.TrainConfig`.
        watch: gets the seconds of the parts setup, warm-up, train and write.
        failure: file for the word of a rank that hangs, see :func:`golf.train.connect.connect`.
        reserve: see :func:`set_aside`.

    Raises:
        ConfigError, DataError, MissingInput: the run cannot be done as asked for; told before anything is computed.
        Diverged: its loss or gradient went wrong; its checkpoints stay.
    """
    check(config)
    make_plan(config.train, config.hardware, world_size(), config.model.loop_passes)  # refused before the ranks meet
    with connect(config.hardware, failure) as ranks:
        return train_among(ranks, config, watch or Stopwatch(), reserve)


def train_among(ranks: Ranks, config: TrainConfig, watch: Stopwatch, reserve: Reserve | None = None) -> TrainResult:
    """:func:`train` by ranks that have met, and stay together for what comes after it."""
    plan = make_plan(config.train, config.hardware, ranks.count, config.model.loop_passes)
    with watch.part("setup"):
        run = set_up(config, plan, ranks)
        elapsed = resume(run)
    with ExitStack() as ends:
        ends.enter_context(run.feed)
        ends.enter_context(run.store or nullcontext())
        with watch.part("warm-up"):
            if ranks.device.type == "cuda" or run.facts["compiled"] or plan.budget_seconds is not None:
                measure_work(run)
                warm_up(run)
                wait_for(ranks.device)
            set_aside(run, reserve)
            ranks.meet()
        run.meter.begin(run.feed.waited)
        run.clock.begin(elapsed)
        with watch.part("train"):
            optimize(run)
            wait_for(ranks.device)
        left = None if plan.total_seconds is None else plan.total_seconds - run.clock.elapsed
        run.facts |= speed(run, watch.parts["train"])
    with watch.part("write"):
        if ranks.first:
            write_weights(run)
    return TrainResult(
        first=ranks.first,
        steps=run.steps,
        tokens=run.state.place.tokens,
        final_loss=run.curve.last_loss,
        parameters=sum(param.numel() for param in run.state.model.parameters()),
        clock=plan.clock,
        resumed=run.start > 0,
        curve=run.curve.rows,
        speed=run.meter.rows,
        timing=run.facts,
        checkpoints=run.store.folder if run.store else None,
        left_seconds=left,
    )


def set_aside(run: Run, reserve: Reserve | None) -> None:
    """Take from the clock what reads of training text after the last step were just measured to need.

    Only where ``train.reserve_seconds`` is not given; without ``reserve`` nothing reads after the last step.

    Raises:
        ConfigError: nothing would be left for steps.
    """
    total, seconds = run.plan.total_seconds, run.config.train.reserve_seconds
    if total is None:
        return
    if seconds is None:
        seconds = run.ranks.first_says(reserve(run.ranks) if reserve else 0.0)
        if seconds >= total:
            raise ConfigError(
                f"train.seconds: found a clock of {total:g} s, needed more than the {seconds:.1f} s that reading "
                "training text after the last step was measured to take",
                hint="dvc exp run -S quant.calibration_tokens=... with half of its value",
            )
        run.plan = replace(run.plan, budget_seconds=total - seconds)
        run.clock = WallClock(total - seconds, run.ranks)
        if run.ranks.first:
            say(f"{seconds:.2f} of {total:g} s are set aside for reads of training text after the last step")
    run.facts["reserve_seconds"] = round(total - (run.plan.budget_seconds or 0.0), 3)


def resume(run: Run) -> float:
    """Continue the last checkpoint of this very run, if there is one; the seconds of this clock that it had spent.

    The first rank reads; the others take the whole state from it, which makes them equal in any case.

    Raises:
        DataError: the checkpoint is of another configuration.
    """
    found = run.store.latest() if run.store and run.ranks.first else None
    if found is not None and run.store is not None:
        try:
            run.state.load(found.tensors)
        except DataError as error:
            folder = run.store.folder
            raise DataError(f"{folder}, step {found.step}: {error}", hint=f"rm -r {folder}") from None
        run.curve.rows = found.rows
        say(f"resumed after step {found.step} and {found.rank_seconds:.1f} s x ranks")
    if run.ranks.count > 1:
        shared = run.state.copy()
        if found is not None:  # of the optimizer's state the first rank has loaded its own part, and shares all of it
            for name in shared.keys() & found.tensors.keys():
                shared[name].copy_(found.tensors[name])
        run.ranks.take_from_first_(shared)
        run.state.load(shared)
    run.trained = run.state.place.tokens
    run.start = run.steps = int(run.ranks.first_says(found.step if found else 0))
    run.facts["resumed"] = run.start > 0
    return run.ranks.first_says(found.rank_seconds if found else 0.0) / run.ranks.count


def optimize(run: Run) -> None:
    """Steps until the budget is spent. The device is waited for at logged steps only.

    Raises:
        Diverged: a loss or gradient went wrong.
    """
    config, scale = run.config.train, 1.0
    pace = Pace(run.ranks.device)
    total = run.plan.budget_seconds or config.steps
    with Progress("train", total) if run.ranks.first else nullcontext() as bar:
        for step in count(run.start):
            progress = run.clock.progress(step)
            if progress >= 1.0:
                break
            enter(run, phase_at(progress, config, run.config.model.loop_passes), step)
            scale = lr_scale(progress, step, config) * ramp(run, step)
            take_step(run, step, scale, run.clock.after(step, progress))
            pace.step_queued()
            run.steps = step + 1
            if logged(config, run.steps):
                log(run, scale)
            if bar is not None:
                done = run.steps if run.plan.budget_seconds is None else run.clock.elapsed
                bar.update(done, f"step {run.steps}, loss {run.curve.last_loss:.3f}, {run.meter.last}")
        log(run, scale)


def log(run: Run, scale: float) -> None:
    """Add a row to the curve; its numbers being good, keep a checkpoint if one is due.

    Raises:
        Diverged: they are not; it says where to look, and names the last checkpoint.
    """
    try:
        run.curve.flush(run.steps, run.state.place.tokens, scale)
    except Diverged as error:
        raise Diverged(error.step, error.what, error.norms, error.begins, diagnosis(run, error)) from None
    run.meter.row(run.steps, run.feed.waited)
    # The ranks hold parts of the optimizer's state, so all of them have to come for it.
    if run.store and run.ranks.first_says(run.store.due()):
        tensors = run.state.tensors()
        if run.ranks.first:
            run.store.save(run.steps, run.clock.elapsed * run.ranks.count, run.curve.rows, tensors)


def write_weights(run: Run) -> None:
    """Write the weights and every average to ``config.out``, all of them or none."""
    config, state = run.config, run.state
    with whole_directory(config.out) as folder:
        for name, weights in {"raw": state.model.state_dict(), **state.averages.states()}.items():
            save_model(folder, name, weights, config.model, config.vocab_size, config.bos_id)


def wait_for(device: torch.device) -> None:
    """Until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
