"""What starts as the identity, and what the gates and lanes do at their first value."""

import pytest
import torch
import torch.nn.functional as F

from golf.model.embedding import SmearGate, TokenSmear, has_predecessor
from golf.model.loss import softcap, softcapped_nll
from golf.model.residual import Term
from golf.model.rope import ntk_base
from tests.golf.model.tiny import BOS, tiny, tokens


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("kind", "first"), [("double", 1.0), ("dense", 0.5), ("sparse", 0.5)])
def test_the_first_value_of_each_output_gate(kind, first):
    gate = tiny(awake=False, attention_gate=kind).blocks[0].attention.gate
    x = torch.randn(2, 5, 32)
    assert gate.weight.shape == ((4, 32) if kind == "dense" else (4, 12))
    assert gate(x).shape == (2, 5, 4)
    assert (gate(x) - first).abs().max() < (0.2 if kind == "dense" else 1e-6)
    assert (gate.weight.abs().max() > 0) == (kind == "dense")


def test_the_dense_gate_has_its_spread():
    model = tiny(awake=False, attention_gate="dense", gate_init_std=0.2, dim=64)
    assert model.blocks[0].attention.gate.weight.std().item() == pytest.approx(0.2, rel=0.2)


def test_a_narrow_gate_reads_only_its_channels():
    gate = tiny(attention_gate="sparse", gate_inputs=5).blocks[0].attention.gate
    x = torch.randn(2, 5, 32)
    changed = x.clone()
    changed[..., 5:] += 1
    assert torch.equal(gate(x), gate(changed))
    changed[..., 4] += 1
    assert not torch.allclose(gate(x), gate(changed), atol=1e-3)


def test_the_token_smear_starts_as_the_identity_and_learns():
    smear, ids = TokenSmear(12), tokens(batch=2, length=10)
    linked = has_predecessor(ids, BOS)
    x = torch.randn(2, 10, 32)
    assert torch.equal(smear(x, linked), x)
    smear(x, linked).square().sum().backward()
    assert smear.scale.grad.abs() > 0


def test_the_token_smear_stops_at_documents():
    smear, ids = TokenSmear(12), tokens(batch=2, length=10)
    with torch.no_grad():
        smear.weight.normal_()
        smear.scale.fill_(0.7)
    x = torch.randn(2, 10, 32)
    out = smear(x, has_predecessor(ids, BOS))
    assert torch.equal(out[:, [0, 5]], x[:, [0, 5]])  # the window's first token and the BOS
    expected = x[:, 6] + 0.7 * torch.sigmoid(x[:, 6, :12] @ smear.weight)[:, None] * x[:, 5]
    assert torch.allclose(out[:, 6], expected, atol=1e-6)


def test_the_published_smear_leaks_and_pads():
    gate, ids = SmearGate(8, pads=True), tokens(batch=2, length=10)
    x = torch.randn(2, 10, 8)
    out = gate(x, has_predecessor(ids, None))
    assert torch.allclose(out[:, 0], 0.5 * x[:, 0])
    assert torch.allclose(out[:, 5], 0.5 * (x[:, 5] + x[:, 4]))


@pytest.mark.parametrize("switches", [{}, {"smear_kind": "token"}, {"smear_gate": False}], ids=str)
def test_only_the_published_form_carries_over_a_bos(switches):
    ids = tokens(batch=1)
    border = ids.shape[1] // 2
    other = ids.clone()
    other[:, border - 1] += 1 if other[0, border - 1] < 50 else -1
    for masked in (True, False):
        model = tiny(**switches, bos_mask=masked)
        with torch.no_grad():
            one, two = (model.embed_tokens(t, model.embed.weight) for t in (ids, other))
        assert torch.equal(one[:, border], two[:, border]) == masked


def test_one_lane_differs_from_serial_and_lanes_start_as_published():
    ids = tokens()
    assert not torch.allclose(tiny(parallel="one_lane")(ids), tiny()(ids), atol=1e-2)
    lanes = tiny(parallel="two_lane", parallel_from=2, awake=False).lanes
    x, second, a, f = torch.randn(4, 1, 3, 32)
    first, other = (lane.added(kernels=False) for lane in lanes(x, second, Term((a,)), Term((f,)), 2))
    assert torch.allclose(first, 1.1 * x + a + f, atol=1e-6)
    assert torch.allclose(other, 1.1 * second + a + f, atol=1e-6)


def test_two_lanes_leave_the_layers_before_them_alone():
    """Rows of layers before ``parallel_from`` exist, as published, and do nothing."""
    model, ids = tiny(parallel="two_lane", parallel_from=2), tokens()
    model(ids).square().mean().backward()
    assert model.lanes.keep.shape == (4, 2)
    assert model.lanes.take.shape == (4, 2, 2)
    for param in (model.lanes.keep, model.lanes.take):
        assert param.grad[:2].abs().max() == 0
        assert param.grad[2:].abs().min() > 0


def test_the_asymmetric_softcap():
    caps = torch.tensor([4.0, 9.0], requires_grad=True)
    logits = torch.tensor([[-50.0, -3.0, 0.0, 3.0, 50.0]], requires_grad=True)
    out = softcap(logits, caps)
    assert out.detach()[0].tolist() == pytest.approx([-8.9997, -2.8936, 0.0, 2.5406, 4.0], abs=1e-3)
    assert torch.allclose(softcap(logits, torch.tensor([7.0, 7.0])), softcap(logits, 7.0))
    assert torch.autograd.gradcheck(
        softcap, (logits.detach().double().requires_grad_(), caps.detach().double().requires_grad_())
    )


def test_equal_caps_give_the_symmetric_loss_and_train():
    """In the records that publish the two caps no optimizer holds them, and they stay equal for ever."""
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(2, 7, 50, generator=generator)
    targets = torch.randint(0, 50, (2, 7), generator=generator)
    caps = torch.full((2,), 15.0, requires_grad=True)
    nll = softcapped_nll(logits, targets, caps)
    assert torch.allclose(nll, softcapped_nll(logits, targets, 15.0), atol=1e-5)
    nll.sum().backward()
    exact = torch.full((2,), 15.0, dtype=torch.float64, requires_grad=True)
    z = logits.double()
    z = torch.where(z > 0, exact[0] * torch.tanh(z / exact[0]), exact[1] * torch.tanh(z / exact[1]))
    F.cross_entropy(z.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    assert torch.allclose(caps.grad.double(), exact.grad, rtol=1e-4)
    assert caps.grad.abs().min() > 0


def test_the_ntk_rule():
    assert ntk_base(1e4, 16, 2048, 0) == 1e4
    assert ntk_base(1e4, 16, 2048, 2048) == 1e4
    assert ntk_base(1e4, 16, 2048, 1024) == pytest.approx(22_082, rel=1e-4)  # the 1.1228 and 1.1147 records
    assert ntk_base(1e4, 2, 2048, 1024) == 1e4  # one pair, which turns by t whatever the base
