"""Every attention implementation that this machine has: whether it is right, then how fast it is.

In the two forms that the model uses: whole rows, and one packed row in which attention stays within documents, packed
as training packs it. The documents are those of real shards, or of a fixed geometric distribution.

    python -m benchmarks.attention                              # one GPU; on a CPU a tiny shape in fp32
    python -m benchmarks.attention --shards data/shards --only fa3,cudnn --out benchmarks/results/attention-h100.json

``error`` is the norm of the difference from attention by its formula in fp64, over the norm of that: of the output, and
the largest of the three gradients'. What is wrong is not timed. Times are medians, on a GPU by CUDA events with a cold
L2 cache; the forward pass keeps what its backward pass needs. A mask is made once for all layers and is not timed.
TFLOP/s count pairs of positions that see each other: 4 FLOPs a pair, head and channel forward, 12 with the backward
pass, nothing that is computed again. ``flex`` is compiled, as it is in the model.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import kernels
from golf.data.loader import Stream
from golf.data.packing import PackedLoader, document_starts
from golf.model.attention import NAMES, Attend, Documents, choose_backend, implementation, prepare
from golf.runtime.errors import ConfigError, FairwayError, run_main
from golf.runtime.files import write_json

BOS_ID = 1
MEAN_SHARE = 0.3  # mean length of the geometric distribution's documents, of a row
LIMITS = {torch.bfloat16: 1e-2, torch.float32: 1e-5}  # of the error
REASON_LENGTH = 200  # characters


class Shape(NamedTuple):
    """Of the input: ``rows`` x ``tokens``, with ``heads`` query heads, ``width`` channels each."""

    rows: int
    tokens: int
    heads: int
    kv_heads: int
    width: int


ON_GPU, ON_CPU = Shape(48, 2048, 8, 4, 64), Shape(2, 128, 4, 2, 16)


class Form(NamedTuple):
    """How the tokens are laid out: ``rows`` x ``tokens``, cut into segments of ``lengths`` that see only themselves."""

    name: str
    rows: int
    tokens: int
    documents: Documents | None
    lengths: list[int]

    @property
    def pairs(self) -> int:
        """Of a query and a key that it sees."""
        return sum(length * (length + 1) // 2 for length in self.lengths)


class Problem(NamedTuple):
    """The inputs of one form, what flows back into the output, and the exact answers.

    Attributes:
        inputs: q (B, T, H, D), k and v (B, T, Hkv, D).
        flow: (B, T, H, D).
        exact: output and gradients of the inputs, fp64, rows end to end: (B * T, heads, D).
    """

    form: Form
    inputs: tuple[Tensor, Tensor, Tensor]
    flow: Tensor
    exact: list[Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", type=int, nargs=5, metavar=("ROWS", "TOKENS", "HEADS", "KV_HEADS", "WIDTH"))
    parser.add_argument("--shards", type=Path, help="folder with train_*.bin; none: geometric document lengths")
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parsed = parser.parse_args(arguments)
    wanted = parsed.only.split(",")
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise ConfigError(f"--only: found {unknown[0]!r}, needed some of {', '.join(NAMES)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = Shape(*parsed.shape) if parsed.shape else ON_GPU if device.type == "cuda" else ON_CPU
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    forms = [whole_rows(shape), packed(shape, parsed.shards, device)]
    documents = {"from": str(parsed.shards or "geometric"), "segments": len(forms[1].lengths)}
    documents |= {"mean_tokens": round(statistics.mean(forms[1].lengths), 1)}
    facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": shape._asdict(),
        "documents": documents,
    }
    print_head(facts)
    found = []
    for row in measure_all(wanted, forms, shape, dtype, device):
        print_row(row)
        found.append(row)
    if parsed.out:
        write_json(parsed.out, {**facts, "rows": found})


def whole_rows(shape: Shape) -> Form:
    """Every row a segment."""
    return Form("rows", shape.rows, shape.tokens, None, [shape.tokens] * shape.rows)


def packed(shape: Shape, shards: Path | None, device: torch.device) -> Form:
    """All tokens in one row of documents, as ``train.pack: documents`` lays out a micro-batch."""
    total = shape.rows * shape.tokens
    stream = Stream.open(shards, "train") if shards else geometric_stream(total, MEAN_SHARE * shape.tokens)
    starts = document_starts(stream, BOS_ID)
    loader = PackedLoader(stream, starts, bos_id=BOS_ID, row_tokens=total, shortest=shape.tokens, seed=0)
    row = loader.read(0, 1, shape.tokens)
    assert row.starts is not None, "the loader packs documents"
    lengths = [length for length in row.starts[0].diff().tolist() if length]
    return Form("documents", 1, total, Documents(row.starts[0].to(device), row.longest), lengths)


def geometric_stream(tokens: int, mean: float) -> Stream:
    """Documents of geometric lengths, ``mean`` tokens on average, several times ``tokens`` together."""
    lengths = np.random.default_rng(0).geometric(1 / mean, size=64 + int(8 * tokens / mean))
    stream = np.full(int(lengths.sum()), BOS_ID + 1, np.uint16)
    stream[np.cumsum(lengths) - lengths] = BOS_ID
    return Stream([stream])


def measure_all(
    names: Iterable[str], forms: Sequence[Form], shape: Shape, dtype: torch.dtype, device: torch.device
) -> Iterator[dict[str, Any]]:
    """A row for each implementation and form; one row with the reason for an implementation that is not here."""
    problems = [pose(form, shape, dtype, device) for form in forms]
    for name in names:
        try:
            choose_backend(name, device)
        except ConfigError as error:
            yield {"name": name, "reason": one_line(error).removeprefix(f"hardware.attention={name}: ")}
            continue
        for problem in problems:
            yield {"name": name, "form": problem.form.name} | measure(name, problem)
            if device.type == "cuda":
                torch.cuda.empty_cache()


def pose(form: Form, shape: Shape, dtype: torch.dtype, device: torch.device) -> Problem:
    """Random inputs for ``form``, and the exact answers."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(heads: int) -> Tensor:
        size = (form.rows, form.tokens, heads, shape.width)
        return torch.randn(size, generator=generator, dtype=dtype, device=device)

    q, k, v, flow = (draw(heads) for heads in (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads))
    exact = by_formula(q, k, v, flow, form.lengths)
    return Problem(form, (q.requires_grad_(), k.requires_grad_(), v.requires_grad_()), flow, exact)


def by_formula(q: Tensor, k: Tensor, v: Tensor, flow: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Output and gradients in fp64, one segment at a time; see :class:`Problem`."""
    group = q.shape[2] // k.shape[2]
    answers = []
    for parts in zip(*(x.flatten(0, 1).split(list(lengths)) for x in (q, k, v, flow)), strict=True):
        *leaves, back = (part.double() for part in parts)  # (t, heads, D)
        q64, k64, v64 = (leaf.requires_grad_().transpose(0, 1) for leaf in leaves)
        scores = q64 @ k64.repeat_interleave(group, 0).mT * q.shape[3] ** -0.5
        hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        y = scores.masked_fill(hidden, -torch.inf).softmax(2) @ v64.repeat_interleave(group, 0)
        y = y.transpose(0, 1)
        answers.append((y.detach(), *torch.autograd.grad(y, leaves, back)))
    return [torch.cat(pieces) for pieces in zip(*answers, strict=True)]


def measure(name: str, problem: Problem) -> dict[str, Any]:
    """Errors, times and rates of one implementation, or why there are none."""
    form, inputs, device = problem.form, problem.inputs, problem.flow.device
    limit = LIMITS[problem.flow.dtype]
    try:
        attend, make_mask = loaded(name)
        mask = make_mask(name, form.documents, form.rows, form.tokens)
        output, gradients = errors(attend, mask, problem)
        if not (output <= limit and gradients <= limit):  # as no NaN is
            return {"reason": f"wrong: error {output:.1e}, gradients' {gradients:.1e}, needed at most {limit:g}"}
        forward = milliseconds(lambda: attend(*inputs, mask), device)
        both = milliseconds(lambda: torch.autograd.grad(attend(*inputs, mask), inputs, problem.flow), device)
    except Exception as error:  # of whatever kind a foreign kernel raises
        return {"reason": one_line(error)}
    flops = 4.0 * form.pairs * problem.flow.shape[2] * problem.flow.shape[3]
    return {
        "output_error": output,
        "gradient_error": gradients,
        "forward_ms": round(forward, 4),
        "both_ms": round(both, 4),
        "forward_tflops": round(flops / forward / 1e9, 4),
        "both_tflops": round(3 * flops / both / 1e9, 4),
    }


def loaded(name: str) -> tuple[Attend, Callable[..., Any]]:
    """The implementation, and what makes its mask. As they come, those of ``flex`` would visit every pair there is."""
    if name != "flex":
        return implementation(name), prepare
    compiling = functools.partial(torch.compile, fullgraph=True, dynamic=False)
    return compiling(implementation(name)), compiling(prepare)


def errors(attend: Attend, mask: Any, problem: Problem) -> tuple[float, float]:
    """Of the output, and the largest of the gradients'."""
    y = attend(*problem.inputs, mask)
    found = (y.detach(), *torch.autograd.grad(y, problem.inputs, problem.flow))
    each = [
        float((own.flatten(0, 1).double() - exact).norm() / exact.norm())
        for own, exact in zip(found, problem.exact, strict=True)
    ]
    return each[0], float(np.max(each[1:]))  # np.max keeps a NaN


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Median time of ``run``, warmed up."""
    if device.type == "cuda":
        return kernels.milliseconds(run)
    seconds = []
    for number in range(kernels.WARM_UP + kernels.RUNS):
        begin = time.perf_counter()
        run()
        if number >= kernels.WARM_UP:
            seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds)


def one_line(error: Exception) -> str:
    """Why ``error`` came."""
    text = " ".join(str(error).split())[:REASON_LENGTH]
    return text if isinstance(error, FairwayError) else f"{type(error).__name__}: {text}"


def print_head(facts: dict[str, Any]) -> None:
    """What is measured, and the names of the columns."""
    shape, documents = Shape(**facts["shape"]), facts["documents"]
    print(
        f"{facts['device']}, torch {facts['torch']}, {facts['dtype']}: {shape.rows} x {shape.tokens:,} tokens, "
        f"{shape.heads} query and {shape.kv_heads} key/value heads of {shape.width}"
    )
    print(f"documents ({documents['from']}): {documents['segments']} of {documents['mean_tokens']} tokens on average")
    print(f"{'':15}{'forward':>20}{'and backward':>20}{'error':>20}")
    print(f"{'':15}{''.join(f'{column:>10}' for column in ('ms', 'TFLOP/s', 'ms', 'TFLOP/s', 'output', 'gradient'))}")


def print_row(row: dict[str, Any]) -> None:
    """One line of the table, as soon as it is known."""
    line = f"{row['name']:6}{row.get('form', ''):9}"
    if "reason" in row:
        print(f"{line}  {row['reason']}", flush=True)
        return
    for part in ("forward", "both"):
        line += f"{row[f'{part}_ms']:10.3f}{row[f'{part}_tflops']:10.4g}"
    print(f"{line}{row['output_error']:10.1e}{row['gradient_error']:10.1e}", flush=True)


if __name__ == "__main__":
    run_main("attention", main)
