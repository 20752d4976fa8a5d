"""The published models: their parameter counts as profiles, and that a small one of each is sound."""

from pathlib import Path

import pytest
import torch
import yaml

from golf.model.transformer import Transformer
from golf.params.model import Model
from tests.golf.model.reference import Reference
from tests.golf.model.tiny import tiny, tokens

PROFILES = Path(__file__).resolve().parents[3] / "profiles"
COUNTS = {  # parameters in the logs of the records
    "baseline": 17_059_912,
    "r1228": 26_993_756,
    "r1147": 27_067_484,
    "r1081": 35_944_536,
    "r1061": 35_945_671,
}
NARROW = {"dim": 32, "num_heads": 4, "num_kv_heads": 2, "rope_dims": 4}
SMALL_TABLES = {"value_embed_dim": 6, "bigram_buckets": 37, "bigram_dim": 8}


def profile(name):
    return yaml.safe_load((PROFILES / f"{name}.yaml").read_text())


def small(name):
    """The preset with all its layers and switches, a sixteenth as wide."""
    values = profile(name)["model"]
    return tiny(**values | NARROW | {key: size for key, size in SMALL_TABLES.items() if values.get(key)})


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_of_the_record(name):
    with torch.device("meta"):
        model = Transformer(Model(**profile(name)["model"]), profile(name)["tokenizer"]["vocab_size"])
    assert sum(param.numel() for param in model.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_the_preset_computes_its_formulas(name):
    model, ids = small(name), tokens(batch=1, length=14)
    with torch.no_grad():
        for passes in {1, model.config.loop_passes}:
            model.set_passes(passes)
            assert torch.allclose(model(ids).double(), Reference(model).logits(ids), atol=5e-4)


@pytest.mark.parametrize("name", COUNTS)
def test_every_parameter_of_the_preset_learns(name):
    model, ids = small(name), tokens(length=25)
    for passes in {1, model.config.loop_passes}:
        model.set_passes(passes)
        model.zero_grad()
        model(ids[:, :-1], ids[:, 1:]).mean().backward()
        for key, param in model.named_parameters():
            assert param.grad is not None, key
            assert torch.isfinite(param.grad).all(), key
            assert param.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", COUNTS)
def test_a_later_token_never_changes_an_earlier_logit(name):
    model, ids = small(name), tokens()
    with torch.no_grad():
        for passes in {1, model.config.loop_passes}:
            model.set_passes(passes)
            reference = model(ids)
            for position in (1, 7, 12, 23):
                changed = ids.clone()
                changed[:, position] = (changed[:, position] + 5) % 50 + 2
                logits = model(changed)
                assert torch.equal(logits[:, :position], reference[:, :position])
                assert not torch.allclose(logits[:, position:], reference[:, position:], atol=1e-3)


def test_the_newest_preset_scores_each_document_by_itself():
    model, ids = small("r1061"), tokens(batch=1)
    border = ids.shape[1] // 2
    with torch.no_grad():
        whole = model(ids)
        alone = model(ids[:, border:])
        other = model(torch.cat(((ids[:, :border] + 9) % 50 + 2, ids[:, border:]), dim=1))
    assert torch.allclose(whole[:, border:], alone, atol=1e-4)
    assert torch.equal(whole[:, border:], other[:, border:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r1081", "r1061"])
def test_the_deep_presets_compile_whole(name):
    torch.compiler.reset()
    model, ids = small(name), tokens(length=25)
    # Not by inductor: its C++ for a CPU takes minutes, and it is a GPU that trains this.
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    for passes in (1, 3):
        model.set_passes(passes)
        gradients = []
        for forward in (compiled, model):
            model.zero_grad()
            forward(ids[:, :-1], ids[:, 1:]).mean().backward()
            gradients.append([param.grad.clone() for param in model.parameters()])
        assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(*gradients, strict=True))
