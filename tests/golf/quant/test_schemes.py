"""GPTQ on every grid: matrices side by side, steps by column, trellises."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from golf.quant import gptq as rounding
from golf.quant.fast import round_alone, round_to_nearest
from golf.quant.gptq import gptq, invert, output_error, quantize_batch
from golf.quant.quantized import QuantizedModel, QuantizedTensor, from_arrays, to_arrays
from golf.quant.steps import Scheme, steps_of
from golf.runtime.errors import DataError
from tests.golf.quant import tiny
from tests.golf.quant.test_gptq import inputs_hessian, weights

ROW, COLUMN = Scheme(6, 12.85), Scheme(6, 12.85, by_column=True)
TRELLIS, BOTH = replace(ROW, states=8), replace(COLUMN, states=8)
SCHEMES = pytest.mark.parametrize("scheme", [ROW, COLUMN, TRELLIS, BOTH], ids=["row", "column", "trellis", "both"])


def one(scheme: Scheme, rows: int = 96, columns: int = 64, seed: int = 1, tokens: int = 2000) -> QuantizedTensor:
    inverse = invert(inputs_hessian(columns, tokens, seed), 0.01)
    return quantize_batch([weights(rows, columns, seed)], [inverse], [scheme], 16)[0]


def bits_a_weight(quantised: QuantizedTensor) -> float:
    """Entropy of Gaussian columns of their own spread, in codes."""
    return float((2.0471 + torch.log2(quantised.codes.float().std(0))).mean())


@SCHEMES
def test_side_by_side_is_one_after_the_other(scheme: Scheme) -> None:
    matrices = [weights(20, 24, seed) for seed in range(3)]
    inverses = [invert(inputs_hessian(24, 300, seed), 0.01) for seed in range(3)]
    together = quantize_batch(matrices, inverses, [scheme, replace(scheme, clip_sigma=9.0), scheme], 8)
    for i, clip in enumerate((12.85, 9.0, 12.85)):
        alone = quantize_batch([matrices[i]], [inverses[i]], [replace(scheme, clip_sigma=clip)], 8)[0]
        assert torch.equal(together[i].codes, alone.codes)
        assert torch.equal(together[i].steps, alone.steps)


class Replayed:
    """What :func:`golf.runtime.graphs.record` gives, without a GPU; tests/gpu has the real one."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work
        work()


@SCHEMES
def test_a_column_recorded_once_is_replayed_for_every_other(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks, the last one short: what the one before left behind it takes nothing from its columns."""
    matrices = [weights(20, 20, seed) for seed in range(2)]
    inverses = [invert(inputs_hessian(20, 300, seed), 0.01) for seed in range(2)]
    eager = quantize_batch(matrices, inverses, [scheme] * 2, 8)
    monkeypatch.setattr(rounding, "record", Replayed)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    replayed = quantize_batch(matrices, inverses, [scheme] * 2, 8)
    for ours, theirs in zip(replayed, eager, strict=True):
        assert torch.equal(ours.codes, theirs.codes)


def test_a_batch_of_one_by_rows_is_gptq() -> None:
    weight, hessian = weights(12, 32, seed=6), inputs_hessian(32, 300, seed=8)
    batch = quantize_batch([weight], [invert(hessian, 0.01)], [ROW], 16)[0]
    assert torch.equal(batch.codes, gptq(weight, hessian, 6, 12.85, 0.01, 16).codes)


def test_columns_and_trellis_each_lower_the_output_error_at_one_rate() -> None:
    hessian, fresh = inputs_hessian(64, 4000, 1, decay=2.0), inputs_hessian(64, 4000, 1, decay=2.0)
    weight, inverse = weights(512, 64, 1), invert(hessian, 0.01)
    error, rate = {}, {}
    for name, scheme in {"row": ROW, "column": COLUMN, "trellis": TRELLIS, "both": BOTH}.items():
        quantised = quantize_batch([weight], [inverse], [scheme], 64)[0]
        error[name], rate[name] = output_error(weight, fresh, quantised.dequantize()), bits_a_weight(quantised)
    assert max(rate.values()) - min(rate.values()) < 0.06, rate
    assert error["column"] < 0.95 * error["row"]
    assert error["trellis"] < 0.82 * error["row"]
    assert error["both"] < 0.85 * error["column"]


@SCHEMES
def test_what_is_stored_comes_back(scheme: Scheme) -> None:
    tensors = {
        "a.weight": one(scheme),
        "table.weight": round_alone(weights(40, 8, 3), scheme),
        "b": torch.ones(3).half(),
    }
    metadata, arrays = to_arrays(QuantizedModel(tiny.SPEC, dict(tensors)))
    assert metadata.get("trellis", 0) == scheme.states
    assert ("a.weight.columns" in arrays) == scheme.by_column
    assert "table.weight.columns" not in arrays, "all zero: not stored"
    back = from_arrays(metadata, arrays)
    for name in ("a.weight", "table.weight"):
        found = back.tensors[name]
        assert isinstance(found, QuantizedTensor)
        assert torch.equal(found.dequantize(), tensors[name].dequantize())


@SCHEMES
def test_dequantised_is_near_the_weight(scheme: Scheme) -> None:
    weight = weights(50, 30, 5)
    alone = round_alone(weight, scheme)
    steps = steps_of(alone.steps) if scheme.by_column else alone.steps.float()
    assert float(((alone.dequantize() - weight).abs() / steps[:, None]).max()) <= (1.3 if scheme.states else 0.501)
    error = float((alone.dequantize() - weight).square().mean())
    plain = float((round_to_nearest(weight, 6, 12.85).dequantize() - weight).square().mean())
    assert error < plain * (0.85 if scheme.states else 1.1)


@SCHEMES
def test_dead_inputs_few_tokens_and_rows_of_zeros(scheme: Scheme) -> None:
    weight, hessian = weights(16, 24, 2), inputs_hessian(24, 6, 2)
    hessian[[3, 17]] = 0
    hessian[:, [3, 17]] = 0
    weight[5] = 0
    quantised = quantize_batch([weight], [invert(hessian, 0.01)], [scheme], 8)[0]
    restored = quantised.dequantize()
    assert bool(torch.isfinite(restored).all())
    assert float(restored[5].abs().max()) < 1e-6
    assert output_error(weight, hessian, restored) < 0.1


def test_a_column_of_large_weights_and_large_inputs_is_not_cut() -> None:
    """Steps in proportion to the factor alone would need codes beyond int8 there."""
    weight, hessian = weights(64, 32, 4), torch.eye(32)
    weight[:, 7] *= 300
    hessian[7, 7] = 1e4
    quantised = quantize_batch([weight], [invert(hessian, 0.01)], [Scheme(8, 12.85, by_column=True)], 8)[0]
    assert quantised.clipped == 0
    assert float((quantised.dequantize() - weight)[:, 7].abs().max()) < 0.01 * float(weight[:, 7].abs().max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, a: m.update(trellis=7), "trellis of 7 states, needed 0 or one of"),
        (lambda m, a: m.update(trellis="8"), "trellis of '8' states"),
        (
            lambda m, a: a.update({"w.columns": a["w.columns"][1:]}),
            "found torch.int8 (23,), needed int8 (24,)",
        ),
        (lambda m, a: a.update({"w.columns": a["w.columns"].astype(np.int16)}), "columns: found torch.int16"),
        (lambda m, a: a.update({"w.steps": np.ones(16, np.float16)}), "steps: found torch.float16 (16,), needed uint8"),
        (lambda m, a: a.update({"w.steps": np.ones(16, np.float32)}), "found float32, needed float16"),
        (lambda m, a: a.pop("w.codes"), "without its codes"),
    ],
)
def test_a_foreign_artifact_is_one_error(change, message: str) -> None:
    metadata, arrays = to_arrays(QuantizedModel(tiny.SPEC, {"w": one(BOTH, 16, 24)}))
    change(metadata, arrays)
    with pytest.raises(DataError) as error:
        from_arrays(metadata, arrays, "model.golf")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_trellis_for_the_whole_model() -> None:
    mixed = QuantizedModel(tiny.SPEC, {"a": one(TRELLIS, 16, 24), "b": one(ROW, 16, 24)})
    with pytest.raises(DataError, match=r"trellises of \[0, 8\] states, needed one"):
        to_arrays(mixed)
