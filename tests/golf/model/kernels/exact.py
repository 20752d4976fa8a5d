"""The plain formula of each kernel for fp64, and the comparison of values and all gradients with it."""

import torch


def linear_cross_entropy(x, weight, targets, cap):
    capped = cap * torch.tanh(x @ weight.mT / cap)
    return capped.logsumexp(1) - capped.gather(1, targets[:, None])[:, 0]


def mlp(x, up, down, slope):
    z = x @ up.mT
    return torch.where(z > 0, z**2, (slope * z) ** 2) @ down.mT


def mix_norm(terms, coefficients, scale, together):
    groups = [sum(terms[:together]), *terms[together:]]
    mixed = sum(c * term for c, term in zip(coefficients, groups, strict=True))
    return mixed, scale * mixed / (mixed.square().mean(1, keepdim=True) + 1e-6).sqrt()


def read_lanes(p, q, a, m, x0, numbers, mixed, skip=None, merged=None, scale=0.7):
    """numbers: each lane's share of itself, of a and of m; None where the lanes part, q, a and m unread."""
    first = second = p
    if numbers is not None:
        (k, s, t), (r, u, w) = numbers
        first, second = k * p + s * a + t * m, r * q + u * a + w * m
    if skip is not None:
        first = merged[0] * first + merged[1] * skip
    return first, mix_norm([first, x0], mixed, scale, 1)[1], *mix_norm([second], [1], scale, 1)


def exclude_and_gate(y, v, gate=None):
    share = y.shape[2] // v.shape[2]
    direction = (v / v.norm(dim=-1, keepdim=True).clamp(min=1e-12)).repeat_interleave(share, 2)
    y = y - (y * direction).sum(-1, keepdim=True) * direction
    return y if gate is None else y * gate[..., None]


def rotary_heads(projected, gain, rope, groups, spread=False):
    """Complex numbers turn the pairs (x_j, x_{j+P})."""
    cos, sin = (table.squeeze(2) for table in rope)
    batch, length, _ = projected.shape
    heads = projected.view(batch, length, len(gain) + 2 * groups, -1)
    normal, v = heads[:, :, :-groups], heads[:, :, -groups:]
    normal = normal / (normal.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    pairs, turn = cos.shape[-1], torch.complex(cos, -sin)[:, :, None]
    turned = torch.complex(normal[..., :pairs], normal[..., pairs : 2 * pairs]) * turn
    normal = torch.cat((turned.real, turned.imag, normal[..., 2 * pairs :]), -1)
    q, k = gain[:, None] * normal[:, :, : len(gain)], normal[:, :, len(gain) :]
    if not spread:
        return q, k, v
    every = torch.arange(len(gain)) // (len(gain) // groups)
    return q, k[:, :, every], v, v[:, :, every]


def project(x, first, second, gate=None):
    projected = torch.cat((x @ first.mT, x @ second.mT), -1)
    return projected if gate is None else (projected, x[..., : gate.shape[1]] @ gate.mT)


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
