"""The parts of a run, put together from its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from golf.data.loader import Loader, Stream, WindowLoader
from golf.data.packing import PackedLoader, document_starts
from golf.model.attention import choose_backend
from golf.model.kernels.launch import kernels_available
from golf.model.weights import ModelSpec, build
from golf.optim.averaging import Averages
from golf.optim.groups import build_optimizer
from golf.runtime.device import choose_compile, describe
from golf.runtime.rng import seed_all
from golf.train.capture import Captured
from golf.train.checkpoint import Store, data_digest, run_key
from golf.train.clock import Clock, StepClock, WallClock
from golf.train.distributed import Ranks
from golf.train.feed import Feed, Forward
from golf.train.flops import peak_flops
from golf.train.log import Curve, say
from golf.train.meter import Meter
from golf.train.phases import Phase
from golf.train.plan import Plan, TrainConfig
from golf.train.state import TrainState

GRAPHS = 64  # of one function that torch.compile keeps: one a phase, its default of 8 is few


@dataclass
class Run:
    """The parts of a run, as every function of the loop takes them."""

    config: TrainConfig
    plan: Plan
    ranks: Ranks
    clock: Clock
    forward: Forward
    captured: Captured | None  # on a GPU: what takes the place of ``forward``
    state: TrainState
    feed: Feed
    curve: Curve
    meter: Meter
    store: Store | None
    facts: dict[str, Any] = field(default_factory=dict)
    phase: Phase | None = None  # of the last step; None: there was none
    start: int = 0  # steps done before this process
    trained: int = 0  # tokens before this process
    steps: int = 0  # steps done


def set_up(config: TrainConfig, plan: Plan, ranks: Ranks) -> Run:
    """Build every part from the seed, and say once what was chosen for this machine and why."""
    train, device = config.train, ranks.device
    loader = open_loader(config, plan, ranks)
    attention, why_attention = choose_backend(config.hardware.attention, device)
    kernels, why_kernels = kernels_available(device)
    if config.hardware.kernels == "off":
        kernels, why_kernels = False, "hardware.kernels"
    compiled, why_compiled = choose_compile(config.hardware, device, kernels)
    seed_all(config.seed)
    model = build(ModelSpec(config.model, config.vocab_size, config.bos_id), attention=attention, device=device)
    model.kernels = kernels
    forward = compile_forward(model) if compiled else model
    replays = device.type == "cuda" and not compiled and config.hardware.graphs == "auto"
    captured = Captured(model, forward) if replays else None
    averages = Averages(model, train.ema_decays, swa_share=train.swa_share, swa_every=train.swa_every)
    store = None
    if config.checkpoints is not None:
        folder = config.checkpoints / run_key(config.determining(), config.shards)
        store = Store(folder, train.checkpoint_seconds, say)
    division, name = plan.divisions[train.batch_tokens], describe(device)
    facts = {
        "device": name,
        "processes": ranks.count,
        "micro_batch_tokens": division.micro_rows * plan.row_tokens,
        "accumulation": division.rows // division.micro_rows,
        "attention": f"{attention}: {why_attention}",
        "compiled": compiled,
        "kernels": kernels,
        "graphs": captured is not None,
        "torch": torch.__version__,
        "nccl": config.hardware.nccl or {},
    }
    if ranks.first:
        say(
            f"{name} x {ranks.count}; attention {facts['attention']}; "
            f"{'compiled' if compiled else 'eager'}: {why_compiled}; kernels {'on' if kernels else 'off'}: "
            f"{why_kernels}; {'CUDA graphs; ' if captured else ''}{facts['accumulation']} micro-batches of "
            f"{facts['micro_batch_tokens']:,} tokens a step; clock: {plan.clock}"
        )
    return Run(
        config=config,
        plan=plan,
        ranks=ranks,
        clock=StepClock(train.steps) if plan.budget_seconds is None else WallClock(plan.budget_seconds, ranks),
        forward=forward,
        captured=captured,
        state=TrainState(model, build_optimizer(model, config.optim, ranks, compiled=compiled), averages),
        feed=Feed(loader, ranks, config.vocab_size),
        curve=Curve(ranks, train.spike_nats),
        meter=Meter(device, ranks.count, peak_flops(name), captured),
        store=store,
        facts=facts,
    )


def compile_forward(model: torch.nn.Module) -> Forward:
    """One graph for each shape and phase that comes, each made when it comes first."""
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    return torch.compile(model, dynamic=False, fullgraph=True)


def open_loader(config: TrainConfig, plan: Plan, ranks: Ranks) -> Loader:
    """The rows that ``train.pack`` asks for. The first rank finds the documents, the others map what it kept."""
    train, stream = config.train, Stream.open(config.shards, "train")
    if train.pack == "windows":
        return WindowLoader(stream, seq_len=plan.row_tokens, seed=config.seed)
    cache = None
    if config.checkpoints is not None:
        cache = config.checkpoints / "documents" / f"{data_digest(config.shards)}-{config.bos_id}.npy"
    starts = document_starts(stream, config.bos_id, cache) if ranks.first else None
    ranks.meet()
    return PackedLoader(
        stream,
        document_starts(stream, config.bos_id, cache) if starts is None else starts,
        bos_id=config.bos_id,
        row_tokens=plan.row_tokens,
        shortest=min(phase.seq_len for phase in plan.phases),
        seed=config.seed,
    )
