"""One optimizer step, and what changes between two of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from golf.model.linear import Grid, set_fake_quant
from golf.params.train import Train
from golf.train.feed import Batch, Forward, Request
from golf.train.phases import Phase
from golf.train.run import Run


def enter(run: Run, phase: Phase, step: int) -> None:
    """Let ``step`` and those after it be of ``phase``: the loop's passes, quantisation, length and batch.

    The averages never see rounded weights.
    """
    before, config, place = run.phase, run.config.train, run.state.place
    if phase == before:
        return
    if run.config.model.loop_passes > 1 and (before is None or before.passes != phase.passes):
        run.state.model.set_passes(phase.passes)
    if phase.quantized != (before is not None and before.quantized):
        matrices, embeddings = grids(config) if phase.quantized else (None, None)
        set_fake_quant(run.state.model, matrices, embeddings)
    if place.seq_len not in (0, phase.seq_len):
        place.grown_at = step
    place.seq_len = phase.seq_len
    run.phase = phase
    run.curve.expect_change(step)


def grids(config: Train) -> tuple[Grid, Grid]:
    """What late QAT rounds to: matrices, and embeddings."""
    return (config.qat_bits, config.qat_clip_sigma), (config.qat_embed_bits, config.qat_embed_clip_sigma)


def ramp(run: Run, step: int) -> float:
    """The share of the learning rate that ``step`` has: it rises from 0 over ``seq_ramp_steps`` after a growth."""
    steps, grown_at = run.config.train.seq_ramp_steps, run.state.place.grown_at
    return min(1.0, (step - grown_at + 1) / steps) if steps and grown_at >= 0 else 1.0


def take_step(run: Run, step: int, scale: float, progress: float) -> None:
    """One optimizer step on the next batch: gradients, their mean over ranks, clipping, update, averages. No wait."""
    assert run.phase is not None, "enter comes first"
    optimizer, phase, place = run.state.optimizer, run.phase, run.state.place
    row_tokens, pairs = run.plan.row_tokens, run.feed.pairs
    request = Request(place.tokens // row_tokens, phase.batch_tokens // row_tokens, phase.seq_len)
    batches = run.feed.micro_batches(request, run.plan.divisions[phase.batch_tokens].micro_rows)
    loss = run.captured(batches) if run.captured else accumulate(run.forward, batches)
    norms = gradient_norms(optimizer.params)
    norm = optimizer.step(scale, step, progress, want_norm=logged(run.config.train, step + 1))
    optimizer.zero_grad()
    run.state.averages.update(progress)
    place.tokens += phase.batch_tokens
    run.curve.add(loss, norm, norms, place.tokens - phase.batch_tokens)
    run.meter.count(phase.batch_tokens, run.feed.pairs - pairs, phase.passes)


def accumulate(forward: Forward, batches: Sequence[Batch]) -> Tensor:
    """Add the gradients of the mean loss over all of ``batches`` (of one size) to the weights'; that loss, 0-d."""
    total: Tensor | None = None
    for batch in batches:
        loss = batch.nll(forward).mean() / len(batches)
        loss.backward()
        total = loss.detach() if total is None else total + loss.detach()
    if total is None:
        raise ValueError("no batch to train on")
    return total


def gradient_norms(params: Sequence[Tensor]) -> Tensor:
    """(parameters,): the norm of each one's gradient on this rank, 0 without; what a diagnosis will ask for."""
    gradients = [param.grad for param in params if param.grad is not None]
    norms = iter(torch._foreach_norm(gradients))
    zero = params[0].new_zeros(())
    return torch.stack([zero if param.grad is None else next(norms) for param in params])


def logged(config: Train, steps: int) -> bool:
    """Whether the curve has a row after ``steps`` steps."""
    return steps == 1 or steps % config.log_every == 0
