"""One way to train and score every idea: the same windows in the same order, steps, optimizer and schedule."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from golf.data.loader import Stream, WindowLoader
from golf.data.vocabulary import check_ids
from golf.model.linear import Embedding, Linear
from golf.model.transformer import Transformer
from golf.optim.groups import build_optimizer
from golf.optim.schedule import lr_scale
from golf.params.optim import Optim
from golf.params.train import Train
from golf.research.idea import COMMAND, Idea, Size, build_idea
from golf.runtime.errors import ConfigError, DataError
from golf.scoring.bpb import Total, total
from golf.scoring.protocol import ByteCounter

MATRIX_BITS = 6  # a weight of a matrix, as quant.bits
TABLE_BITS = 7  # a weight of an embedding
ROW_BITS = 16  # the step size of a row
CONTROL_BITS = 16
LAST_SHARE = 0.1  # of the steps, whose mean is the training loss


@dataclass(frozen=True)
class Text:
    """What ideas are trained and scored on.

    Attributes:
        train: the training split.
        val: (N,) int64, validation tokens.
        counter: bytes of each of them.
        vocab_size: V.

    Raises:
        DataError: a validation token is V or more.
    """

    train: Stream
    val: Tensor
    counter: ByteCounter
    vocab_size: int

    def __post_init__(self) -> None:
        self.check(self.val, "validation")

    def check(self, tokens: Tensor, split: str) -> None:
        """Refuse tokens outside the vocabulary, on the CPU: a GPU would only say that an assertion failed.

        Raises:
            DataError: a token is V or more.
        """
        check_ids(tokens, self.vocab_size, split)


@dataclass(frozen=True)
class Plan:
    """How an idea is trained and scored.

    Raises:
        ConfigError: a number is out of range.
    """

    steps: int  # optimizer steps
    rows: int  # windows a step
    val_tokens: int  # at most, of the validation text's beginning
    seed: int  # of the weights and of the order of windows
    device: torch.device

    def __post_init__(self) -> None:
        for key in ("steps", "rows", "val_tokens"):
            if getattr(self, key) < 1:
                raise ConfigError(
                    f"{key}: found {getattr(self, key)}, needed at least 1", hint=f"{COMMAND} --steps 100"
                )


@dataclass(frozen=True)
class Outcome:
    """What one training of one idea came to.

    Attributes:
        parameters: trained numbers, those of training alone included.
        artifact_bytes: estimate, see :func:`artifact_bytes`.
        ms_per_step: median wall-clock time of a step.
        train_loss: mean over the last steps, auxiliary terms included; nats a token.
        val: sums over the validation targets.
        exact: whether they are a code length; else a bound from above, drawn at random.
    """

    parameters: int
    artifact_bytes: int
    ms_per_step: float
    train_loss: float
    val: Total
    exact: bool


def train_idea(name: str, size: Size, text: Text, plan: Plan, on_step: Callable[[], None] = lambda: None) -> Outcome:
    """Train a fresh idea and score it; on a GPU its loss and score run in bf16 autocast, eagerly.

    Args:
        name: a key of :data:`golf.research.idea.IDEAS`.
        size: how large it is built.
        text: what it reads.
        plan: how long, where, from which seed.
        on_step: called after each step.

    Raises:
        ConfigError: an unknown idea.
        DataError: too little text, a token outside the vocabulary, or a loss that is no finite number.
    """
    torch.manual_seed(plan.seed)
    idea = build_idea(name, size, text.vocab_size).to(plan.device)
    # It asks the model for names, Linears and Embeddings, which any idea has.
    optimizer = build_optimizer(cast(Transformer, idea), Optim())
    loader = WindowLoader(text.train, seq_len=size.length, seed=plan.seed)
    schedule = Train()
    losses, seconds = [], []
    idea.train()
    for step in range(plan.steps):
        started = time.perf_counter()
        rows = loader.read(step * plan.rows, plan.rows, size.length).tokens
        text.check(rows, "train")
        with autocast(plan.device):
            loss = idea.loss(rows.to(plan.device, torch.int64))
        loss.backward()
        optimizer.step(lr_scale(step / plan.steps, step, schedule), step, step / plan.steps, want_norm=False)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))  # waits for the device, so that the time is the step's
        seconds.append(time.perf_counter() - started)
        if not math.isfinite(losses[-1]):
            raise DataError(
                f"{name}, seed {plan.seed}: found a loss of {losses[-1]} at step {step}, needed a finite one",
                hint=f"{COMMAND} --ideas {name} --seeds {plan.seed + 1}",
            )
        on_step()
    last = max(1, round(LAST_SHARE * plan.steps))
    return Outcome(
        parameters=sum(param.numel() for param in idea.parameters()),
        artifact_bytes=artifact_bytes(idea),
        ms_per_step=1000 * statistics.median(seconds),
        train_loss=statistics.mean(losses[-last:]),
        val=score_idea(idea, text, plan),
        exact=idea.exact,
    )


@torch.no_grad()
def score_idea(idea: Idea, text: Text, plan: Plan) -> Total:
    """Sums over the targets of whole validation windows, each scored once from what its window holds before it.

    Raises:
        DataError: the validation text is shorter than a window, or a score is no finite number.
    """
    length = idea.size.length
    windows = (min(text.val.numel(), plan.val_tokens + 1) - 1) // length
    if windows < 1:
        raise DataError(
            f"validation: found {text.val.numel():,} tokens, {plan.val_tokens:,} to be read, needed {length + 1:,} of "
            "both: one window",
            hint="dvc repro tokenize (on more text)",
        )
    tokens = text.val[: windows * length + 1]
    rows = tokens.unfold(0, length + 1, length)
    torch.manual_seed(plan.seed)
    idea.eval()
    scores = []
    for batch in rows.split(plan.rows):
        with autocast(plan.device):
            scores.append(idea.nll(batch.to(plan.device)).float().cpu())
    return total(torch.cat(scores).flatten(), text.counter.count(tokens))


def artifact_bytes(idea: Idea) -> int:
    """Bytes of the shipped parameters before entropy coding: what the weights of this project's artifact take.

    Matrices at 6 bits and tables at 7, 16 bits for the step size of each of their rows and for every other number.
    What is drawn from a seed is no parameter and costs nothing; code is not counted.
    """
    widths = {id(module.weight): MATRIX_BITS for module in idea.modules() if isinstance(module, Linear)}
    widths |= {id(module.weight): TABLE_BITS for module in idea.modules() if isinstance(module, Embedding)}
    bits = 0
    for param in idea.shipped().values():
        width = widths.get(id(param))
        bits += param.numel() * CONTROL_BITS if width is None else param.numel() * width + len(param) * ROW_BITS
    return -(-bits // 8)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; on a CPU nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
