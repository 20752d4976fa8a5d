"""The plain formula of each kernel for fp64, and the comparison of values and all gradients with it."""

import torch


def linear_cross_entropy(x, weight, targets, cap):
    capped = cap * torch.tanh(x @ weight.mT / cap)
    return capped.logsumexp(1) - capped.gather(1, targets[:, None])[:, 0]


def mlp(x, up, down, slope):
    z = x @ up.mT
    return torch.where(z > 0, z**2, (slope * z) ** 2) @ down.mT


def mix_norm(*arguments):
    *terms, coefficients, scale = arguments
    mixed = sum(c * term for c, term in zip(coefficients, terms, strict=True))
    return mixed, scale * mixed / (mixed.square().mean(1, keepdim=True) + 1e-6).sqrt()


def exclude_and_gate(y, v, gate=None):
    share = y.shape[2] // v.shape[2]
    direction = (v / v.norm(dim=-1, keepdim=True).clamp(min=1e-12)).repeat_interleave(share, 2)
    y = y - (y * direction).sum(-1, keepdim=True) * direction
    return y if gate is None else y * gate[..., None]


def errors(function, formula, inputs, uniform=False):
    """Relative errors, by name, of the outputs of ``function`` and of the gradients of all its floating inputs.

    uniform: what flows into the outputs is the same number everywhere, else it is random.
    """
    own = [differentiable(value, value.dtype) if is_float(value) else value for value in inputs]
    wide = [differentiable(value, torch.float64) if is_float(value) else value for value in inputs]
    found, expected = (as_tuple(call(*values)) for call, values in ((function, own), (formula, wide)))
    generator = torch.Generator(found[0].device).manual_seed(7)
    flows = [
        torch.full_like(value, 0.25)
        if uniform
        else torch.randn(value.shape, generator=generator, device=value.device).to(value.dtype)
        for value in found
    ]
    torch.autograd.backward(found, flows)
    torch.autograd.backward(expected, [flow.double() for flow in flows])
    result = {f"output {i}": relative(a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))}
    for i, (a, b) in enumerate(zip(own, wide, strict=True)):
        if is_float(a):
            assert a.grad.dtype == a.dtype
            result[f"gradient of input {i}"] = relative(a.grad, b.grad)
    return result


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def differentiable(value, dtype):
    return value.detach().to(dtype, copy=True).requires_grad_()


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def relative(found, expected):
    """‖found − expected‖ / ‖expected‖; infinite when anything found is not finite."""
    if not torch.isfinite(found).all():
        return float("inf")
    return ((found.double() - expected).norm() / expected.norm()).item()
