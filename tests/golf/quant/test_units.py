from dataclasses import replace

import pytest
import torch

from golf.model.weights import ModelSpec, build, tensor_groups
from golf.params.model import Model
from golf.params.quant import Quant
from golf.quant.gptq import invert
from golf.quant.hessian import collect
from golf.quant.model import Quantizer
from golf.quant.quantized import QuantizedTensor, dequantize_model
from golf.quant.units import hidden_pairs, unit_order
from tests.golf.quant import tiny

LOOPED = Model(num_layers=3, dim=16, num_heads=2, num_kv_heads=1, mlp_ratio=2.5, rope_dims=4, bigram_buckets=0,
               loop_first=1, loop_last=1, loop_passes=2, activation="star_relu", parallel="two_lane",
               parallel_from=2)  # fmt: skip
SCHEMES = {
    "row": Quant(),
    "column": Quant(steps="column"),
    "trellis": Quant(steps="column", method="trellis", trellis_states=4),
}


def prepared(config: Model, quant: Quant, seed: int = 0) -> tuple[ModelSpec, dict[str, torch.Tensor], Quantizer]:
    spec = ModelSpec(config, tiny.VOCAB)
    torch.manual_seed(seed)
    model = build(spec)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in model.state_dict().items()}
    model = build(spec, state)
    windows = torch.from_numpy(tiny.tokens(33 * 16).astype("int64")).view(16, 33)
    return spec, state, Quantizer(state, tensor_groups(model), collect(model, windows, 8), quant, spec)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("config", [tiny.CONFIG, LOOPED], ids=["plain", "looped"])
def test_the_function_stays_the_same(config: Model, scheme: str) -> None:
    spec, state, quantizer = prepared(config, SCHEMES[scheme])
    assert len(quantizer.units) == config.num_layers
    moved = {**state, **quantizer.weights}
    assert all(not torch.equal(moved[name], state[name]) for name in quantizer.units)
    tokens = torch.from_numpy(tiny.tokens(64).astype("int64"))[None]
    before, after = (build(spec, weights).double() for weights in (state, moved))
    for each in (before, after):
        each.compute_dtype = torch.float64
    with torch.no_grad():
        torch.testing.assert_close(before(tokens), after(tokens), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_steps_and_exponents_come_in_runs(scheme: str) -> None:
    _, _, quantizer = prepared(tiny.CONFIG, SCHEMES[scheme])
    tensors = quantizer().tensors
    for up, down in hidden_pairs(tensors):
        rows, columns = tensors[up], tensors[down]
        assert isinstance(rows, QuantizedTensor)
        assert isinstance(columns, QuantizedTensor)
        exponents = torch.zeros(len(rows.steps)) if columns.columns is None else columns.columns.float()
        assert (exponents.diff() >= 0).all()
        falls = rows.steps.float().diff() < 0
        assert bool((exponents.diff()[falls] > 0).all())


def test_what_is_quantised_is_the_model_that_went_in() -> None:
    """Eight bits and fine steps: what comes out differs by the rounding, not by units that no longer fit."""
    spec, state, quantizer = prepared(LOOPED, Quant(bits=8, embed_bits=8, clip_sigma=6.0, embed_clip_sigma=6.0))
    tokens = torch.from_numpy(tiny.tokens(64).astype("int64"))[None]
    with torch.no_grad():
        before, after = build(spec, state)(tokens), build(spec, dequantize_model(quantizer()))(tokens)
    assert float((before - after).std()) < 0.05 * float(before.std())


def test_the_order_a_model_came_in_does_not_show() -> None:
    """Units shuffled beforehand give the very same steps, exponents and, where no two units tie, codes."""
    spec, state, quantizer = prepared(tiny.CONFIG, SCHEMES["column"])
    shuffled, hessians = dict(state), dict(quantizer.hessians)
    for up, down in hidden_pairs(state):
        order = torch.randperm(len(state[up]))
        shuffled[up], shuffled[down] = state[up][order], state[down][:, order]
        back = torch.argsort(quantizer.units[down])[order]
        hessians[down] = quantizer.hessians[down][back][:, back]
    again = Quantizer(shuffled, quantizer.groups, hessians, quantizer.config, spec)()
    for name, tensor in quantizer().tensors.items():
        other = again.tensors[name]
        if isinstance(tensor, QuantizedTensor) and isinstance(other, QuantizedTensor):
            assert torch.equal(tensor.steps, other.steps)
            assert tensor.columns is None or torch.equal(tensor.columns, other.columns)


@pytest.mark.parametrize("count", [1, 2, 7, 300])
@pytest.mark.parametrize("kinds", [1, 4, 128])
def test_an_order_is_a_permutation_sorted_by_exponent_then_deviation(count: int, kinds: int) -> None:
    torch.manual_seed(count * kinds)
    deviations = torch.randint(0, kinds, (count,)).float()  # many tie
    up, exponents = torch.stack((deviations, -deviations), 1), torch.randint(-kinds, kinds, (count,)).to(torch.int8)
    keys = list(zip(exponents.tolist(), deviations.tolist(), range(count), strict=True))
    assert unit_order(up, exponents).tolist() == [key[2] for key in sorted(keys)]
    assert unit_order(up).tolist() == [key[2] for key in sorted(keys, key=lambda key: key[1:])]


def test_a_rearranged_inverse_is_that_of_the_rearranged_hessian() -> None:
    torch.manual_seed(1)
    inputs = torch.randn(200, 24) * torch.linspace(0.5, 2.0, 24)
    hessian, order = inputs.T @ inputs / 200, torch.randperm(24)
    moved, fresh = invert(hessian, 0.01).rearranged(order), invert(hessian[order][:, order], 0.01)
    assert torch.equal(moved.order, fresh.order)
    assert torch.equal(moved.exponents, fresh.exponents)
    torch.testing.assert_close(moved.factor, fresh.factor)


def test_a_matrix_without_its_other_end_stays_as_it_is() -> None:
    assert hidden_pairs(["blocks.0.mlp.up.weight", "blocks.1.mlp.down.weight", "a.mlp.down.weight"]) == []
    spec, state, _ = prepared(replace(tiny.CONFIG, num_layers=1, value_embed_layers=1), SCHEMES["row"])
    kept = {name: value for name, value in state.items() if name != "blocks.0.mlp.down.weight"}
    groups = {name: group for name, group in tensor_groups(build(spec)).items() if name in kept}
    quantizer = Quantizer(kept, groups, {}, SCHEMES["row"], spec)
    assert quantizer.units == {}
    assert torch.equal(quantizer.weights["blocks.0.mlp.up.weight"], kept["blocks.0.mlp.up.weight"])
