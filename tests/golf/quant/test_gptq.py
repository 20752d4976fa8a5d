import numpy as np
import pytest
import torch
from torch import Tensor

from golf.quant.fast import round_to_nearest
from golf.quant.gptq import gptq, inverse_factor, output_error
from golf.quant.grid import max_code, row_steps
from golf.runtime.errors import ConfigError, DataError, FairwayError

SETTINGS = {"clip_sigma": 12.85, "damping": 0.01, "block_size": 16}


def inputs_hessian(columns: int, tokens: int, seed: int, decay: float = 1.5) -> Tensor:
    """The mean of x x^T of correlated inputs with a power-law spectrum; rank-deficient when tokens < columns."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, columns + 1).float() ** -decay
    mixing = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0] * spectrum.sqrt()
    x = torch.randn(tokens, columns, generator=generator) @ mixing.T
    return x.T @ x / tokens


def weights(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def reference(weight: np.ndarray, hessian: np.ndarray, steps: np.ndarray, limit: int, damping: float) -> np.ndarray:
    """GPTQ as its definition reads: fp64, one column after the other, the inverse itself shrunk by elimination."""
    weight, hessian = weight.astype(np.float64), hessian.astype(np.float64)
    order = np.argsort(-np.diag(hessian), kind="stable")
    hessian = hessian + damping * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    left = weight[:, order].copy()
    codes = np.zeros_like(left)
    for j in range(left.shape[1]):
        codes[:, j] = np.clip(np.round(left[:, j] / steps), -limit, limit)
        error = (left[:, j] - codes[:, j] * steps) / inverse[j, j]
        left[:, j + 1 :] -= np.outer(error, inverse[j, j + 1 :])
        inverse -= np.outer(inverse[:, j], inverse[j, :]) / inverse[j, j]
    result = np.empty_like(codes)
    result[:, order] = codes
    return result


@pytest.mark.parametrize("bits", [2, 3, 6, 8])
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(24, 40, 400), (7, 33, 20), (1, 5, 50), (9, 1, 10)])
def test_codes_are_those_of_the_column_by_column_definition(bits: int, rows: int, columns: int, tokens: int) -> None:
    weight, hessian = weights(rows, columns, seed=bits), inputs_hessian(columns, tokens, seed=7)
    found = gptq(weight, hessian, bits, **SETTINGS)
    steps = row_steps(weight, bits, SETTINGS["clip_sigma"])
    expected = reference(weight.numpy(), hessian.numpy(), steps.double().numpy(), max_code(bits), SETTINGS["damping"])
    assert np.array_equal(found.codes.numpy(), expected)
    assert torch.equal(found.steps.float(), steps), "steps come from the original rows"


@pytest.mark.parametrize("tokens", [2000, 64], ids=["full rank", "rank-deficient"])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_beats_rounding_to_nearest_on_correlated_inputs(tokens: int, bits: int) -> None:
    weight, hessian = weights(64, 128, seed=1), inputs_hessian(128, tokens, seed=2)
    ours = output_error(weight, hessian, gptq(weight, hessian, bits, **SETTINGS).dequantize())
    nearest = output_error(weight, hessian, round_to_nearest(weight, bits, SETTINGS["clip_sigma"]).dequantize())
    assert 0 < ours < 0.6 * nearest


def test_wins_on_inputs_it_has_not_seen_too() -> None:
    weight, seen, fresh = weights(64, 96, seed=1), inputs_hessian(96, 4000, seed=3), None
    generator = torch.Generator().manual_seed(99)
    root = torch.linalg.cholesky(seen.double() + 1e-9 * torch.eye(96).double()).float()
    x = torch.randn(4000, 96, generator=generator) @ root.T
    fresh = x.T @ x / 4000
    ours = output_error(weight, fresh, gptq(weight, seen, 4, **SETTINGS).dequantize())
    assert ours < 0.7 * output_error(weight, fresh, round_to_nearest(weight, 4, 12.85).dequantize())


def test_with_uncorrelated_inputs_it_is_rounding_to_nearest() -> None:
    weight = weights(32, 48, seed=4)
    hessian = torch.diag(torch.rand(48, generator=torch.Generator().manual_seed(5)) + 0.1)
    assert torch.equal(gptq(weight, hessian, 5, **SETTINGS).codes, round_to_nearest(weight, 5, 12.85).codes)


def test_columns_come_back_in_their_place() -> None:
    """Shuffling the inputs shuffles the codes and does nothing else: the order of work leaves no trace."""
    weight, hessian = weights(16, 32, seed=6), inputs_hessian(32, 500, seed=8)
    shuffle = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    straight = gptq(weight, hessian, 6, **SETTINGS).codes
    shuffled = gptq(weight[:, shuffle], hessian[shuffle][:, shuffle], 6, **SETTINGS).codes
    assert torch.equal(straight[:, shuffle], shuffled)


@pytest.mark.parametrize("block_size", [1, 3, 32, 1000])
def test_the_block_size_is_speed_alone(block_size: int) -> None:
    weight, hessian = weights(12, 32, seed=6), inputs_hessian(32, 300, seed=8)
    expected = gptq(weight, hessian, 6, **SETTINGS).codes
    assert torch.equal(gptq(weight, hessian, 6, **{**SETTINGS, "block_size": block_size}).codes, expected)


def test_fewer_bits_are_coarser_and_eight_nearly_lossless() -> None:
    weight, hessian = weights(48, 64, seed=9), inputs_hessian(64, 1000, seed=10)
    errors = {
        bits: output_error(weight, hessian, gptq(weight, hessian, bits, **SETTINGS).dequantize())
        for bits in range(2, 9)
    }
    assert all(errors[bits] > 2 * errors[bits + 1] for bits in range(3, 8)), errors
    assert errors[2] > errors[3]
    assert errors[8] < 1e-3
    codes = gptq(weight, hessian, 5, **SETTINGS).codes
    assert int(codes.abs().max()) <= 15


def test_neither_input_is_changed_and_the_same_call_gives_the_same_codes() -> None:
    weight, hessian = weights(8, 16, seed=1), inputs_hessian(16, 100, seed=1)
    before = weight.clone(), hessian.clone()
    first = gptq(weight, hessian, 6, **SETTINGS)
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])
    assert torch.equal(first.codes, gptq(weight.double(), hessian.double(), 6, **SETTINGS).codes)


def test_a_column_that_was_never_active_is_rounded_by_itself() -> None:
    weight, hessian = weights(8, 24, seed=2), inputs_hessian(24, 300, seed=2)
    dead, alive = [3, 17], [j for j in range(24) if j not in (3, 17)]
    hessian[dead] = 0
    hessian[:, dead] = 0
    said: list[str] = []
    found = gptq(weight, hessian, 6, **SETTINGS, warn=said.append).codes
    assert not said
    assert torch.equal(found[:, dead], round_to_nearest(weight, 6, 12.85).codes[:, dead])
    steps = row_steps(weight, 6, 12.85).double().numpy()
    without = reference(weight[:, alive].numpy(), hessian[alive][:, alive].numpy(), steps, 31, 0.01)
    assert np.array_equal(found[:, alive].numpy(), without), "and changes nothing in the others"


def test_with_no_input_at_all_it_is_rounding_to_nearest() -> None:
    weight = weights(4, 6, seed=2)
    assert torch.equal(gptq(weight, torch.zeros(6, 6), 6, **SETTINGS).codes, round_to_nearest(weight, 6, 12.85).codes)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_scale_of_the_inputs_does_not_matter(scale: float) -> None:
    weight, hessian = weights(8, 16, seed=3), inputs_hessian(16, 200, seed=3)
    expected = gptq(weight, hessian, 6, **SETTINGS).codes
    assert torch.equal(gptq(weight, hessian.double() * scale, 6, **SETTINGS).codes, expected)


def test_a_row_of_zeros_stays_zero() -> None:
    weight = weights(4, 16, seed=3)
    weight[2] = 0
    assert not gptq(weight, inputs_hessian(16, 200, seed=3), 6, **SETTINGS).dequantize()[2].any()


def test_a_hessian_that_is_not_positive_definite_is_tried_with_more_damping_and_said() -> None:
    hessian = torch.eye(12)
    hessian[0, 1] = hessian[1, 0] = 1.04  # eigenvalue -0.04: 0.01 is not enough, 0.1 is
    said: list[str] = []
    found = gptq(weights(4, 12, seed=1), hessian, 6, **SETTINGS, name="blocks.0.mlp.up.weight", warn=said.append)
    assert found.codes.shape == (4, 12)
    assert said == ["blocks.0.mlp.up.weight: Hessian not positive definite, trying again with damping 0.1"]


def test_fp64_is_tried_before_more_damping() -> None:
    """Two inputs alike: with a damping of 1e-9 singular to fp32, not to fp64."""
    hessian = torch.eye(4, dtype=torch.float64)
    hessian[0, 1] = hessian[1, 0] = 1.0
    said: list[str] = []
    factor = inverse_factor(hessian, 1e-9, warn=said.append)
    assert not said
    assert factor.dtype == torch.float32
    expected = torch.linalg.cholesky(torch.linalg.inv(hessian + 1e-9 * torch.eye(4).double()), upper=True)
    assert torch.allclose(factor.double(), expected, rtol=1e-5)


def test_the_inverse_factor_is_the_upper_cholesky_of_the_inverse() -> None:
    hessian = inputs_hessian(20, 500, seed=11).double()
    hessian /= hessian.diagonal().mean()
    factor = inverse_factor(hessian, 0.01).double()
    assert torch.equal(factor, factor.triu())
    expected = torch.linalg.cholesky(torch.linalg.inv(hessian + 0.01 * torch.eye(20).double()), upper=True)
    assert torch.allclose(factor, expected, rtol=1e-3, atol=1e-5)


def test_a_hopeless_hessian_is_one_error_after_six_retries() -> None:
    hessian = torch.eye(3)
    hessian[0, 1] = hessian[1, 0] = 1e9
    said: list[str] = []
    with pytest.raises(
        FairwayError, match=r"^layer: Hessian \(3 columns\) not positive definite even with damping"
    ) as e:
        gptq(torch.ones(2, 3), hessian, 6, **SETTINGS, name="layer", warn=said.append)
    assert len(said) == 6
    assert "\n" not in str(e.value)
    assert "Try: " in str(e.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused_by_name_and_place(bad: float) -> None:
    weight, hessian = weights(4, 6, seed=1), inputs_hessian(6, 50, seed=1)
    weight[2, 3] = bad
    with pytest.raises(DataError, match=r"^blocks.1.key: 1 values NaN or infinite, the first at \(2, 3\)"):
        gptq(weight, hessian, 6, **SETTINGS, name="blocks.1.key")
    with pytest.raises(DataError, match=r"^blocks.1.key: 1 values"):
        round_to_nearest(weight, 6, 12.85, name="blocks.1.key")
    weight[2, 3], hessian[0, 5] = 0, bad
    with pytest.raises(DataError, match=r"^Hessian of blocks.1.key: .* first at \(0, 5\)"):
        gptq(weight, hessian, 6, **SETTINGS, name="blocks.1.key")


@pytest.mark.parametrize("bits", [1, 0, 9, -3])
def test_widths_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=f"found {bits} bits, needed 2 to 8"):
        gptq(torch.ones(2, 2), torch.eye(2), bits, **SETTINGS)
    with pytest.raises(ConfigError, match="needed 2 to 8"):
        round_to_nearest(torch.ones(2, 2), bits, 12.85)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (3,)])
def test_a_hessian_of_another_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"w: found a weight \(4, 2\) with a Hessian"):
        gptq(torch.ones(4, 2), torch.ones(shape), 6, **SETTINGS, name="w")


def test_output_error_is_the_mean_square_of_the_outputs_change() -> None:
    weight, x = weights(5, 8, seed=1), torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
    changed = weight + 0.01
    expected = ((x @ (changed - weight).T) ** 2).sum() / ((x @ weight.T) ** 2).sum()
    assert output_error(weight, x.T @ x / 64, changed) == pytest.approx(float(expected), rel=1e-4)
    assert output_error(torch.zeros(2, 2), torch.eye(2), torch.zeros(2, 2)) == 0.0


@pytest.mark.slow
def test_a_record_matrix_takes_less_than_a_second_and_a_half_on_one_core() -> None:
    import time

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        weight, hessian = weights(2048, 512, seed=1), inputs_hessian(512, 2048, seed=1)
        start = time.perf_counter()
        gptq(weight, hessian, 6, 12.85, 0.01, 128)
        assert time.perf_counter() - start < 1.5
    finally:
        torch.set_num_threads(threads)
