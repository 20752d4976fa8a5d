import math

import pytest
import torch
from torch import Tensor

from golf.model.heads import Attention
from golf.research.idea import Size
from golf.research.state_space import SelectiveRecurrence, StateSpaceHybrid, decays, recurrence
from golf.runtime.errors import ConfigError

SMALL, VOCAB = Size(dim=32, layers=4, heads=2, kv_heads=1, mlp_ratio=2.0, length=24), 17


def one_by_one(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """The recurrence as its docstring states it."""
    batch, length, heads, width = value.shape
    state = value.new_zeros(batch, heads, key.shape[-1], width)
    outputs = []
    for t in range(length):
        added = key[:, t, None, :, None] * value[:, t, :, None, :]
        state = log_decay[:, t, :, None, None].exp() * state + added
        outputs.append((query[:, t, None, None, :] @ state).squeeze(-2))
    return torch.stack(outputs, dim=1)


def inputs(length: int, dtype: torch.dtype = torch.float64, strongest: float = 4.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    query, key = torch.randn(2, 2, length, 5, dtype=dtype, generator=generator)
    value = torch.randn(2, length, 3, 4, dtype=dtype, generator=generator)
    return [query, key, value, -strongest * torch.rand(2, length, 3, dtype=dtype, generator=generator)]


@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (8, 8), (37, 8), (37, 64), (64, 16)])
def test_chunks_give_what_the_sequence_gives(length: int, chunk: int) -> None:
    given = inputs(length)
    assert (recurrence(*given, chunk=chunk) - one_by_one(*given)).abs().max() < 1e-9


def test_gradients_are_those_of_the_sequence() -> None:
    given = [x.requires_grad_() for x in inputs(21)]
    weights = torch.randn(2, 21, 3, 4, dtype=torch.float64)
    chunked = torch.autograd.grad((recurrence(*given, chunk=8) * weights).sum(), given)
    sequential = torch.autograd.grad((one_by_one(*given) * weights).sum(), given)
    for ours, theirs in zip(chunked, sequential, strict=True):
        assert (ours - theirs).abs().max() < 1e-9


def test_an_infinite_decay_forgets_and_leaves_gradients_finite() -> None:
    query, key, value, log_decay = inputs(20)
    log_decay[:, 11] = -math.inf
    key.requires_grad_()
    y = recurrence(query, key, value, log_decay, chunk=8)
    assert (y[:, 11:] - one_by_one(query, key, value, log_decay)[:, 11:]).abs().max() < 1e-9
    (gradient,) = torch.autograd.grad(y[:, 11:].sum(), key)
    assert gradient[:, :11].abs().max() == 0
    assert gradient.isfinite().all()


def test_small_decays_behind_large_ones_stay_exact_in_fp32() -> None:
    """The difference of prefix sums would have an error of about 1e-3 here."""
    log_decay = torch.full((64,), -200.0)
    log_decay[60:] = -1e-3
    exact = decays(log_decay.double())
    assert (decays(log_decay) - exact).abs().max() < 1e-6


def test_bf16_stays_close() -> None:
    query, key, value, log_decay = inputs(130, torch.float32, strongest=0.5)
    exact = recurrence(query, key, value, log_decay)
    rounded = recurrence(query.bfloat16(), key.bfloat16(), value.bfloat16(), log_decay)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(("layers", "attend"), [(2, [1]), (3, [2]), (4, [3]), (9, [3, 7])])
def test_every_fourth_layer_attends(layers: int, attend: list[int]) -> None:
    kinds = [
        type(module)
        for module in StateSpaceHybrid(Size(16, layers, 1, 1, 2.0, 8), VOCAB).modules()
        if isinstance(module, Attention | SelectiveRecurrence)
    ]
    assert [layer for layer, kind in enumerate(kinds) if kind is Attention] == attend
    assert len(kinds) == layers


def test_one_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"size\.layers: found 1, needed 2 or more.* Try: python -m"):
        StateSpaceHybrid(Size(16, 1, 1, 1, 2.0, 8), VOCAB)
