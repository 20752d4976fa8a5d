import math

import pytest
import torch
from torch import Tensor

from golf.model.linear import Linear
from golf.research.idea import Size, build_idea
from golf.research.random_maps import RandomMap, RandomMaps, random_signs
from golf.research.training import artifact_bytes

SMALL, VOCAB = Size(dim=32, layers=2, heads=2, kv_heads=1, mlp_ratio=2.0, length=16), 23


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_map(*, writes: bool = False) -> RandomMap:
    linear = Linear(24, 16)
    linear.name = "blocks.0.mlp.up"
    return RandomMap(linear, rank=4, writes=writes)


def test_signs_are_the_bits_of_the_hash_forever() -> None:
    signs = random_signs("fairway/blocks.0.mlp.up", 3, 7)
    assert signs.to(int).tolist() == [
        [1, -1, -1, 1, -1, 1, -1],
        [1, -1, -1, 1, -1, 1, 1],
        [-1, 1, 1, -1, -1, -1, -1],
    ]


def test_signs_are_balanced_and_those_of_two_maps_are_not_alike() -> None:
    first, second = random_signs("a", 200, 300), random_signs("b", 200, 300)
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(first.mean())) < 5 / math.sqrt(first.numel())
    assert abs(float((first * second).mean())) < 5 / math.sqrt(first.numel())


def test_it_multiplies_by_the_formula() -> None:
    layer, x = random_map(), drawn(2, 5, 24)
    with torch.no_grad():
        for seed, param in enumerate(layer.parameters()):
            param.copy_(drawn(*param.shape, seed=seed + 1))
    fixed = layer.output_scale[:, None] * layer.random * layer.input_scale
    expected = x @ (fixed + layer.widen.weight @ layer.narrow.weight).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_it_keeps_the_size_of_a_vector_and_starts_at_zero_where_it_writes() -> None:
    x = drawn(100, 24)
    assert float(random_map()(x).square().mean()) == pytest.approx(1.0, rel=0.2)
    assert not random_map(writes=True)(x).any()


def test_no_random_number_is_stored() -> None:
    idea = RandomMaps(SMALL, VOCAB)
    stored = idea.state_dict()
    assert not [name for name in stored if name.endswith("random")]
    assert set(stored) == set(idea.shipped())
    assert not [param for param in idea.parameters() if param.shape == (64, 32)], "no matrix of the MLP is learnt"
    assert artifact_bytes(idea) < 0.6 * artifact_bytes(build_idea("baseline", SMALL, VOCAB))


def test_every_matrix_is_replaced_and_none_shares_its_signs() -> None:
    maps = [module for module in RandomMaps(SMALL, VOCAB).modules() if isinstance(module, RandomMap)]
    assert len(maps) == 6 * SMALL.layers
    assert len({module.random.numpy().tobytes() for module in maps}) == len(maps)


def test_the_stored_weights_alone_bring_the_model_back() -> None:
    torch.manual_seed(1)
    first = RandomMaps(SMALL, VOCAB)
    with torch.no_grad():
        for param in first.parameters():
            param.add_(0.1 * torch.randn_like(param))
    torch.manual_seed(2)
    second = RandomMaps(SMALL, VOCAB)
    second.load_state_dict(first.state_dict())
    tokens = torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.nll(tokens), second.nll(tokens))
