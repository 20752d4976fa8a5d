"""The training loop against the loop that one would write first: the same model, batches and arithmetic on one CPU.

The plain loop is eager PyTorch, a parameter group at a time: ``torch.optim.AdamW``, a Muon that goes through its
matrices one by one, ``clip_grad_norm_``, the same schedules and late QAT, and nothing else; ours also keeps its
averages, its curve and its clock. Both train whole runs in turn, from the same weights on the same tokens, and must end
with the same loss.

    python -m benchmarks.smoke_loop                         # after `dvc repro tokenize`
    python -m benchmarks.smoke_loop --repeats 21 --set train.steps=60 --out smoke_loop.json

A ratio is of ours to plain in tokens a second, both of one repeat; its median, quartiles and extremes are printed, and
the ratio of the fastest run of each: by the wall clock, and by the CPU time of the process, which others disturb less.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.train_step import configuration
from golf.data.loader import permute
from golf.data.shards import load_index, read_split
from golf.model.linear import set_fake_quant
from golf.model.weights import ModelSpec, build, tensor_groups
from golf.optim.groups import muon_momentum
from golf.optim.schedule import lr_scale
from golf.runtime.errors import DataError, run_main
from golf.runtime.files import write_json
from golf.runtime.report import Stopwatch
from golf.runtime.rng import seed_all
from golf.train import loop, step
from golf.train.connect import connect
from golf.train.distributed import Ranks
from golf.train.plan import TrainConfig, check, make_plan
from golf.train.run import set_up
from golf.train.step import grids

SAME_LOSS = 2e-3  # nats: Newton-Schulz amplifies rounding from step to step


class Result(NamedTuple):
    """Of one run: the seconds of its steps, of them those in named parts, and the loss over its last logged steps."""

    wall: float
    cpu: float
    parts: dict[str, float]
    loss: float


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by five steps of Newton-Schulz, one matrix at a time."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, mu = group["lr"], group["momentum"]
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                momentum = state["momentum"].mul_(mu).add_(param.grad)
                update = orthogonal(param.grad.add(momentum, alpha=mu))
                param.mul_(1 - lr * group["weight_decay"])
                param.add_(update, alpha=-lr * max(1.0, param.shape[0] / param.shape[1]) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are near 1; fp32, as ours is on a CPU."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke_loop", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profile", default="smoke", help="overlay in profiles/ (default: smoke)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.steps=60")
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder with train_*.bin")
    parser.add_argument("--repeats", type=int, default=11, help="pairs of runs (default: 11)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parsed = parser.parse_args(arguments)
    index = load_index(parsed.shards)
    changes = ["hardware.device=cpu", "hardware.processes=1", *parsed.set]
    config = replace(
        configuration(parsed.profile, changes, parsed.shards), vocab_size=index["vocab_size"], bos_id=index["bos_id"]
    )
    with connect(config.hardware) as ranks:
        ours, plain = run_in_turn(config, ranks, parsed.repeats)
    result = summary(config, ours, plain)
    report(result)
    if parsed.out:
        write_json(parsed.out, {"profile": parsed.profile, "set": parsed.set, **result})


def run_in_turn(config: TrainConfig, ranks: Ranks, repeats: int) -> tuple[list[Result], list[Result]]:
    """Runs of ours and of the plain loop, in pairs, the one and the other first; one unmeasured pair before.

    Raises:
        DataError: the two did not train the same.
    """
    with redirect_stderr(io.StringIO()):
        check(config)
    measured: tuple[list[Result], list[Result]] = ([], [])
    for repeat in range(repeats + 1):
        for which in (0, 1) if repeat % 2 else (1, 0):
            found = (ours, plain)[which](config, ranks)
            if repeat:
                measured[which].append(found)
    losses = measured[0][0].loss, measured[1][0].loss
    if not abs(losses[0] - losses[1]) <= SAME_LOSS:
        raise DataError(
            f"the loops trained differently: final losses of {losses[0]:.4f} (ours) and {losses[1]:.4f} (plain) nats, "
            f"needed within {SAME_LOSS} of each other",
            hint="a profile without loops, growth or packed documents, which the plain loop does not know",
        )
    return measured


def ours(config: TrainConfig, ranks: Ranks) -> Result:
    """``golf.train``'s loop, from its first step to its last."""
    watch = Stopwatch()

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with watch.part(part):
                return call(*args, **kwargs)

        return wrapper

    with ExitStack() as ends:
        ends.enter_context(redirect_stderr(io.StringIO()))
        run = set_up(config, make_plan(config.train, config.hardware, 1, config.model.loop_passes), ranks)
        ends.enter_context(run.feed)
        for owner, name, part in (
            (run.feed, "micro_batches", "data"),
            (step, "accumulate", "forward and backward"),
            (run.state.optimizer, "step", "optimizer"),
            (run.state.averages, "update", "averages"),
        ):
            ends.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        run.clock.begin(0.0)
        wall, cpu = time.perf_counter(), time.process_time()
        loop.optimize(run)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Result(wall, cpu, watch.parts, run.curve.last_loss)


def plain(config: TrainConfig, ranks: Ranks) -> Result:
    """The loop that one would write first."""
    train, watch, losses = config.train, Stopwatch(), []
    seed_all(config.seed)
    model = build(ModelSpec(config.model, config.vocab_size, config.bos_id), device=ranks.device)
    optimizers = plain_optimizers(model, config)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    tokens, starts = read_split(config.shards, "train"), window_starts(config)
    per_micro = train.micro_batch_tokens // train.seq_len
    parts = train.batch_tokens // train.micro_batch_tokens
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(train.steps):
        progress = number / train.steps
        if train.qat_share and progress >= 1 - train.qat_share:
            set_fake_quant(model, *grids(train))
        total = 0.0
        for micro in range(number * parts, (number + 1) * parts):
            with watch.part("data"):
                begins = starts[micro * per_micro : (micro + 1) * per_micro]
                rows = np.stack([tokens[begin : begin + train.seq_len + 1] for begin in begins]).astype(np.int64)
                batch = torch.from_numpy(rows)
            with watch.part("forward and backward"):
                loss = model(batch[:, :-1], batch[:, 1:]).mean() / parts
                loss.backward()
            total += loss.item()
        losses.append(total)
        with watch.part("optimizer"):
            if config.optim.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
            scale = lr_scale(progress, number, train)
            for optimizer, rates in zip(optimizers, peaks, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * scale
                    if isinstance(optimizer, Muon):
                        group["momentum"] = muon_momentum(number, config.optim)
                optimizer.step()
                optimizer.zero_grad()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    last = train.steps % train.log_every or train.log_every  # steps of the curve's last row
    return Result(wall, cpu, watch.parts, statistics.mean(losses[-last:]))


def plain_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest, with the rates of ours."""
    optim, groups = config.optim, tensor_groups(model)  # type: ignore[arg-type]

    def members(group: str) -> list[nn.Parameter]:
        return [param for name, param in model.named_parameters() if groups[name] == group]

    others = [
        {"params": members("embed"), "lr": optim.embed_lr, "weight_decay": optim.embed_weight_decay},
        {"params": members("control"), "lr": optim.scalar_lr, "weight_decay": optim.scalar_weight_decay},
    ]
    return [
        Muon(members("matrix"), optim.matrix_lr, optim.muon_weight_decay),
        torch.optim.AdamW(others, betas=(optim.beta1, optim.beta2), eps=optim.eps),
    ]


def window_starts(config: TrainConfig) -> np.ndarray:
    """Where each window of the run begins in the tokens, in the order that ours reads them."""
    train = config.train
    available = (read_split(config.shards, "train").size - 1) // train.seq_len
    places = np.arange(train.steps * train.batch_tokens // train.seq_len)
    orders = [
        permute(np.arange(available), available, f"epoch/{config.seed}/{epoch}")
        for epoch in range(int(places[-1]) // available + 1)
    ]
    return np.concatenate(orders)[places] * train.seq_len


def summary(config: TrainConfig, ours: Sequence[Result], plain: Sequence[Result]) -> dict[str, Any]:
    """Rates, ratios and milliseconds a step by part."""
    steps, tokens = config.train.steps, config.train.steps * config.train.batch_tokens

    def milliseconds(runs: Sequence[Result]) -> dict[str, float]:
        named = {part: statistics.median(run.parts.get(part, 0.0) for run in runs) for part in ours[0].parts}
        named["everything else"] = statistics.median(run.wall - sum(run.parts.values()) for run in runs)
        return {part: round(1000 * seconds / steps, 3) for part, seconds in named.items()}

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "steps": steps,
        "batch_tokens": config.train.batch_tokens,
        "final_loss": {"ours": round(ours[0].loss, 5), "plain": round(plain[0].loss, 5)},
        "tokens_per_second": {
            "ours": round(tokens / statistics.median(run.wall for run in ours)),
            "plain": round(tokens / statistics.median(run.wall for run in plain)),
        },
        "ratio": ratios([run.wall for run in ours], [run.wall for run in plain]),
        "cpu_ratio": ratios([run.cpu for run in ours], [run.cpu for run in plain]),
        "ms_per_step": {"ours": milliseconds(ours), "plain": milliseconds(plain)},
    }


def ratios(ours: Sequence[float], plain: Sequence[float]) -> dict[str, float]:
    """Of the plain loop's seconds to ours, by pairs, and of the fastest runs of both."""
    names = ("least", "quarter", "median", "three_quarters", "most")
    cuts = np.quantile(np.array(plain) / np.array(ours), (0, 0.25, 0.5, 0.75, 1)).tolist()
    found = dict(zip(names, cuts, strict=True)) | {"fastest": min(plain) / min(ours)}
    return {name: round(ratio, 4) for name, ratio in found.items()}


def report(result: dict[str, Any]) -> None:
    """The table, for people."""
    rates, losses = result["tokens_per_second"], result["final_loss"]
    print(
        f"{result['steps']} steps of {result['batch_tokens']:,} tokens, {result['threads']} threads, torch "
        f"{result['torch']}; final loss {losses['ours']:.4f} (ours), {losses['plain']:.4f} (plain)"
    )
    print(f"tokens/s: {rates['ours']:,} (ours), {rates['plain']:,} (plain)")
    for name, label in (("ratio", "wall clock"), ("cpu_ratio", "CPU time")):
        cuts = result[name]
        print(
            f"ours / plain by {label}: {cuts['median']:.3f} (quartiles {cuts['quarter']:.3f} to "
            f"{cuts['three_quarters']:.3f}, extremes {cuts['least']:.3f} to {cuts['most']:.3f}), "
            f"{cuts['fastest']:.3f} of the fastest runs"
        )
    print(f"{'ms a step':24}{'ours':>9}{'plain':>9}")
    for part, ms in result["ms_per_step"]["ours"].items():
        print(f"{part:24}{ms:9.3f}{result['ms_per_step']['plain'][part]:9.3f}")


if __name__ == "__main__":
    run_main("smoke_loop", main)
