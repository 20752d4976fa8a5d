import pytest
import torch
from torch import Tensor

from golf.model.linear import Linear, TiedHead
from golf.model.weights import tensor_groups
from golf.quant.hessian import collect
from golf.runtime.errors import DataError
from tests.golf.quant import tiny


def windows(count: int, seq_len: int = 20, seed: int = 0) -> Tensor:
    return torch.from_numpy(tiny.tokens(count * (seq_len + 1), seed).astype("int64")).view(count, seq_len + 1)


def inputs_by_hand(model, tokens: Tensor) -> dict[str, Tensor]:
    """What each matrix is given, (tokens, C), one window a pass."""
    caught: dict[str, list[Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, arguments, name=name: caught.setdefault(name, []).append(arguments[0].detach().flatten(0, 1))
        )
        for name, module in model.named_modules()
        if isinstance(module, (Linear, TiedHead))
    ]
    for row in tokens:
        model(row[None, :-1])
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in caught.items()}


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_every_hessian_is_the_mean_of_x_x_transposed_over_all_tokens(batch: int) -> None:
    model, tokens = tiny.model(), windows(5)
    found = collect(model, tokens, batch)
    caught = inputs_by_hand(model, tokens)
    assert set(found) == {"embed.weight" if name == "head" else f"{name}.weight" for name in caught}
    for name, x in caught.items():
        assert x.shape[0] == 5 * 20, "the last token of a window is a target alone"
        expected = x.double().T @ x.double() / x.shape[0]
        hessian = found["embed.weight" if name == "head" else f"{name}.weight"]
        assert hessian.dtype == torch.float64
        assert torch.allclose(hessian, expected, rtol=1e-4, atol=1e-6), name


def test_every_matrix_has_one_and_the_tables_have_none() -> None:
    model = tiny.model()
    groups = tensor_groups(model)
    found = collect(model, windows(2), 2)
    assert set(found) == {name for name, group in groups.items() if group == "matrix"} | {"embed.weight"}
    for name, hessian in found.items():
        assert hessian.shape == (model.state_dict()[name].shape[1],) * 2
        assert torch.equal(hessian, hessian.T)


def test_query_key_and_value_share_one() -> None:
    found = collect(tiny.model(), windows(2), 1)
    for layer in range(2):
        query, key, value = (found[f"blocks.{layer}.attention.{name}.weight"] for name in ("query", "key", "value"))
        assert query is key
        assert key is value
    assert found["blocks.0.attention.query.weight"] is not found["blocks.1.attention.query.weight"]
    assert found["blocks.0.mlp.up.weight"] is not found["blocks.0.attention.query.weight"]


def test_the_same_call_gives_the_same_bits_and_leaves_the_model_as_it_was() -> None:
    model = tiny.model()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = collect(model, windows(4), 2), collect(model, windows(4), 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hooks_are_gone_after_an_error() -> None:
    model = tiny.model()
    with pytest.raises(IndexError):
        collect(model, torch.full((1, 5), tiny.VOCAB + 7), 1)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("shape", [(0, 9), (3, 1), (3,)])
def test_no_text_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="calibration: found windows"):
        collect(tiny.model(), torch.zeros(shape, dtype=torch.int64), 1)
