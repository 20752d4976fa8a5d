"""The training loop: one batch after the other until the budget, in steps or in seconds, is spent.

``train`` reads top to bottom. It is told everything by its argument and reads no parameter file, so the stage and
the shipped program train by the same code; under torchrun each rank calls it.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf.data.loader import TrainLoader
from golf.model.attention import choose_backend
from golf.model.linear import set_fake_quant
from golf.model.weights import ModelSpec, build, save_model
from golf.optim.averaging import Averages
from golf.optim.groups import build_optimizer
from golf.optim.schedule import lr_scale
from golf.runtime.device import choose_compile, describe
from golf.runtime.files import whole_directory
from golf.runtime.progress import Progress
from golf.runtime.report import Stopwatch
from golf.runtime.rng import seed_all
from golf.train.checkpoint import Store, run_key
from golf.train.clock import Clock, Pace, StepClock, WallClock
from golf.train.distributed import Ranks, join, world_size
from golf.train.feed import Batch, Feed
from golf.train.log import Curve, NotFinite
from golf.train.plan import Plan, TrainConfig, check, make_plan
from golf.train.state import TrainState

WARM_UP_STEPS = 2  # the second one finds every kernel compiled and every buffer in the allocator's cache

Forward = Callable[[Tensor, Tensor], Tensor]  # tokens, targets (B, T) int64 -> nll (B, T)


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
        timing: what depends on the machine: speed, memory, device, versions.
        checkpoints: folder to remove once the result is safe; None: there is none.
    """

    first: bool
    steps: int
    tokens: int
    final_loss: float
    parameters: int
    clock: str
    resumed: bool
    curve: list[list[float]]
    timing: dict[str, Any]
    checkpoints: Path | None


@dataclass
class Run:
    """The parts of a run, as every function below takes them."""

    config: TrainConfig
    plan: Plan
    ranks: Ranks
    clock: Clock
    forward: Forward
    state: TrainState
    feed: Feed
    curve: Curve
    store: Store | None
    facts: dict[str, Any]
    quantized: bool = False  # whether the forward pass sees rounded weights
    start: int = 0  # steps done before this process
    steps: int = 0  # steps done


def train(config: TrainConfig, watch: Stopwatch | None = None) -> TrainResult:
    """Train one seed and write its weights to ``config.out``: ``raw``, an ``ema-DECAY`` each, ``swa``, model.json.

    Args:
        config: everything; see :class:`golf.train.plan.TrainConfig`.
        watch: gets the seconds of the parts setup, warm-up, train and write.

    Raises:
        ConfigError, DataError, MissingInput: the run cannot be done as asked for; told before anything is computed.
        NotFinite: it diverged; its checkpoints stay.
    """
    watch = watch or Stopwatch()
    check(config)
    plan = make_plan(config.train, config.hardware, world_size())
    with join(config.hardware) as ranks:
        with watch.part("setup"):
            run = set_up(config, plan, ranks)
            elapsed = resume(run)
        with run.feed, run.store or nullcontext():
            with watch.part("warm-up"):
                if ranks.device.type == "cuda" or run.facts["compiled"] or plan.budget_seconds is not None:
                    warm_up(run)
                graphs = compiled_graphs()
                ranks.meet()
            run.clock.begin(elapsed)
            with watch.part("train"):
                optimize(run)
                wait_for(ranks.device)
            run.facts |= speed(run, watch.parts["train"], compiled_graphs() - graphs)
        with watch.part("write"):
            if ranks.first:
                write_weights(run)
    return TrainResult(
        first=ranks.first,
        steps=run.steps,
        tokens=run.steps * config.train.batch_tokens,
        final_loss=run.curve.last_loss,
        parameters=sum(param.numel() for param in run.state.model.parameters()),
        clock=plan.clock,
        resumed=run.start > 0,
        curve=run.curve.rows,
        timing=run.facts,
        checkpoints=run.store.folder if run.store else None,
    )


def set_up(config: TrainConfig, plan: Plan, ranks: Ranks) -> Run:
    """Build every part from the seed, and say once what was chosen for this machine and why."""
    train, device = config.train, ranks.device
    loader = TrainLoader(
        config.shards,
        seq_len=train.seq_len,
        batch_tokens=train.batch_tokens,
        seed=config.seed,
        rank=ranks.index,
        world_size=ranks.count,
    )
    attention, why_attention = choose_backend(config.hardware.attention, device)
    compiled, why_compiled = choose_compile(config.hardware, device)
    seed_all(config.seed)
    model = build(ModelSpec(config.model, config.vocab_size, config.bos_id), attention=attention, device=device)
    averages = Averages(model, train.ema_decays, swa_share=train.swa_share, swa_every=train.swa_every)
    store = None
    if config.checkpoints is not None:
        folder = config.checkpoints / run_key(config.determining(), config.shards)
        store = Store(folder, train.checkpoint_seconds, say)
    facts = {
        "device": describe(device),
        "processes": ranks.count,
        "micro_batch_tokens": plan.micro_windows * train.seq_len,
        "accumulation": plan.accumulation,
        "attention": f"{attention}: {why_attention}",
        "compiled": compiled,
        "torch": torch.__version__,
    }
    if ranks.first:
        say(
            f"{facts['device']} x {ranks.count}; attention {facts['attention']}; "
            f"{'compiled' if compiled else 'eager'}: {why_compiled}; {plan.accumulation} micro-batches of "
            f"{facts['micro_batch_tokens']:,} tokens a step; clock: {plan.clock}"
        )
    return Run(
        config=config,
        plan=plan,
        ranks=ranks,
        clock=StepClock(train.steps) if plan.budget_seconds is None else WallClock(plan.budget_seconds, ranks),
        forward=torch.compile(model, dynamic=False, fullgraph=True) if compiled else model,
        state=TrainState(model, build_optimizer(model, config.optim), averages),
        feed=Feed(loader, plan.micro_windows, device),
        curve=Curve(ranks, train.batch_tokens),
        store=store,
        facts=facts,
    )


def resume(run: Run) -> float:
    """Continue the last checkpoint of this very run, if there is one; the seconds of this clock that it had spent.

    The first rank reads; the others take the whole state from it, which makes them equal in any case.
    """
    found = run.store.latest() if run.store and run.ranks.first else None
    if found is not None:
        run.state.load(found.tensors)
        run.curve.rows = found.rows
        say(f"resumed after step {found.step} and {found.rank_seconds:.1f} s x ranks")
    if run.ranks.count > 1:
        shared = run.state.copy()
        run.ranks.take_from_first_(shared)
        run.state.load(shared)
    run.start = run.steps = int(run.ranks.first_says(found.step if found else 0))
    run.facts["resumed"] = run.start > 0
    return run.ranks.first_says(found.rank_seconds if found else 0.0) / run.ranks.count


def warm_up(run: Run) -> None:
    """Take steps that compile every kernel, with and without quantisation, then restore all that they changed."""
    before = run.state.copy()
    for quantized in (False, True) if run.config.train.qat_share > 0 else (False,):
        set_quantization(run, quantized)
        for _ in range(WARM_UP_STEPS):
            take_step(run, 0, 1.0, 0.0)
    set_quantization(run, False)
    run.curve.forget()
    run.state.load(before)
    wait_for(run.ranks.device)


def optimize(run: Run) -> None:
    """Steps until the budget is spent. The device is waited for at logged steps only.

    Raises:
        NotFinite: the run diverged.
    """
    config, scale = run.config.train, 1.0
    pace = Pace(run.ranks.device)
    total = run.plan.budget_seconds or config.steps
    with Progress("train", total) if run.ranks.first else nullcontext() as bar:
        for step in count(run.start):
            progress = run.clock.progress(step)
            if progress >= 1.0:
                break
            set_quantization(run, config.qat_share > 0 and progress >= 1.0 - config.qat_share)
            scale = lr_scale(progress, step, config)
            take_step(run, step, scale, run.clock.after(step, progress))
            pace.step_queued()
            run.steps = step + 1
            if run.steps == 1 or run.steps % config.log_every == 0:
                log(run, scale)
            if bar is not None:
                done = run.steps if run.plan.budget_seconds is None else run.clock.elapsed
                bar.update(done, f"step {run.steps}, loss {run.curve.last_loss:.3f}")
        log(run, scale)


def take_step(run: Run, step: int, scale: float, progress: float) -> None:
    """One optimizer step on the batch of ``step``: gradients, their mean over ranks, clipping, update, averages."""
    optimizer = run.state.optimizer
    loss = accumulate(run.forward, run.feed.micro_batches(step))
    gradients = [param.grad for param in optimizer.params if param.grad is not None]
    run.ranks.mean_(gradients)
    norm = clip(gradients, run.config.optim.grad_clip)
    optimizer.step(scale, step)
    optimizer.zero_grad()
    run.state.averages.update(progress)
    run.curve.add(loss, norm)


def accumulate(forward: Forward, batches: list[Batch]) -> Tensor:
    """Add the gradients of the mean loss over all of ``batches`` (of one size) to the weights'; that loss, 0-d."""
    total: Tensor | None = None
    for tokens, targets in batches:
        loss = forward(tokens, targets).mean() / len(batches)
        loss.backward()
        total = loss.detach() if total is None else total + loss.detach()
    if total is None:
        raise ValueError("no batch to train on")
    return total


def clip(gradients: list[Tensor], limit: float) -> Tensor:
    """Scale ``gradients``, in place, to a joint norm of at most ``limit`` (0: leave them); the norm before, 0-d.

    The scale is computed on the device: no wait. Torch's own form allows for a ``1e-6`` in the denominator.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if limit > 0:
        torch._foreach_mul_(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0))
    return norm


def set_quantization(run: Run, on: bool) -> None:
    """Let the forward pass see weights rounded to the grid, or the weights themselves. The averages never do."""
    if on != run.quantized:
        config = run.config.train
        set_fake_quant(run.state.model, config.qat_bits if on else None, config.qat_clip_sigma)
        run.quantized = on


def log(run: Run, scale: float) -> None:
    """Add a row to the curve; the numbers being finite, keep a checkpoint if one is due.

    Raises:
        NotFinite: they are not; it names the last checkpoint.
    """
    try:
        run.curve.flush(run.steps, scale)
    except NotFinite as error:
        last = run.store.last_step if run.store else None
        kept = "no checkpoint" if last is None or run.store is None else f"{run.store.folder} has step {last}"
        raise NotFinite(error.step, error.loss, error.norm, kept) from None
    if run.store and run.ranks.first and run.store.due():
        run.store.save(run.steps, run.clock.elapsed * run.ranks.count, run.curve.rows, run.state.tensors())


def write_weights(run: Run) -> None:
    """Write the weights and every average to ``config.out``, all of them or none."""
    config, state = run.config, run.state
    with whole_directory(config.out) as folder:
        for name, weights in {"raw": state.model.state_dict(), **state.averages.states()}.items():
            save_model(folder, name, weights, config.model, config.vocab_size, config.bos_id)


def speed(run: Run, seconds: float, recompiles: int) -> dict[str, Any]:
    """What the timing report says of this process's part of the run; it trained for ``seconds``."""
    steps = run.steps - run.start
    if run.ranks.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(run.ranks.device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in bytes there, in KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "clock_seconds": round(run.clock.elapsed, 3),
        "tokens_per_second": round(steps * run.config.train.batch_tokens / seconds),
        "ms_per_step": round(1000 * seconds / max(steps, 1), 3),
        "peak_memory_bytes": peak,
        "recompiles": recompiles,
    }


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    if "torch._dynamo" not in sys.modules:
        return 0
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def wait_for(device: torch.device) -> None:
    """Until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(line: str) -> None:
    """One line to the log."""
    print(f"train: {line}", file=sys.stderr, flush=True)
