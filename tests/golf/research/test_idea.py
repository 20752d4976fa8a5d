"""What every idea must keep, whatever it does inside; the tests of one idea stand in the file of its name."""

import ast
import math

import pytest
import torch
from torch import Tensor

from golf.optim.groups import build_optimizer
from golf.params.optim import Optim
from golf.research.idea import IDEAS, Baseline, Ends, Idea, Size, build_idea, draw_weights, find_idea, layers_of, run
from golf.runtime.errors import ConfigError
from tests.house.source import ROOT, files, tree

VOCAB, LENGTH = 23, 24
SMALL = Size(dim=32, layers=4, heads=2, kv_heads=1, mlp_ratio=2.0, length=LENGTH)


def build(name: str, *, awake: bool = True) -> Idea:
    """An idea; ``awake``: every parameter moved a little, so that no zero hides a path."""
    torch.manual_seed(0)
    idea = build_idea(name, SMALL, VOCAB)
    if awake:
        with torch.no_grad():
            for param in idea.parameters():
                param.add_(0.1 * torch.randn_like(param))
    return idea


EXACT = [name for name in IDEAS if build(name, awake=False).exact]  # the others bound a code, and are none


def drawn(rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCAB, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", IDEAS)
def test_loss_and_nll_have_their_shapes(name: str) -> None:
    idea, tokens = build(name), drawn(3)
    loss, nll = idea.loss(tokens), idea.nll(tokens)
    assert loss.shape == ()
    assert nll.shape == (3, LENGTH)
    assert loss.dtype == nll.dtype == torch.float32
    assert torch.isfinite(nll).all()


@pytest.mark.parametrize("name", IDEAS)
def test_a_fresh_idea_knows_nothing(name: str) -> None:
    nll = build(name, awake=False).nll(drawn(16)).detach()
    assert float(nll.mean()) == pytest.approx(math.log(VOCAB), abs=0.15)


@pytest.mark.parametrize("name", IDEAS)
def test_a_seed_decides_the_weights(name: str) -> None:
    first, second = build(name), build(name)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", EXACT)
def test_no_later_token_changes_an_earlier_score(name: str) -> None:
    idea, tokens = build(name).eval(), drawn()
    before = idea.nll(tokens)
    for place in (1, LENGTH // 2, LENGTH):
        changed = tokens.clone()
        changed[:, place:] = drawn(seed=1)[:, place:]
        changed[:, place] = (tokens[:, place] - 1) % (VOCAB - 2) + 2
        after = idea.nll(changed)
        torch.testing.assert_close(after[:, : place - 1], before[:, : place - 1], rtol=0, atol=1e-5)
        assert (after[:, place - 1] != before[:, place - 1]).all(), "the changed target itself is scored anew"


@pytest.mark.parametrize("name", EXACT)
def test_the_probabilities_of_all_tokens_sum_to_one(name: str) -> None:
    idea = build(name).eval()
    for place in (1, LENGTH // 2, LENGTH):
        tokens = drawn(1).repeat(VOCAB, 1)
        tokens[:, place] = torch.arange(VOCAB)
        total = torch.exp(-idea.nll(tokens)[:, place - 1].detach().double()).sum()
        assert float(total) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", IDEAS)
def test_gradients_reach_every_parameter(name: str) -> None:
    idea = build(name)
    idea.loss(drawn(4)).backward()
    still = [path for path, param in idea.named_parameters() if param.grad is None or not param.grad.any()]
    assert not still


@pytest.mark.parametrize("name", IDEAS)
def test_the_loss_falls_on_a_repetitive_text(name: str) -> None:
    idea = build(name, awake=False)
    optimizer = build_optimizer(idea, Optim())  # type: ignore[arg-type]
    tokens = (torch.arange(LENGTH + 1) % 5 + 2 + torch.arange(4)[:, None]) % VOCAB
    losses = []
    for step in range(20):
        loss = idea.loss(tokens)
        loss.backward()
        optimizer.step(1.0, step)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) / 3 < 0.7 * losses[0]


def test_layers_between_the_ends_are_the_baseline() -> None:
    """The parts that ideas build on must stay what they are compared with."""
    baseline = build("baseline")
    assert isinstance(baseline, Baseline)
    config = SMALL.model()
    ends, layers = Ends(config, VOCAB), layers_of(config, SMALL.layers)
    state = baseline.transformer.state_dict()
    ends.load_state_dict({"table.weight": state.pop("embed.weight")})
    layers.load_state_dict({name.removeprefix("blocks."): value for name, value in state.items()})
    tokens = drawn()
    x = ends.embed(tokens[:, :-1])
    x = run(layers, x, ends.shared(x))
    torch.testing.assert_close(ends.nll(x, tokens[:, 1:]), baseline.nll(tokens), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ends.logits(x), baseline.transformer(tokens[:, :-1]), rtol=1e-5, atol=1e-5)


def test_fresh_weights_are_drawn_as_the_baseline_s() -> None:
    (layer,) = layers = layers_of(SMALL.model(), 1)
    draw_weights(layers)
    assert not layer.attention.output.weight.any()
    assert not layer.mlp.down.weight.any()
    up = layer.mlp.up.weight.detach()
    torch.testing.assert_close(up.T @ up, torch.eye(SMALL.dim), rtol=0, atol=1e-5)


def test_an_unknown_idea_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"found 'perpetuum', needed one of baseline, universal, .*Try: python -m"):
        find_idea("perpetuum")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 30, "heads": 4}, r"size.dim: found 30, needed a multiple of 2 x heads \(8\)"),
        ({"kv_heads": 3}, r"size.kv_heads: found 3, needed a divisor of heads \(2\)"),
        ({"layers": 0}, "size.layers: found 0, needed at least 1"),
        ({"length": 1}, "size.length: found 1, needed at least 2 tokens"),
        ({"mlp_ratio": 0.0}, "size.mlp_ratio: found 0.0, needed above 0"),
    ],
)
def test_a_bad_size_is_refused(change: dict, message: str) -> None:
    good = {"dim": 32, "layers": 2, "heads": 2, "kv_heads": 1, "mlp_ratio": 2.0, "length": 8}
    with pytest.raises(ConfigError, match=message):
        Size(**(good | change))


@pytest.mark.parametrize("heads", [1, 2, 4, 16])
def test_any_accepted_size_is_a_model(heads: int) -> None:
    Size(dim=32, layers=1, heads=heads, kv_heads=1, mlp_ratio=2.0, length=8).model()


def test_nothing_of_the_project_imports_the_ideas() -> None:
    outside = [path for path in files("golf", "stages", "pipeline") if path.parts[:2] != ("golf", "research")]
    for path in outside:
        nodes = list(ast.walk(tree(path)))
        names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        names |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        assert not [name for name in names if name.startswith("golf.research")], path
    assert "golf/research" not in (ROOT / "dvc.yaml").read_text()
