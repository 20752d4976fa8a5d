"""Each Triton kernel against its eager twin and torch.compile of that twin: forward and backward, at training sizes.

    python -m benchmarks.kernels               # on one GPU; writes benchmarks/results/kernels-GPU.json
    python -m benchmarks.kernels loss layer    # some of them; writes nothing

Times are medians over runs with a cold L2 cache, by CUDA events, with the host ahead of the GPU. ``floor`` is the
larger of the operations over the rate of a large matrix product and the bytes that must move over the rate of a large
copy, both measured first; ``share`` is the floor over the kernel's time. What is around the kernels runs eagerly, as in
training.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.kernels.loss import linear_cross_entropy
from golf.model.kernels.mix_norm import mix_norm
from golf.model.kernels.mlp import mlp
from golf.model.kernels.rotary import rotary_heads
from golf.model.residual import Mix, Residual, Term, read_lanes
from golf.model.rope import rotation
from golf.runtime.files import write_json

RESULTS = Path("benchmarks/results")
TOKENS, DIM, HIDDEN, HEADS, GROUPS, WIDTH, VOCABULARY = 98_304, 512, 2048, 8, 4, 64, 8192
RUNS, WARM_UP = 20, 3
FLUSH_BYTES = 256 << 20  # several times the L2 cache
HEAD_START = 20_000_000  # clock cycles in which the host queues a run


@dataclass(frozen=True)
class Case:
    """One function at one size."""

    name: str
    call: Callable[..., Any]  # the inputs, then kernel=
    inputs: tuple[Any, ...]
    flops: float = 0.0
    passes: float = 0.0  # over a (TOKENS, DIM) tensor in bf16, forward and backward
    mean: bool = False  # what flows in is the same for all positions


def cases(wanted: list[str]) -> Iterator[Case]:
    """Those whose name begins with one of ``wanted``; all if there is none."""
    for name, make in {
        "loss": loss_cases,
        "mlp": mlp_cases,
        "mix_norm": mix_cases,
        "lanes": lanes_cases,
        "exclude": exclude_cases,
        "rotary": rotary_cases,
        "layer": layer_cases,
    }.items():
        if not wanted or name in wanted:
            yield from make()


def stream() -> Tensor:
    """(TOKENS, DIM) bf16, of unit scale."""
    return torch.randn(TOKENS, DIM, device="cuda", dtype=torch.bfloat16).requires_grad_()


def matrix(*shape: int, scale: float = DIM**-0.5) -> Tensor:
    """An fp32 master."""
    return (torch.randn(shape, device="cuda") * scale).requires_grad_()


def loss_cases() -> Iterator[Case]:
    for vocabulary in (VOCABULARY, 1024):
        targets = torch.randint(0, vocabulary, (TOKENS,), device="cuda")
        yield Case(
            f"loss, V={vocabulary}",
            linear_cross_entropy,
            (stream(), matrix(vocabulary, DIM, scale=0.1), targets, 30.0),
            flops=6.0 * TOKENS * DIM * vocabulary,
            passes=3,
            mean=True,
        )


def mlp_cases() -> Iterator[Case]:
    yield Case(
        "mlp, 512 x 2048",
        mlp,
        (stream(), matrix(HIDDEN, DIM), matrix(DIM, HIDDEN), 0.5),
        flops=12.0 * TOKENS * DIM * HIDDEN,
        passes=5 + 8 * HIDDEN / DIM,
    )


def mix_cases() -> Iterator[Case]:
    for terms in (2, 3, 4):

        def call(*arguments: Any, kernel: bool, terms: int = terms) -> Any:
            return mix_norm(arguments[:terms], *arguments[terms:], kernel=kernel)

        inputs = (*(stream() for _ in range(terms)), matrix(terms, DIM, scale=1.0), 0.5)
        yield Case(f"mix_norm, {terms} terms", call, inputs, passes=3 * terms + 4)


def lanes_cases() -> Iterator[Case]:
    inputs = (*(stream() for _ in range(6)), matrix(2, 3, scale=1.0), matrix(4, DIM, scale=1.0))
    yield Case("lanes, with a skip", lanes, inputs, passes=26)


def lanes(
    p: Tensor, q: Tensor, a: Tensor, m: Tensor, x0: Tensor, skip: Tensor, numbers: Tensor, channels: Tensor, *,
    kernel: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """From two lanes and their branches to the next two and their norms."""
    first, second = (
        Residual(tuple(Term((value,), number) for value, number in zip((own, a, m), row, strict=True)))
        for own, row in zip((p, q), numbers, strict=True)
    )
    mixes = (Mix(channels[i], Term((value,), channels[i + 1])) for i, value in ((0, skip), (2, x0)))
    return read_lanes(first, second, *mixes, 0.5, kernel)


def exclude_cases() -> Iterator[Case]:
    shape = (48, TOKENS // 48)
    y = stream().detach().view(*shape, HEADS, WIDTH).requires_grad_()
    v = torch.randn(*shape, GROUPS, WIDTH, device="cuda", dtype=torch.bfloat16).requires_grad_()
    gate = torch.rand(*shape, HEADS, device="cuda").bfloat16().requires_grad_()
    yield Case("exclude, gated", exclude_and_gate, (y, v, gate), passes=6.5)


def rotary_cases() -> Iterator[Case]:
    shape = (48, TOKENS // 48)
    width = (HEADS + 2 * GROUPS) * WIDTH
    projected = torch.randn(*shape, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    rope = rotation(shape[1], 16, 10_000.0, torch.device("cuda"), torch.bfloat16)
    gain = torch.rand(HEADS, device="cuda").requires_grad_()
    # The values pass through the kernel, and the twin reads them where they are: 11 passes for the one, 9 the other.
    yield Case("rotary heads", rotary, (projected, gain, rope, GROUPS), passes=9)


def rotary(*arguments: Any, kernel: bool) -> tuple[Tensor, ...]:
    return rotary_heads(*arguments, kernel=kernel)[:3]


def layer_cases() -> Iterator[Case]:
    """From attention's output to the next layer's queries."""
    inputs = (
        *(stream() for _ in range(3)),
        matrix(DIM, DIM), matrix(HIDDEN, DIM), matrix(DIM, HIDDEN), matrix(DIM, DIM),
        matrix(2, DIM, scale=1.0), matrix(3, DIM, scale=1.0),
    )  # fmt: skip
    yield Case("layer", layer, inputs, flops=(12.0 * HIDDEN + 12.0 * DIM) * TOKENS * DIM, passes=60)


def layer(
    x: Tensor, attended: Tensor, x0: Tensor, output: Tensor, up: Tensor, down: Tensor, query: Tensor,
    first: Tensor, second: Tensor, *, kernel: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    y = attended @ output.to(x.dtype).mT
    mixed, normed = mix_norm([x, y], first, 0.5, kernel=kernel)
    expanded = mlp(normed, up, down, 0.5, kernel=kernel)
    mixed, normed = mix_norm([mixed, expanded, x0], second, 0.5, kernel=kernel)
    return mixed, normed @ query.to(x.dtype).mT


def run_once(call: Callable[..., Any], case: Case, flows: list[Tensor]) -> None:
    """Forward and backward."""
    outputs = call(*case.inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if not flows:
        flows += [torch.full_like(o, 1e-5) if case.mean else torch.randn_like(o) for o in outputs]
    leaves = [value for value in case.inputs if isinstance(value, Tensor) and value.requires_grad]
    torch.autograd.grad(outputs, leaves, flows)


def milliseconds(run: Callable[[], Any], runs: int = RUNS) -> float:
    """Median time of ``run`` on the GPU."""
    scratch = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(runs):
        scratch.zero_()
        torch.cuda._sleep(HEAD_START)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def ceilings() -> tuple[float, float]:
    """TFLOP/s of a large bf16 matrix product and TB/s of a large copy, reads and writes counted."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randint(0, 99, (1 << 28,), device="cuda", dtype=torch.int64)
    target = torch.empty_like(source)
    product, copy = milliseconds(lambda: a @ b), milliseconds(lambda: target.copy_(source))
    return 2 * 8192**3 / product / 1e9, 2 * source.nbytes / copy / 1e9


def measure(case: Case, tflops: float, bandwidth: float) -> dict[str, float | str]:
    """The row of one case; times in ms."""
    torch.compiler.reset()
    twin, kernel = partial(case.call, kernel=False), partial(case.call, kernel=True)
    ways = {"eager": twin, "compiled": torch.compile(twin, fullgraph=True, dynamic=False), "kernel": kernel}
    row: dict[str, float | str] = {"case": case.name}
    for name, call in ways.items():
        flows: list[Tensor] = []
        row[name] = milliseconds(lambda call=call, flows=flows: run_once(call, case, flows))  # type: ignore[misc]
        torch.cuda.empty_cache()
    floor = max(case.flops / tflops / 1e9, case.passes * TOKENS * DIM * 2 / bandwidth / 1e9)
    return row | {"floor": floor}


def main() -> None:
    """Print the table; write it if all cases ran."""
    wanted = sys.argv[1:]
    tflops, bandwidth = ceilings()
    print(f"{torch.cuda.get_device_name()}: {tflops:.0f} TFLOP/s at 8192³, copy {bandwidth:.2f} TB/s")
    print(f"{'case':32}{'eager':>9}{'compiled':>10}{'kernel':>9}{'gain':>7}{'floor':>9}{'share':>7}   (ms)", flush=True)
    rows = []
    for case in cases(wanted):
        row = measure(case, tflops, bandwidth)
        eager, compiled, kernel, floor = (float(row[name]) for name in ("eager", "compiled", "kernel", "floor"))
        print(
            f"{case.name:32}{eager:9.3f}{compiled:10.3f}{kernel:9.3f}{compiled / kernel:6.2f}x{floor:9.3f}"
            f"{floor / kernel:7.0%}",
            flush=True,
        )
        rows.append({name: value if isinstance(value, str) else round(value, 4) for name, value in row.items()})
    if not wanted:
        device = torch.cuda.get_device_name()
        content = {"device": device, "torch": torch.__version__, "tokens": TOKENS, "ms": rows}
        content |= {"tflops": round(tflops), "copy_tb_s": round(bandwidth, 2)}
        write_json(RESULTS / f"kernels-{device.removeprefix('NVIDIA ').split()[0].lower()}.json", content)


if __name__ == "__main__":
    main()
