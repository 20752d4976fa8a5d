"""GPTQ between rows too: the Hessian of the outputs beside that of the inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from golf.params.quant import Quant
from golf.quant.curvature import curvature
from golf.quant.gptq import Inverse, inverse_factor, invert, quantize_batch, row_blocks
from golf.quant.quantized import QuantizedTensor, dequantize_model
from golf.quant.steps import Scheme
from golf.runtime.errors import DataError
from tests.golf.quant import tiny
from tests.golf.quant.test_gptq import inputs_hessian, reference, weights

ROW = Scheme(6, 12.85)
SCHEMES = [Scheme(6, 12.85, by_column, states) for by_column in (False, True) for states in (0, 8, 32)]
ROWS, COLUMNS = 150, 48


def both(rows: int = ROWS, columns: int = COLUMNS, seed: int = 1) -> tuple[Tensor, Tensor, Inverse]:
    """Hessians of outputs and inputs, and what GPTQ needs of them."""
    outputs, inputs = inputs_hessian(rows, 4000, seed), inputs_hessian(columns, 4000, seed + 1)
    return outputs, inputs, replace(invert(inputs, 0.01), rows=inverse_factor(outputs, 0.01))


def cost(weight: Tensor, found: QuantizedTensor, outputs: Tensor, inputs: Tensor) -> float:
    """tr(G D H D^T)."""
    error = (found.dequantize() - weight).double()
    return float((outputs.double() @ error @ inputs.double()).mul(error).sum())


@pytest.mark.parametrize("rows", [1, 59, 60, 61, 256, 512, 513, 2048])
def test_blocks_hold_every_row_once_and_whole_parts_of_every_trellis(rows: int) -> None:
    blocks = row_blocks(rows)
    assert [row for block in blocks for row in range(rows)[block]] == list(range(rows))
    assert all((block.stop - block.start) % k == 0 for block in blocks[:-1] for k in (2, 3, 4, 5))
    assert len(blocks) <= 9


def test_codes_are_those_of_the_definition() -> None:
    """fp64: before each block, all rows to come are moved to where the loss is least given the errors that are made."""
    weight, (outputs, inputs, inverse) = weights(ROWS, COLUMNS, 4), both()
    found = quantize_batch([weight], [inverse], [ROW], 16)[0]
    damped = outputs.double().numpy() + 0.01 * outputs.diagonal().double().mean().item() * np.eye(ROWS)
    steps, original, errors = found.steps.double().numpy(), weight.double().numpy(), np.zeros((0, COLUMNS))
    codes = []
    for block in row_blocks(ROWS):
        later = slice(block.start, ROWS)
        moved = -np.linalg.solve(damped[later, later], damped[later, : block.start] @ errors)[
            : block.stop - block.start
        ]
        own = reference(original[block] + moved, inputs.numpy(), steps[block], 31, 0.01)
        codes.append(own)
        errors = np.concatenate((errors, own * steps[block, None] - original[block]))
    assert (found.codes.numpy() != np.concatenate(codes)).mean() < 0.002, "but for ties of fp32"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_it_costs_the_loss_less(scheme: Scheme) -> None:
    weight, (outputs, inputs, inverse) = weights(ROWS, COLUMNS, 4), both()
    found = quantize_batch([weight], [inverse], [scheme], 16)[0]
    alone = quantize_batch([weight], [replace(inverse, rows=None)], [scheme], 16)[0]
    assert torch.equal(found.steps, alone.steps)
    assert cost(weight, found, outputs, inputs) < 0.7 * cost(weight, alone, outputs, inputs)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_side_by_side_is_one_after_the_other(scheme: Scheme) -> None:
    matrices, inverses = [weights(70, 24, seed) for seed in (1, 2)], [both(70, 24, seed)[2] for seed in (3, 5)]
    together = quantize_batch(matrices, inverses, [scheme] * 2, 8)
    for i in range(2):
        alone = quantize_batch([matrices[i]], [inverses[i]], [scheme], 8)[0]
        assert torch.equal(together[i].codes, alone.codes)


def test_outputs_that_do_not_know_of_each_other_change_nothing() -> None:
    weight, (_, _, inverse) = weights(ROWS, COLUMNS, 4), both()
    diagonal = torch.diag(torch.rand(ROWS, generator=torch.Generator().manual_seed(0)) + 0.1)
    apart = quantize_batch([weight], [replace(inverse, rows=inverse_factor(diagonal, 0.01))], [ROW], 16)[0]
    assert torch.equal(apart.codes, quantize_batch([weight], [replace(inverse, rows=None)], [ROW], 16)[0].codes)


def test_a_row_weighs_what_the_blocks_behind_it_cannot_make_good() -> None:
    outputs, _, inverse = both()
    damped = outputs.double() / outputs.diagonal().double().mean() + 0.01 * torch.eye(ROWS, dtype=torch.float64)
    for block in row_blocks(ROWS):
        height = block.stop - block.start
        left = torch.linalg.inv(torch.linalg.inv(damped[block.start :, block.start :])[:height, :height])
        assert torch.allclose(inverse.row_weights(ROWS)[block].double(), left.diagonal(), rtol=1e-3)


def test_hidden_units_in_another_order_take_their_outputs_along() -> None:
    """Shuffled units, with all that is theirs, come out as the same model."""
    windows = torch.from_numpy(tiny.tokens(40 * 25).astype("int64")).view(40, 25)
    model, state = tiny.model(), tiny.state()
    found = curvature(model, windows, 8)
    config = Quant(steps="curvature", bits=4, embed_bits=6)
    given = {"gains": found.gains, "outputs": found.outputs}
    first, _ = tiny.quantise(state, found.hessians, config, **given)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    up, down = "blocks.1.mlp.up.weight", "blocks.1.mlp.down.weight"
    state |= {up: state[up][order], down: state[down][:, order]}
    hessians = found.hessians | {down: found.hessians[down][order][:, order]}
    given["outputs"] = found.outputs | {up: found.outputs[up][order][:, order]}
    again, _ = tiny.quantise(state, hessians, config, **given)
    for name, value in dequantize_model(first).items():
        torch.testing.assert_close(dequantize_model(again)[name], value, rtol=1e-4, atol=1e-6)


def test_a_damaged_one_is_named() -> None:
    outputs = {"blocks.0.mlp.up.weight": torch.full((32, 32), torch.nan, dtype=torch.float64)}
    windows = torch.from_numpy(tiny.tokens(40 * 25).astype("int64")).view(40, 25)
    found = curvature(tiny.model(), windows, 8)
    with pytest.raises(DataError, match=r"outputs of blocks\.0\.mlp\.up"):
        tiny.quantise(tiny.state(), found.hessians, Quant(steps="curvature"), gains=found.gains, outputs=outputs)


def test_a_small_row_that_the_loss_hardly_sees_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it takes all errors of the others, for nothing, and its codes cost bytes."""
    monkeypatch.setattr("golf.quant.gptq.ROWS", 4)
    windows = torch.from_numpy(tiny.tokens(40 * 25).astype("int64")).view(40, 25)
    found = curvature(tiny.model(), windows, 8)
    name, state = "blocks.1.attention.query.weight", tiny.state()
    seen = torch.where(torch.arange(16) % 2 == 0, 1.0, 1e-3).double()
    state[name] = state[name] * seen[:, None].float()
    mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).double()
    outputs = {name: seen[:, None] * (mixing @ mixing.T) * seen * 1e-6}
    config = Quant(steps="curvature", bits=6)
    spread = []
    for given in ({}, outputs):
        done, _ = tiny.quantise(state, found.hessians, config, gains=found.gains, outputs=given)
        spread.append(done.tensors[name].codes.float().square().mean(1).sqrt())
    assert torch.allclose(spread[1], spread[0], rtol=0.25)
    assert not torch.equal(spread[1], spread[0])
