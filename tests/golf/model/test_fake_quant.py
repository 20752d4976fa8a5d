import pytest
import torch
import torch.nn.functional as F

from golf.model.linear import Embedding, Linear, set_fake_quant
from golf.quant.grid import fake_quantize, max_code, quantize_codes, round_to_half, row_steps
from tests.golf.model.tiny import EVERYTHING, tiny, tokens

BITS, CLIP = 4, 4.0


def on_grid(weight, bits, clip):
    """Rounded by the formula, in fp64 but for the fp16 step."""
    steps = (weight.double().std(dim=1) * clip / (2 ** (bits - 1) - 1)).half().double()[:, None]
    limit = 2 ** (bits - 1) - 1
    return (weight.double() / steps).round().clamp(-limit, limit) * steps


@pytest.mark.parametrize("bits", [2, 3, 6, 8])
def test_the_grid_is_its_formula(bits):
    weight = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    rounded = fake_quantize(weight, bits, 3.0)
    assert torch.allclose(rounded.double(), on_grid(weight, bits, 3.0), atol=1e-6)
    steps = row_steps(weight, bits, 3.0)
    assert torch.equal(steps, steps.half().float())
    codes = quantize_codes(weight, steps, bits)
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= max_code(bits)
    assert torch.equal(codes * steps[:, None], rounded)


def test_rounding_to_half_is_that_of_the_format():
    halves = torch.arange(1, 0x7C00, dtype=torch.int16).view(torch.float16).float()  # every positive finite fp16
    between = (halves[1:] + halves[:-1]) / 2  # ties
    above, below = (torch.nextafter(between, torch.tensor(side)) for side in (1e9, 0.0))
    for values in (halves, between, above, below):
        assert torch.equal(round_to_half(values), values.half().float())


def test_a_rounded_weight_survives_a_second_rounding():
    weight = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    steps = row_steps(weight, 6, 12.85)
    codes = quantize_codes(weight, steps, 6)
    assert torch.equal(quantize_codes(codes * steps[:, None], steps, 6), codes)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-3, 1e8])
def test_extreme_rows_stay_finite(scale):
    rounded = fake_quantize(scale * torch.randn(3, 16), 6, 12.85)
    assert torch.isfinite(rounded).all()
    assert torch.isfinite(fake_quantize(scale * torch.ones(3, 1), 6, 12.85)).all()


def test_the_forward_pass_sees_the_rounded_weights():
    model, ids = tiny(**EVERYTHING), tokens()
    latent = {name: value.clone() for name, value in model.state_dict().items()}
    before = model(ids)
    set_fake_quant(model, (BITS, CLIP), (BITS + 1, CLIP))
    after = model(ids)
    assert not torch.allclose(after, before, atol=1e-2)
    assert all(torch.equal(value, latent[name]) for name, value in model.state_dict().items())
    shipped = tiny(**EVERYTHING)
    with torch.no_grad():
        for module in shipped.modules():
            if isinstance(module, Linear):
                module.weight.copy_(on_grid(module.weight, BITS, CLIP))
            elif isinstance(module, Embedding):
                module.weight.copy_(on_grid(module.weight, BITS + 1, CLIP))
    assert torch.allclose(after, shipped(ids), atol=1e-4)
    set_fake_quant(model, None, None)
    assert torch.equal(model(ids), before)


def test_the_gradient_reaches_the_latent_weight_straight_through():
    linear = Linear(16, 8)
    linear.weight.data = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    set_fake_quant(linear, (BITS, CLIP), None)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    linear(x).square().sum().backward()
    rounded = on_grid(linear.weight.detach(), BITS, CLIP).float().requires_grad_()
    F.linear(x, rounded).square().sum().backward()
    assert torch.allclose(linear.weight.grad, rounded.grad, atol=1e-4)


def test_every_parameter_still_learns():
    model, ids = tiny(**EVERYTHING), tokens(length=25)
    set_fake_quant(model, (BITS, CLIP), (BITS + 1, CLIP))
    model(ids[:, :-1], ids[:, 1:]).mean().backward()
    for name, param in model.named_parameters():
        assert param.grad is not None, name
        assert param.grad.abs().max() > 0, name


def check_compiled(backend, layers):
    torch.compiler.reset()
    model, ids = tiny(num_layers=layers, xsa_layers=1, value_embed_dim=6, value_embed_layers=1), tokens(length=25)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
    before = compiled(inputs, targets)
    set_fake_quant(model, (BITS, CLIP), (BITS + 1, CLIP))
    during = compiled(inputs, targets)
    during.mean().backward()
    gradients = {name: param.grad.clone() for name, param in model.named_parameters()}
    assert not torch.allclose(during, before, atol=1e-2)
    assert torch.allclose(during, model(inputs, targets), atol=1e-4)
    model.zero_grad()
    model(inputs, targets).mean().backward()
    for name, param in model.named_parameters():
        assert param.grad.abs().max() > 0, name
        assert torch.allclose(gradients[name], param.grad, atol=1e-4), name
    set_fake_quant(model, None, None)
    assert torch.allclose(compiled(inputs, targets), before, atol=1e-5)


def test_the_switch_works_in_a_compiled_model():
    check_compiled("eager", layers=2)  # the guards are what is tested


@pytest.mark.slow
def test_the_switch_works_with_inductor():
    check_compiled("inductor", layers=1)  # a second one makes the C++ compiler's work double, and nothing new


@pytest.mark.slow
def test_the_compiled_grid_is_the_grid():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    expected = fake_quantize(weight, 6, 12.85)
    found = torch.compile(fake_quantize, fullgraph=True)(weight, 6, 12.85)
    steps = torch.compile(row_steps, fullgraph=True)(weight, 6, 12.85)
    assert torch.equal(steps, steps.half().float())
    assert (found == expected).float().mean() > 0.98  # a deviation summed in another order may move a row's step
