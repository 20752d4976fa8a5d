"""Quantisation on a GPU against the same on the CPU."""

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from golf.model.weights import build
from golf.params.quant import Quant
from golf.quant.gptq import gptq, inverse_factor, invert, output_error, quantize_batch
from golf.quant.heldout import HeldOut, bits_per_byte
from golf.quant.hessian import collect
from golf.quant.quantized import QuantizedTensor, dequantize_model
from golf.quant.steps import Scheme
from golf.quant.viterbi import Search
from golf.runtime.graphs import record
from tests.golf.quant import tiny

pytestmark = pytest.mark.gpu


def correlated(columns: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, columns + 1).float() ** -0.5
    mixing = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0] * spectrum
    x = torch.randn(tokens, columns, generator=generator) @ mixing.T
    return x.T @ x / tokens


@pytest.mark.parametrize(("rows", "columns"), [(2048, 512), (512, 2048)])
def test_codes_are_those_of_the_cpu_but_for_ties(rows: int, columns: int) -> None:
    """One rounding that falls the other way moves later columns of its row: the error, not each code, is the same."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * 0.02
    hessian = correlated(columns, 8192)
    on_cpu = gptq(weight, hessian, 6, 12.85, 0.01, 128)
    on_gpu = gptq(weight.cuda(), hessian.cuda(), 6, 12.85, 0.01, 128)
    assert on_gpu.codes.device.type == "cpu"
    assert torch.equal(on_gpu.steps, on_cpu.steps)
    assert (on_gpu.codes != on_cpu.codes).double().mean() < 0.02
    errors = [output_error(weight, hessian, quantised.dequantize()) for quantised in (on_gpu, on_cpu)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


@pytest.mark.parametrize("states", [4, 8, 32])
@pytest.mark.parametrize("rows", [1, 300, 2048])
def test_a_search_on_the_gpu_recorded_or_not_finds_what_the_cpu_finds(rows: int, states: int) -> None:
    x = torch.randn(5, rows, generator=torch.Generator().manual_seed(rows)) * 2.4
    weights = torch.rand(1, rows, generator=torch.Generator().manual_seed(states)) + 0.1
    search, ours, limit = Search.of(states, "cuda"), (x.cuda(), weights.cuda()), torch.full((5,), 31.0)
    eager = search.symbols(*ours, limit.cuda())
    target, limits, found = torch.zeros_like(ours[0]), limit.cuda(), [torch.empty_like(part) for part in eager]

    def work() -> None:
        for place, value in zip(found, search.symbols(target, ours[1], limits), strict=True):
            place.copy_(value)

    graph = record(work)
    target.copy_(ours[0])
    graph.replay()
    assert all(torch.equal(*pair) for pair in zip(found, eager, strict=True))
    theirs = Search.of(states).symbols(x, weights, limit)[1]
    costs = [((x - level.cpu() / 2).square().double() * weights).sum(1) for level in (eager[1], theirs)]
    assert torch.allclose(*costs, rtol=1e-5)


SCHEMES = [Scheme(6, 12.85, by_column, states) for by_column in (False, True) for states in (0, 8)]


@pytest.mark.parametrize("together", [False, True], ids=["rows apart", "rows together"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_recorded_columns_are_rounded_as_the_cpu_rounds_them(scheme: Scheme, together: bool) -> None:
    """Two matrices of other grids side by side; four blocks of columns, seven of rows, the last ones short."""
    hessian = correlated(200, 4096)
    matrices = [torch.randn(384, 200, generator=torch.Generator().manual_seed(seed)) * 0.02 for seed in (1, 2)]
    schemes, errors = [scheme, replace(scheme, clip_sigma=6.0)], []
    for device in ("cpu", "cuda"):
        inverse = invert(hessian.to(device), 0.01)
        if together:
            inverse = replace(inverse, rows=inverse_factor(correlated(384, 4096).to(device), 0.01))
        done = quantize_batch([part.to(device) for part in matrices], [inverse] * 2, schemes, 64)
        errors += [output_error(part, hessian, found.dequantize()) for part, found in zip(matrices, done, strict=True)]
    assert errors[2:] == pytest.approx(errors[:2], rel=0.02)


SHAPES = {(512, 512): 22, (256, 512): 22, (2048, 512): 11, (512, 2048): 11, (8192, 512): 1}  # 36 million weights


@pytest.mark.parametrize("together", [False, True], ids=["rows apart", "rows together"])
@pytest.mark.parametrize(("states", "limit"), [(0, 5.0), (8, 10.0), (32, 10.0)])
def test_a_record_model_is_rounded_in_seconds(states: int, limit: float, together: bool) -> None:
    inverses = {columns: invert(correlated(columns, 8192).double().cuda(), 0.01) for columns in (512, 2048)}
    total = 0.0
    for (rows, columns), count in SHAPES.items():
        matrices, inverse = [torch.randn(rows, columns) * 0.02 for _ in range(count)], inverses[columns]
        if together and rows < 8192:
            inverse = replace(inverse, rows=inverse_factor(correlated(rows, 8192).double().cuda(), 0.01))
        torch.cuda.synchronize()
        start = time.perf_counter()
        quantize_batch(matrices, [inverse] * count, [Scheme(6, 12.85, True, states)] * count, 128)
        seconds = time.perf_counter() - start
        print(f"{count} x {rows} x {columns}, {states} states, {together}: {seconds:.2f} s", flush=True)
        total += seconds
    assert total < limit


def test_a_model_calibrated_in_bf16_is_quantised_as_one_in_fp32() -> None:
    state = tiny.state()
    windows = torch.from_numpy(tiny.tokens(64 * 33).astype("int64")).view(64, 33)
    heldout = HeldOut(windows, 64 * 32 * 2)
    scores = {}
    for device in ("cpu", "cuda"):
        model = build(tiny.SPEC, state, device=device)
        hessians = collect(model, windows, 16)
        assert all(hessian.device.type == device for hessian in hessians.values())
        quantised, reports = tiny.quantise(state, hessians, Quant())
        assert all(tensor.codes.device.type == "cpu" for tensor in quantised.tensors.values()
                   if isinstance(tensor, QuantizedTensor))  # fmt: skip
        errors = [report.output_error for report in reports if report.output_error is not None]
        restored = build(tiny.SPEC, dequantize_model(quantised), device=device)
        scores[device] = (sum(errors) / len(errors), bits_per_byte(restored, heldout))
    assert scores["cuda"][0] == pytest.approx(scores["cpu"][0], rel=0.05)
    assert scores["cuda"][1] == pytest.approx(scores["cpu"][1], rel=0.01)
