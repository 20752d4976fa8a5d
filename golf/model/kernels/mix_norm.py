"""Sum of residual terms, each scaled per channel, and its norm: all that lies between two matrix products of a layer.

``u = x + y`` is a residual update; ``c_0 (x + y) + c_1 x0`` is that and the mix with the embedding at once, or these
and a U-Net skip. One pass reads the terms and writes u and norm(u); one pass of the backward pass reads both gradients
and the terms, and writes one gradient for all terms of a coefficient and, from each program, its part of the
coefficients' gradients. The parts are added in a fixed order.

What several sums read is handed from one to the next (:class:`Relay`): in the backward pass each adds its share to
what the later ones found, 2 passes, where autograd adds gradients of their own, 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from golf.model.kernels.launch import Kernel, power_of_two, programs
from golf.model.norm import EPS, rms_norm

if TYPE_CHECKING:
    import triton.language as tl

Coefficients = Tensor | Sequence[Tensor | float]
MOST_TOGETHER, MOST_COEFFICIENTS = 3, 4
ROWS = 4  # at a time, a warp each
BACKWARD_PROGRAMS = 4  # a multiprocessor


class Relay:
    """A tensor that several sums read, in a forward pass: a kernel that reads it leaves the next one what it hands on.

    Attributes:
        value: what is to be read now; the numbers stay the same, and so does the memory.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value


Terms = Sequence[Tensor | Relay]


def mix_norm(
    terms: Terms, coefficients: Coefficients, scale: float = 1.0, kernel: bool = False, together: int = 1
) -> tuple[Tensor, Tensor]:
    """``u = c_0 * (t_0 + … + t_{k-1}) + c_1 * t_k + …`` per channel, and ``scale * u / sqrt(mean(u²) + EPS)``.

    The kernel normalises u before it is rounded, the twin after.

    Args:
        terms: tensors (…, D) of one dtype and shape, or relays of them.
        coefficients: fp32, (D,) or one number each, or all as (K, D); the kernel takes 4 at most. The plain number 1
            costs nothing where it is the first; the twin rounds them to the dtype of the terms.
        scale: of the normalised result.
        kernel: use the kernels, else their twin.
        together: k, the terms that share the first coefficient; 3 at most.

    Returns:
        u and its norm, each (…, D) in the dtype of the terms.
    """
    if kernel:
        return _run(terms, coefficients, together, scale, summed=True, normed=True)
    mixed = mix(terms, coefficients, together=together)
    return mixed, rms_norm(mixed, scale)


def norm_of_mix(
    terms: Terms, coefficients: Coefficients, scale: float = 1.0, kernel: bool = False, together: int = 1
) -> Tensor:
    """The second result of :func:`mix_norm` alone."""
    if kernel:
        return _run(terms, coefficients, together, scale, summed=False, normed=True)[1]
    return rms_norm(mix(terms, coefficients, together=together), scale)


def mix(terms: Terms, coefficients: Coefficients, kernel: bool = False, together: int = 1) -> Tensor:
    """The first result of :func:`mix_norm` alone."""
    if kernel:
        return _run(terms, coefficients, together, 1.0, summed=True, normed=False)[0]
    first, *others = map(read, terms)
    for term in others[: together - 1]:
        first = first + term
    mixed: Tensor | None = None
    for term, coefficient in zip([first, *others[together - 1 :]], coefficients, strict=True):
        factor = coefficient.to(term.dtype) if isinstance(coefficient, Tensor) else coefficient
        if mixed is None:
            mixed = term if is_one(factor) else factor * term
        elif isinstance(factor, Tensor):
            mixed = torch.addcmul(mixed, factor, term)
        else:
            mixed = torch.add(mixed, term, alpha=factor)
    assert mixed is not None
    return mixed


def read(term: Tensor | Relay) -> Tensor:
    """The tensor."""
    return term.value if isinstance(term, Relay) else term


def is_one(coefficient: Tensor | float) -> bool:
    """Whether it is the plain number 1."""
    return not isinstance(coefficient, Tensor) and coefficient == 1


def _run(
    terms: Terms, coefficients: Coefficients, together: int, scale: float, *, summed: bool, normed: bool
) -> tuple[Tensor, Tensor]:
    """Those of the two results that are asked for; the other is of no use."""
    shape = read(terms[0]).shape
    if not 1 <= together <= MOST_TOGETHER or not 1 <= len(coefficients) <= MOST_COEFFICIENTS:
        raise ValueError(
            f"mix_norm: found {together} terms together and {len(coefficients)} coefficients, needed 1 to "
            f"{MOST_TOGETHER} and 1 to {MOST_COEFFICIENTS}"
        )
    if together == 1 < len(terms) and read(terms[0]) is read(terms[1]):  # the stream is the embedding, or the skip
        terms, coefficients = terms[1:], [coefficients[0] + coefficients[1], *coefficients[2:]]
    rows = [read(term).reshape(-1, shape[-1]).contiguous() for term in terms]
    # One tensor each: a stack of them all in every layer kept the compiler busy for minutes.
    learnt = coefficients[1:] if is_one(coefficients[0]) else coefficients
    channels = [per_channel(coefficient, rows[0]) for coefficient in learnt]
    # Terms together share their gradient, and a plain sum has none of its own: they can take no other in.
    handing = range(together - (together == 1), len(terms) if channels or normed else 0)
    relays = {place: term for place, term in enumerate(terms) if place in handing and isinstance(term, Relay)}
    mixed, norm, *handed = _MixNorm.apply(len(rows), together, scale, summed, normed, (*relays,), *rows, *channels)
    for relay, value in zip(relays.values(), handed, strict=True):
        relay.value = value.view(shape)
    return mixed.view(shape) if summed else mixed, norm.view(shape) if normed else norm


def per_channel(coefficient: Tensor | float, like: Tensor) -> Tensor:
    """The coefficient as (D,) fp32, for terms ``like`` this one."""
    width = like.shape[-1]
    if isinstance(coefficient, Tensor):
        return coefficient.expand(width).contiguous()
    return torch.full((width,), coefficient, device=like.device)


@torch.library.custom_op(
    "golf::mix_norm",
    mutates_args=(),
    schema="(Tensor[] terms, Tensor[] coefficients, int together, float scale, bool summed, bool normed)"
    " -> (Tensor, Tensor)",
)
def _mix_norm(
    terms: list[Tensor], coefficients: list[Tensor], together: int, scale: float, summed: bool, normed: bool
) -> tuple[Tensor, Tensor]:
    outputs = _outputs(terms, summed, normed)
    rows, width = terms[0].shape
    _forward_kernel[(-(-rows // ROWS),)](
        *_operands(terms, coefficients, together), *outputs, rows, width, scale, EPS,
        *_counts(terms, coefficients, together), summed, normed, ROWS, power_of_two(width), num_warps=ROWS,
    )  # fmt: skip
    return outputs


def _outputs(terms: list[Tensor], summed: bool, normed: bool) -> tuple[Tensor, Tensor]:
    like = terms[0]
    return (
        torch.empty_like(like) if summed else like.new_empty(0),
        torch.empty_like(like) if normed else like.new_empty(0),
    )


@_mix_norm.register_fake
def _(
    terms: list[Tensor], coefficients: list[Tensor], together: int, scale: float, summed: bool, normed: bool
) -> tuple[Tensor, Tensor]:
    return _outputs(terms, summed, normed)


@torch.library.custom_op(
    "golf::mix_norm_backward",
    mutates_args=(),
    schema="(Tensor? mixed_gradient, Tensor? normed_gradient, Tensor[] carried, int[] places, Tensor[] terms,"
    " Tensor[] coefficients, int together, float scale) -> (Tensor[], Tensor)",
)
def _mix_norm_backward(
    mixed_gradient: Tensor | None, normed_gradient: Tensor | None, carried: list[Tensor], places: list[int],
    terms: list[Tensor], coefficients: list[Tensor], together: int, scale: float,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """``carried`` is what the terms of the groups ``places`` have as gradients already."""
    filler = terms[0]
    gradients = [torch.empty_like(term) for term in terms[together - 1 :]]
    rows, width = filler.shape
    grid = min(-(-rows // ROWS), programs(filler.device, BACKWARD_PROGRAMS))
    parts = torch.empty(grid, len(coefficients), width, device=filler.device)
    before = dict(zip(places, carried, strict=True))
    _backward_kernel[(grid,)](
        *(filler if gradient is None else gradient for gradient in (mixed_gradient, normed_gradient)),
        *_operands(terms, coefficients, together), *(before.get(place, filler) for place in range(MOST_COEFFICIENTS)),
        *_filled(gradients, MOST_COEFFICIENTS, filler), parts, rows, width, scale, EPS,
        *_counts(terms, coefficients, together), mixed_gradient is not None, normed_gradient is not None,
        sum(1 << place for place in places), ROWS, power_of_two(width), num_warps=ROWS,
    )  # fmt: skip
    return gradients, parts.sum(0) if coefficients else parts.new_empty(0, width)


@_mix_norm_backward.register_fake
def _(
    mixed_gradient: Tensor | None, normed_gradient: Tensor | None, carried: list[Tensor], places: list[int],
    terms: list[Tensor], coefficients: list[Tensor], together: int, scale: float,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    of_coefficients = torch.empty(len(coefficients), terms[0].shape[1], device=terms[0].device)
    return [torch.empty_like(term) for term in terms[together - 1 :]], of_coefficients


class _MixNorm(torch.autograd.Function):
    """The operators, and the terms ``handed``, by their places, on to those that read them next."""

    @staticmethod
    def forward(
        ctx: Any, count: int, together: int, scale: float, summed: bool, normed: bool, handed: tuple[int, ...],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        terms, coefficients = tensors[:count], tensors[count:]
        output = _mix_norm([*terms], [*coefficients], together, scale, summed, normed)
        ctx.set_materialize_grads(False)
        ctx.shared = ctx.together = together
        ctx.scale, ctx.learnt, ctx.normed = scale, len(coefficients), normed
        ctx.places = [place - together + 1 for place in handed]
        kept = terms
        if summed and not coefficients:  # a plain sum says all that the backward pass would ask of its terms
            kept, ctx.together = output[:1] if normed else (), 1
        ctx.save_for_backward(*kept, *coefficients)
        return *output, *(terms[place] for place in handed)

    @staticmethod
    def backward(ctx: Any, mixed: Tensor | None, normed: Tensor | None, *carried: Tensor | None) -> Any:
        if not ctx.learnt and not ctx.normed:
            return *[None] * 6, *[mixed] * ctx.shared
        saved = list(ctx.saved_tensors)
        split = len(saved) - ctx.learnt
        found = {place: flow.contiguous() for place, flow in zip(ctx.places, carried, strict=True) if flow is not None}
        gradients, of_coefficients = _mix_norm_backward(
            # Compiled, what has no gradient has zeros, also where there was no result.
            *(flow.contiguous() if flow is not None and flow.numel() else None for flow in (mixed, normed)),
            [*found.values()], [*found], saved[:split], saved[split:], ctx.together, ctx.scale,
        )  # fmt: skip
        return *[None] * 6, *gradients[:1] * ctx.shared, *gradients[1:], *of_coefficients.unbind()


def _operands(terms: list[Tensor], coefficients: list[Tensor], together: int) -> list[Tensor]:
    """Terms and coefficients in the kernels' places; those that they do not touch hold the first term."""
    first, others = terms[:together], terms[together:]
    plain = len(coefficients) == len(others)
    return [
        *_filled(first, MOST_TOGETHER, terms[0]),
        *_filled(others, MOST_COEFFICIENTS - 1, terms[0]),
        *_filled(terms[:1] * plain + coefficients, MOST_COEFFICIENTS, terms[0]),
    ]


def _filled(tensors: list[Tensor], count: int, filler: Tensor) -> list[Tensor]:
    return tensors + [filler] * (count - len(tensors))


def _counts(terms: list[Tensor], coefficients: list[Tensor], together: int) -> tuple[int, int, bool]:
    """Terms together, groups of terms, and whether the first of them has no coefficient."""
    groups = len(terms) - together + 1
    return together, groups, len(coefficients) < groups


@Kernel
def _forward_kernel(  # type: ignore[no-untyped-def]
    a0, a1, a2, t1, t2, t3, c0, c1, c2, c3, mixed, normed, rows, width, scale, eps,
    TOGETHER: tl.constexpr, GROUPS: tl.constexpr, PLAIN: tl.constexpr, SUMMED: tl.constexpr, NORMED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    at, inside, channel = row * width + column, (row < rows) & (column < width), column < width
    u = tl.load(a0 + at, inside, 0.0).to(tl.float32)
    if TOGETHER > 1:
        u += tl.load(a1 + at, inside, 0.0).to(tl.float32)
    if TOGETHER > 2:
        u += tl.load(a2 + at, inside, 0.0).to(tl.float32)
    if not PLAIN:
        u *= tl.load(c0 + column, channel, 0.0)
    if GROUPS > 1:
        u += tl.load(c1 + column, channel, 0.0) * tl.load(t1 + at, inside, 0.0).to(tl.float32)
    if GROUPS > 2:
        u += tl.load(c2 + column, channel, 0.0) * tl.load(t2 + at, inside, 0.0).to(tl.float32)
    if GROUPS > 3:
        u += tl.load(c3 + column, channel, 0.0) * tl.load(t3 + at, inside, 0.0).to(tl.float32)
    if SUMMED:
        tl.store(mixed + at, u.to(mixed.dtype.element_ty), inside)
    if NORMED:
        inverse = tl.rsqrt(tl.sum(u * u, 1) / width + eps) * scale
        tl.store(normed + at, (u * inverse[:, None]).to(normed.dtype.element_ty), inside)


@Kernel
def _backward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915 - a branch a term, gone when compiled
    du, dn, a0, a1, a2, t1, t2, t3, c0, c1, c2, c3, h0, h1, h2, h3, d0, d1, d2, d3, parts, rows, width, scale, eps,
    TOGETHER: tl.constexpr, GROUPS: tl.constexpr, PLAIN: tl.constexpr, SUMMED: tl.constexpr, NORMED: tl.constexpr,
    CARRIED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    channel = column < width
    c0 = tl.load(c0 + column, channel & (not PLAIN), 1.0).to(tl.float32)
    c1 = tl.load(c1 + column, channel & (GROUPS > 1), 0.0).to(tl.float32)
    c2 = tl.load(c2 + column, channel & (GROUPS > 2), 0.0).to(tl.float32)
    c3 = tl.load(c3 + column, channel & (GROUPS > 3), 0.0).to(tl.float32)
    s0 = tl.zeros((ROWS, BLOCK), tl.float32)
    s1, s2, s3 = s0, s0, s0
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (start + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        at, inside = row * width + column, (row < rows) & channel
        x0 = tl.load(a0 + at, inside, 0.0).to(tl.float32)
        if TOGETHER > 1:
            x0 += tl.load(a1 + at, inside, 0.0).to(tl.float32)
        if TOGETHER > 2:
            x0 += tl.load(a2 + at, inside, 0.0).to(tl.float32)
        u = c0 * x0
        if GROUPS > 1:
            x1 = tl.load(t1 + at, inside, 0.0).to(tl.float32)
            u += c1 * x1
        if GROUPS > 2:
            x2 = tl.load(t2 + at, inside, 0.0).to(tl.float32)
            u += c2 * x2
        if GROUPS > 3:
            x3 = tl.load(t3 + at, inside, 0.0).to(tl.float32)
            u += c3 * x3
        g = tl.zeros((ROWS, BLOCK), tl.float32)
        if NORMED:
            flow = tl.load(dn + at, inside, 0.0).to(tl.float32) * scale
            inverse = tl.rsqrt(tl.sum(u * u, 1) / width + eps)[:, None]
            along = tl.sum(flow * u, 1)[:, None] / width * inverse * inverse
            g += inverse * (flow - along * u)
        if SUMMED:
            g += tl.load(du + at, inside, 0.0).to(tl.float32)
        # A load that no element passes is none.
        d = c0 * g + tl.load(h0 + at, inside & (CARRIED & 1 > 0), 0.0)
        tl.store(d0 + at, d.to(d0.dtype.element_ty), inside)
        if not PLAIN:
            s0 += g * x0
        if GROUPS > 1:
            d = c1 * g + tl.load(h1 + at, inside & (CARRIED & 2 > 0), 0.0)
            tl.store(d1 + at, d.to(d1.dtype.element_ty), inside)
            s1 += g * x1
        if GROUPS > 2:
            d = c2 * g + tl.load(h2 + at, inside & (CARRIED & 4 > 0), 0.0)
            tl.store(d2 + at, d.to(d2.dtype.element_ty), inside)
            s2 += g * x2
        if GROUPS > 3:
            d = c3 * g + tl.load(h3 + at, inside & (CARRIED & 8 > 0), 0.0)
            tl.store(d3 + at, d.to(d3.dtype.element_ty), inside)
            s3 += g * x3
    LEARNT: tl.constexpr = GROUPS - PLAIN
    parts += tl.program_id(0) * LEARNT * width + tl.arange(0, BLOCK)
    channels = tl.arange(0, BLOCK) < width
    if not PLAIN:
        tl.store(parts, tl.sum(s0, 0), channels)
        parts += width
    if GROUPS > 1:
        tl.store(parts, tl.sum(s1, 0), channels)
    if GROUPS > 2:
        tl.store(parts + width, tl.sum(s2, 0), channels)
    if GROUPS > 3:
        tl.store(parts + 2 * width, tl.sum(s3, 0), channels)
