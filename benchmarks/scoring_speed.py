"""How fast plain scoring is beside the forward pass of training, on the same tokens in batches of the same size.

Scoring is the shipped scorers' whole work: the stream goes to the device, batches are cut, the scores come back. The
digest of the weights, once a stream whatever its length, is timed apart. Training is the forward pass alone, as the
train stage would run it: its kernels, its compiler or its CUDA graph where it would have them, its batches on the
device before; once with all that the backward pass needs (its fused loss works out the gradients of the last matrix
there and then), once without. Where the model keeps documents apart, it is told where they begin, as by a loader.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.attention import Documents, choose_backend
from golf.model.kernels.launch import kernels_available
from golf.model.transformer import Transformer
from golf.model.weights import ModelSpec, build
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.runtime.device import choose_compile
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.evaluator import SlidingScorer
from golf.scoring.state import digest
from golf.train.capture import record
from golf.train.feed import Batch, Forward
from golf.train.loop import wait_for
from golf.train.run import compile_forward

GOAL = 0.9  # of the forward pass of training
ENTRIES = 64  # segments in a batch are padded to a multiple of so many, as loaders do: few shapes


def plain(window: int, rows: int) -> Eval:
    """Windows that don't overlap, and no adaptation."""
    return Eval(
        seq_len=window,
        stride=window,
        batch_windows=rows,
        ttt="none",
        ttt_chunk_tokens=rows * window,
        lora_documents=2 * rows,  # read half a window at a time
    )


def compare(
    spec: ModelSpec,
    state: Mapping[str, Tensor],
    tokens: Tensor,
    config: Eval,
    device: torch.device,
    rounds: int,
    batches: int,
) -> dict[str, Any]:
    """Tokens a second of each way, every round on other tokens; a ratio is the median of the rounds'.

    Args:
        spec, state: the model.
        tokens: (T,) int64, read again from the start where they end.
        config: the window and how many a batch, from :func:`plain`.
        device: where.
        rounds: turns of all ways.
        batches: of a turn.
    """
    ways, facts = make_ways(spec, state, config, device)
    size = batches * config.batch_windows * config.seq_len
    needed = size * (rounds + 1) + 1
    tokens = tokens.repeat(-(-needed // tokens.numel()))[:needed]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        part = tokens[number * size : (number + 1) * size + 1]
        for name, way in ways.items():
            taken = way(part)
            if number:  # the first round warms up
                seconds[name].append(taken)
    rates = {name: round(size / statistics.median(taken)) for name, taken in seconds.items()}
    scoring = [name for name in ways if not name.startswith("training")]
    ratios = {
        f"{ours} / {theirs}": sorted(round(b / a, 3) for a, b in zip(seconds[ours], seconds[theirs], strict=True))
        for ours in scoring
        for theirs in ways
        if theirs not in scoring
    }
    return {
        **facts,
        "window": config.seq_len,
        "rows": config.batch_windows,
        "batches": batches,
        "rounds": rounds,
        "tokens_per_second": rates,
        "ratios": {name: {"median": statistics.median(found), "all": found} for name, found in ratios.items()},
        "goal": GOAL,
    }


def make_ways(
    spec: ModelSpec, state: Mapping[str, Tensor], config: Eval, device: torch.device
) -> tuple[dict[str, Callable[[Tensor], float]], dict[str, Any]]:
    """From a name to what does its work on a stream and gives the seconds; and what was chosen for this machine."""
    hardware = Hardware()
    attention, _ = choose_backend("auto", device)
    model = build(spec, state, attention, device)
    kernels, _ = kernels_available(device)
    model.kernels, model.graphs = kernels, True
    compiled, _ = choose_compile(hardware, device, kernels)
    begun = time.perf_counter()
    digest(model)
    begun, digested = time.perf_counter(), time.perf_counter() - begun  # the first call loads what it needs
    digest(model)
    digested = time.perf_counter() - begun
    trainee = build(spec, state, attention, device)
    trainee.kernels = kernels
    forward: Forward = compile_forward(trainee) if compiled else trainee
    graphs = device.type == "cuda" and not compiled

    def scored(scorer: Any, digests: bool) -> Callable[[Tensor], float]:
        def way(tokens: Tensor) -> float:
            wait_for(device)
            begin = time.perf_counter()
            scorer.score(tokens)
            wait_for(device)
            return time.perf_counter() - begin - digests * digested

        return way

    ways = {"windows": scored(SlidingScorer(model, config), True)}
    if spec.config.document_mask:
        ways["documents"] = scored(DocumentScorer(model, config, adapts=False), False)
    for name, gradients in (("training", True), ("training, no gradients", False)):
        ways[name] = Training(trainee, forward, config, gradients, graphs)
    facts = {
        "attention": attention,
        "passes": model.passes,
        "both": f"kernels {'on' if kernels else 'off'}",
        "training": "compiled" if compiled else "CUDA graph" if graphs else "launched",
        "digest_seconds": round(digested, 4),
    }
    return ways, facts


class Training:
    """The forward pass of training over the batches of a stream: called with it, gives the seconds."""

    def __init__(self, model: Transformer, forward: Forward, config: Eval, gradients: bool, graphs: bool) -> None:
        self.model, self.forward, self.config = model, forward, config
        self.gradients, self.graphs = gradients, graphs
        self.recorded: dict[torch.Size | None, tuple[torch.cuda.CUDAGraph, Batch]] = {}
        self.kept: Tensor | None = None

    def __call__(self, tokens: Tensor) -> float:
        """Seconds of all batches, which lie on the device before."""
        device = next(self.model.parameters()).device
        batches = self.batches(tokens.to(device))
        self.model.train()
        runs = [self.run_of(batch) for batch in batches]
        wait_for(device)
        begin = time.perf_counter()
        for run in runs:
            run()
        wait_for(device)
        return time.perf_counter() - begin

    def batches(self, tokens: Tensor) -> list[Batch]:
        """``tokens`` (T,) as batches of windows, with the segments of each where documents are kept apart."""
        config = self.config
        inputs, targets = (part.view(-1, config.batch_windows, config.seq_len) for part in (tokens[:-1], tokens[1:]))
        if not self.model.config.document_mask:
            return [Batch(*pair, None) for pair in zip(inputs, targets, strict=True)]
        found = [starts_of(each, self.model.bos_id) for each in inputs]
        entries = -(-max(each.numel() for each in found) // ENTRIES) * ENTRIES
        padded = [F.pad(each, (0, entries - each.numel()), value=inputs[0].numel()) for each in found]
        documents = [Documents(starts, config.seq_len) for starts in padded]
        return [Batch(*parts) for parts in zip(inputs, targets, documents, strict=True)]

    def run_of(self, batch: Batch) -> Callable[[], None]:
        """What computes ``batch``: a recorded graph, its inputs copied first, or the forward pass itself."""
        if not self.graphs:
            return lambda: self.once(batch)
        key = None if batch.documents is None else batch.documents.starts.shape
        if key not in self.recorded:
            own = batch.copy()
            self.recorded[key] = (record(lambda: self.once(own), self.recorded.values()), own)
        graph, inputs = self.recorded[key]

        def replay() -> None:
            for own, new in zip(batch.tensors(), inputs.tensors(), strict=True):
                new.copy_(own)
            graph.replay()

        return replay

    def once(self, batch: Batch) -> None:
        """One forward pass; what a backward pass would need lives until the next."""
        self.kept = None
        with torch.set_grad_enabled(self.gradients):
            self.kept = batch.nll(self.forward).mean()


def starts_of(inputs: Tensor, bos_id: int) -> Tensor:
    """(S + 1,) int32: where the segments of ``inputs`` (rows, T) begin, read as one stream, and its end."""
    begins = inputs == bos_id
    begins[:, 0] = True
    return F.pad(begins.flatten().nonzero().flatten(), (0, 1), value=inputs.numel()).to(torch.int32)
