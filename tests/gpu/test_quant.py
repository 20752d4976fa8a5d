"""Quantisation on a GPU against the same on the CPU."""

import pytest
import torch
from torch import Tensor

from golf.model.weights import build
from golf.params.quant import Quant
from golf.quant.gptq import gptq, output_error
from golf.quant.heldout import HeldOut, bits_per_byte
from golf.quant.hessian import collect
from golf.quant.quantized import QuantizedTensor, dequantize_model
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
