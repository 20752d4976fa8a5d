import torch

from golf.research.idea import Size
from golf.research.universal import UniversalTransformer

VOCAB = 23


def build(layers: int) -> UniversalTransformer:
    torch.manual_seed(0)
    return UniversalTransformer(Size(dim=32, layers=layers, heads=2, kv_heads=1, mlp_ratio=2.0, length=16), VOCAB)


def parameters(layers: int) -> int:
    return sum(param.numel() for param in build(layers).parameters())


def test_a_step_more_costs_its_embedding_alone() -> None:
    assert parameters(6) - parameters(5) == 32


def test_every_step_is_told_apart() -> None:
    idea = build(4)
    tokens = torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for param in idea.parameters():
            param.add_(0.1 * torch.randn_like(param))
        scores = []
        for step in range(4):
            idea.step_embedding.zero_()
            idea.step_embedding[step] = 1.0
            scores.append(idea.nll(tokens))
    assert all(not torch.allclose(scores[i], scores[j]) for i in range(4) for j in range(i))
