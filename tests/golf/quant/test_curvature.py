from dataclasses import replace

import pytest
import torch

from golf.model.weights import ModelSpec, build, tensor_groups
from golf.params.quant import Quant
from golf.quant.curvature import curvature
from golf.quant.hessian import collect
from golf.quant.model import MOST_OCTAVES, Quantizer
from golf.quant.quantized import dequantize_model
from tests.golf.quant import tiny

WINDOWS = torch.from_numpy(tiny.tokens(40 * 25).astype("int64")).view(40, 25)


@pytest.fixture(scope="module")
def found():
    model = tiny.model()
    return model, collect(model, WINDOWS, 8), curvature(model, WINDOWS, 8)


def test_every_matrix_and_table_has_one(found) -> None:
    model, hessians, result = found
    names = {name for name, group in tensor_groups(model).items() if group != "control"}
    assert set(result.hessians) == set(result.gains) == names
    assert "bigram.table.weight" not in hessians
    for name in names:
        hessian = result.hessians[name]
        assert hessian.shape == (model.get_parameter(name).shape[1],) * 2
        assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-9 * float(hessian.diagonal().max())
        assert result.gains[name] > 0
    matrices = names - {"embed.weight", "bigram.table.weight"}
    assert set(result.outputs) == matrices
    for name in matrices:
        both = result.outputs[name]
        assert both.shape == (model.get_parameter(name).shape[0],) * 2
        assert float(both.diagonal().mean()) == pytest.approx(result.gains[name], rel=1e-6)


def watched(model, module) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (N, C) of ``module`` and the loss's gradient by its outputs (N, R), fp64."""
    seen = []
    hook = module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    (gradient,) = torch.autograd.grad(model(WINDOWS[:, :-1], WINDOWS[:, 1:]).sum(), seen[0][1])
    hook.remove()
    return seen[0][0].detach().flatten(0, 1).double(), gradient.flatten(0, 1).double()


@pytest.mark.parametrize("name", ["blocks.1.mlp.up", "blocks.0.attention.key"])
def test_a_token_counts_for_the_square_of_its_gradient(found, name: str) -> None:
    """In the Hessian of the inputs; that of the outputs is the mean outer product of the gradients."""
    model, _, result = found
    x, g = watched(model, model.get_submodule(name))
    expected = x.T @ (x * g.square().sum(1, keepdim=True)) / g.square().sum()
    assert torch.allclose(result.hessians[f"{name}.weight"], expected, rtol=1e-4, atol=1e-9)
    assert torch.allclose(result.outputs[f"{name}.weight"], g.T @ g / len(g), rtol=1e-4, atol=1e-12)


def test_the_gain_is_the_mean_square_of_the_gradient_by_the_outputs(found) -> None:
    model, _, result = found
    _, gradient = watched(model, model.blocks[1].mlp.up)
    assert result.gains["blocks.1.mlp.up.weight"] == pytest.approx(float(gradient.square().mean()), rel=1e-4)


def test_a_table_has_the_outer_product_of_the_gradient_by_its_rows(found) -> None:
    model, _, result = found
    looked_up = []
    hook = model.bigram.table.register_forward_hook(lambda module, inputs, output: looked_up.append(output))
    (gradient,) = torch.autograd.grad(model(WINDOWS[:, :-1], WINDOWS[:, 1:]).sum(), looked_up[0])
    hook.remove()
    flat = gradient.flatten(0, 1).double()
    assert torch.allclose(result.hessians["bigram.table.weight"], flat.T @ flat / len(flat), rtol=1e-4, atol=1e-12)
    assert result.gains["bigram.table.weight"] == pytest.approx(1 / 32)


def test_tables_are_watched_in_bf16_too(found) -> None:
    """As on a GPU, where what is looked up in is a copy of the weight, rounded."""
    model, _, wanted = found
    model.compute_dtype = torch.bfloat16
    try:
        result = curvature(model, WINDOWS, 8)
    finally:
        model.compute_dtype = torch.float32
    for name in ("embed.weight", "bigram.table.weight"):
        assert torch.allclose(
            result.hessians[name], wanted.hessians[name], atol=0.05 * float(wanted.hessians[name].diagonal().max())
        )


def test_the_tied_embedding_has_both_of_its_roles(found) -> None:
    _, hessians, result = found
    both, head = result.hessians["embed.weight"], hessians["embed.weight"]
    assert float(torch.linalg.eigvalsh(both).min()) > 0
    least = float((both.diagonal() / head.diagonal()).min())
    assert float((both - 0.999 * least * head).diagonal().min()) > 0
    assert not torch.allclose(both / both.trace(), head / head.trace(), rtol=0.05)


def test_the_model_is_left_as_it_was(found) -> None:
    model, _, result = found
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    again = curvature(model, WINDOWS, 8)
    assert again.gains == result.gains


def test_a_layer_that_runs_twice_counts_twice() -> None:
    looped = ModelSpec(replace(tiny.CONFIG, loop_last=1, loop_passes=2, unet_skips="none", ln_scale=False), tiny.VOCAB)
    torch.manual_seed(1)
    model = build(looped)
    for parameter in model.parameters():
        if parameter.dim() == 2 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    outputs = []
    hook = model.blocks[0].mlp.up.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    gradients = torch.autograd.grad(model(WINDOWS[:, :-1], WINDOWS[:, 1:]).sum(), outputs)
    hook.remove()
    assert len(gradients) == 2
    expected = sum(float(gradient.square().mean()) for gradient in gradients)
    found = curvature(model, WINDOWS, 8)
    assert found.gains["blocks.0.mlp.up.weight"] == pytest.approx(expected, rel=1e-4)


def test_steps_are_finer_where_the_loss_is_steeper_and_the_same_on_average(found) -> None:
    model, _, result = found
    state, groups = tiny.state(), tensor_groups(model)
    config = Quant(bits=4, embed_bits=6, clip_sigma=6.0, embed_clip_sigma=6.0, steps="curvature")
    quantizer = Quantizer(state, groups, result.hessians, config, tiny.SPEC, None, result.gains, result.outputs)
    octaves = torch.tensor([quantizer.allocation[name] for name in quantizer.weights]).log2()
    counts = torch.tensor([weight.numel() for weight in quantizer.weights.values()])
    assert float(octaves.abs().max()) <= MOST_OCTAVES
    assert float(octaves.max()) > 0 > float(octaves.min())
    assert abs(float((octaves * counts).sum() / counts.sum())) < 0.3, "no more than the bounds take"
    steeper = {**result.gains, "blocks.0.mlp.up.weight": 100 * result.gains["blocks.0.mlp.up.weight"]}
    finer = Quantizer(state, groups, result.hessians, config, tiny.SPEC, None, steeper, result.outputs)
    assert finer.allocation["blocks.0.mlp.up.weight"] < quantizer.allocation["blocks.0.mlp.up.weight"]
    assert set(dequantize_model(quantizer())) == set(state)


def test_a_table_that_calibration_never_reads_is_no_problem() -> None:
    model = tiny.model()
    windows = torch.ones(2, 9, dtype=torch.int64)
    found = curvature(model, windows, 2)
    zeroed = found.hessians | {"bigram.table.weight": torch.zeros(8, 8, dtype=torch.float64)}
    config = Quant(steps="curvature", method="trellis")
    quantizer = Quantizer(
        tiny.state(), tensor_groups(model), zeroed, config, tiny.SPEC, None, found.gains, found.outputs
    )
    assert all(bool(torch.isfinite(value).all()) for value in dequantize_model(quantizer()).values())
