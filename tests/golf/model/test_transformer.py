import dataclasses

import pytest
import torch

from golf.model.linear import Linear
from golf.model.transformer import Transformer
from golf.params.model import Model
from tests.golf.model.tiny import BOS, EVERYTHING, SMALL, VOCAB, tiny, tokens

RECORD = {"dim": 512, "num_heads": 8, "num_kv_heads": 4}
PUBLISHED = {  # parameter counts in the logs of the records
    "1.2244": (
        17_059_912,
        Model(
            **RECORD, num_layers=9, mlp_ratio=2.0, activation="relu2", rope_dims=64, qk_gain=1.5, ln_scale=False,
            xsa_layers=0, smear_gate=False, bigram_buckets=0,
        ),
    ),
    "1.1228": (
        26_993_756,
        Model(
            **RECORD, num_layers=11, mlp_ratio=3.0, activation="relu2", rope_dims=16, qk_gain=1.5, xsa_layers=4,
            value_embed_dim=128, value_embed_layers=2, bigram_buckets=2048, bigram_dim=128,
        ),
    ),
    "1.1147": (
        27_067_484,
        Model(
            **RECORD, num_layers=11, mlp_ratio=3.0, rope_dims=16, qk_gain=1.5, xsa_layers=11,
            value_embed_dim=128, value_embed_layers=2, bigram_buckets=3072, bigram_dim=112,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("record", PUBLISHED)
def test_parameter_count_of_the_record(record):
    count, config = PUBLISHED[record]
    with torch.device("meta"):
        model = Transformer(config, vocab_size=1024)
    assert sum(param.numel() for param in model.parameters()) == count


SWITCHES = [
    {},
    EVERYTHING,
    {"activation": "relu2"},
    {"leaky_slope": 0.0},
    {"rope_dims": 0},
    {"rope_dims": 8},
    {"ln_scale": False},
    {"resid_mix": False},
    {"unet_skips": "none"},
    {"unet_skips": "gated"},
    {"xsa_layers": 0},
    {"xsa_layers": 4},
    {"value_residual": True},
    {"value_embed_dim": 6},
    {"value_embed_dim": 6, "value_embed_layers": 0},
    {"value_embed_dim": 6, "value_embed_layers": 4},
    {"smear_gate": False},
    {"bigram_buckets": 0},
    {"bigram_buckets": 2},
    {"num_kv_heads": 4},
    {"num_kv_heads": 1},
    {"num_layers": 1, "xsa_layers": 1},
    {"num_layers": 2},
    {"num_layers": 5, "unet_skips": "gated"},
    {"mlp_ratio": 0.01},
    {"activation": "star_relu"},
    {"rope_train_len": 8},
    {"softcap_kind": "asymmetric", "logit_softcap": 3.0},
    {"loop_first": 1, "loop_last": 2, "loop_passes": 3},
    {"loop_last": 3, "loop_passes": 2, "unet_skips": "gated", "skip_binding": "position"},
    {"loop_first": 1, "loop_last": 1, "loop_passes": 2, "unet_skips": "none", "value_residual": True},
    {"parallel": "one_lane", "parallel_from": 2},
    {"parallel": "two_lane", "parallel_from": 2},
    {"parallel": "two_lane", "resid_mix": False, "loop_first": 1, "loop_last": 2, "loop_passes": 2},
    {"attention_gate": "double"},
    {"attention_gate": "dense", "gate_init_std": 0.1},
    {"attention_gate": "sparse", "gate_inputs": 5, "gate_scale": 2.0},
    {"smear_kind": "token", "gate_inputs": 32},
    {"bos_mask": False},
    {"document_mask": True},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_trains_and_every_parameter_gets_a_gradient(switches):
    if "value_embed_layers" not in switches:
        switches = switches | {"value_embed_layers": min(2, switches.get("num_layers", 4))}
    model = tiny(**switches)
    ids = tokens(length=25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = model(ids[:, :-1], ids[:, 1:]).mean()
    before.backward()
    for name, param in model.named_parameters():
        assert param.grad is not None, name
        assert torch.isfinite(param.grad).all(), name
        assert param.grad.abs().max() > 0, name
    optimizer.step()
    after = model(ids[:, :-1], ids[:, 1:]).mean()
    assert after < before


def test_each_switch_changes_the_logits():
    """A switch that reads no parameter of its own must still reach the forward pass."""
    ids = tokens()
    reference = tiny()(ids)
    for change in (
        {"activation": "relu2"}, {"leaky_slope": 0.1}, {"rope_dims": 8}, {"rope_base": 100.0}, {"ln_scale": False},
        {"xsa_layers": 0}, {"logit_softcap": 5.0},
    ):  # fmt: skip
        assert not torch.allclose(tiny(**change)(ids), reference, atol=1e-3), change


@pytest.mark.parametrize("switches", [{}, EVERYTHING, {"xsa_layers": 4, "num_kv_heads": 1}], ids=str)
def test_no_logit_depends_on_a_later_token(switches):
    model = tiny(**switches)
    ids = tokens()
    with torch.no_grad():
        reference = model(ids)
        for position in (1, 7, 12, 13, 23):
            changed = ids.clone()
            changed[:, position] = (changed[:, position] + 17) % VOCAB
            logits = model(changed)
            assert torch.allclose(logits[:, :position], reference[:, :position], atol=1e-6)
            assert not torch.allclose(logits[:, position], reference[:, position], atol=1e-3)


def test_loss_is_that_of_the_logits():
    model = tiny()
    ids = tokens(batch=30, length=25)  # 720 positions: more than one block of the loss, the last one partial
    inputs, targets = ids[:, :-1], ids[:, 1:]
    nll = model(inputs, targets)
    log_p = torch.log_softmax(model(inputs).double(), -1)
    expected = -log_p.gather(-1, targets[..., None]).squeeze(-1)
    assert nll.shape == targets.shape
    assert nll.dtype == torch.float32
    assert torch.allclose(nll.double(), expected, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_fewer_targets_are_those_of_the_last_tokens(count: int) -> None:
    model, ids = tiny(), tokens(batch=3, length=25)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    whole = model(inputs, targets)
    found = model(inputs, targets[:, 24 - count :])
    assert found.shape == (3, count)
    assert torch.allclose(found, whole[:, 24 - count :], atol=1e-6)


def test_untrained_model_guesses_uniformly():
    model = tiny(awake=False)
    ids = tokens(length=25)
    assert model(ids[:, :-1], ids[:, 1:]).mean().item() == pytest.approx(
        torch.tensor(float(VOCAB)).log().item(), abs=0.05
    )


def test_softcap_bounds_the_logits():
    model = tiny(logit_softcap=3.0)
    with torch.no_grad():
        model.embed.weight.mul_(1e4)
        logits = model(tokens())
    assert logits.abs().max() <= 3.0
    assert logits.abs().max() > 2.9


def test_initialisation_depends_on_the_seed_alone():
    first, again, other = tiny(1, awake=False), tiny(1, awake=False), tiny(2, awake=False)
    for (name, one), two in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_initialisation():
    model = tiny(awake=False, value_embed_dim=6, dim=64, embed_init_std=0.02)
    block = model.blocks[0]
    eye = torch.eye(64)
    assert torch.allclose(block.attention.query.weight @ block.attention.query.weight.T, eye, atol=1e-5)
    assert block.attention.output.weight.abs().max() == 0
    assert block.mlp.down.weight.abs().max() == 0
    assert model.bigram.table.weight.abs().max() == 0
    assert model.bigram.project.weight.abs().max() > 0
    assert model.values.table.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert model.embed.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_two_passes_give_the_same_bytes():
    model, ids = tiny(), tokens(length=25)
    grads = []
    for _ in range(2):
        model.zero_grad()
        model(ids[:, :-1], ids[:, 1:]).mean().backward()
        grads.append([param.grad.clone() for param in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


def test_adapters():
    model, ids = tiny(**EVERYTHING), tokens()
    widths = {m.name: m.weight.shape for m in model.modules() if isinstance(m, Linear)}
    widths["head"] = model.embed.weight.shape
    assert {"blocks.0.attention.query", "blocks.3.mlp.down", "bigram.project", "values.project", "head"} <= set(widths)
    reference = model(ids)
    zeros = {name: (lambda x, out=shape[0]: x.new_zeros(*x.shape[:-1], out)) for name, shape in widths.items()}
    assert torch.equal(model(ids, adapters=zeros), reference)
    assert torch.equal(model(ids, adapters={}), reference)
    for name, shape in widths.items():
        low = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1
        low.requires_grad_()
        changed = model(ids, adapters={name: lambda x, w=low: x @ w.T})
        assert not torch.allclose(changed, reference, atol=1e-4), name
        changed.square().mean().backward()
        assert low.grad.abs().max() > 0, name


def test_an_adapter_equals_a_changed_weight():
    model, ids = tiny(), tokens()
    delta = 0.1 * torch.randn_like(model.blocks[1].mlp.up.weight)
    adapted = model(ids, adapters={"blocks.1.mlp.up": lambda x: x @ delta.T})
    with torch.no_grad():
        model.blocks[1].mlp.up.weight += delta
    assert torch.allclose(adapted, model(ids), atol=1e-5)


def test_bf16_activations_stay_close():
    model, ids = tiny(**EVERYTHING), tokens()
    reference = model(ids)
    model.compute_dtype = torch.bfloat16
    logits = model(ids)
    assert logits.dtype == torch.float32
    assert 0 < (logits - reference).abs().mean() < 0.05 * reference.abs().mean()
    model(ids, ids).mean().backward()
    assert all(param.grad.dtype == torch.float32 for param in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("switches", [{}, EVERYTHING], ids=str)
def test_compiles_whole_with_inductor(switches):
    # Two layers, of which one has each of: exclusive attention, a skip, the first one's values.
    model, ids = tiny(**switches, num_layers=2, xsa_layers=1), tokens(length=25)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    loss = compiled(ids[:, :-1], ids[:, 1:]).mean()
    loss.backward()
    compiled_grads = [param.grad.clone() for param in model.parameters()]
    model.zero_grad()
    expected = model(ids[:, :-1], ids[:, 1:]).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for found, param in zip(compiled_grads, model.parameters(), strict=True):
        assert torch.allclose(found, param.grad, atol=1e-4)


def test_traces_into_one_graph():
    model, ids = tiny(**EVERYTHING, num_layers=2), tokens(length=25)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    for _ in range(3):
        loss = compiled(ids[:, :-1], ids[:, 1:])
    assert torch.allclose(loss, model(ids[:, :-1], ids[:, 1:]), atol=1e-5)


def test_windows_of_any_length_and_bos_anywhere():
    model = tiny()
    for length in (1, 2, 3, 31):
        ids = torch.full((1, length), BOS)
        assert torch.isfinite(model(ids)).all()


def test_every_field_of_the_section_is_tried():
    """A new switch needs a line in SWITCHES or SMALL."""
    tried = set(SMALL) | {key for switches in SWITCHES for key in switches} | {"rope_base", "logit_softcap"}
    untried = {field.name for field in dataclasses.fields(Model)} - tried - {"qk_gain", "embed_init_std"}
    assert not untried
