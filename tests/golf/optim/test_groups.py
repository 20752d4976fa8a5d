import dataclasses

import pytest
import torch
from safetensors.torch import load, save
from torch.utils._python_dispatch import TorchDispatchMode

from golf.optim.groups import build_optimizer, muon_momentum
from golf.params.optim import Optim
from golf.runtime.errors import DataError
from tests.golf.model.tiny import EVERYTHING, tiny, tokens


def train(model, optimizer, start, stop):
    for step in range(start, stop):
        ids = tokens(batch=4, length=25, seed=step)
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:]).mean().backward()
        optimizer.step(1.0, step)


def test_every_parameter_is_in_one_group_and_moves():
    model = tiny(**EVERYTHING)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, Optim())
    names = [*optimizer.muon.params, *optimizer.embed.params, *optimizer.control.params]
    assert sorted(names) == sorted(before)
    assert all(param.dim() == 2 for param in optimizer.muon.params.values())
    assert "embed.weight" in optimizer.embed.params
    assert "blocks.0.resid_mix" in optimizer.control.params
    train(model, optimizer, 0, 2)
    for name, value in model.state_dict().items():
        assert not torch.equal(value, before[name]), name


def test_it_learns():
    model = tiny(awake=False)
    optimizer = build_optimizer(model, Optim(grad_clip=0.0))
    ids = tokens(batch=4, length=25)
    first = model(ids[:, :-1], ids[:, 1:]).mean().item()
    for step in range(40):
        optimizer.zero_grad()
        loss = model(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        optimizer.step(1.0, step)
    assert loss.item() < 0.5 * first


def test_a_resumed_run_ends_with_the_same_weights():
    whole, part = tiny(**EVERYTHING), tiny(**EVERYTHING)
    optimizer = build_optimizer(whole, Optim())
    train(whole, optimizer, 0, 6)
    optimizer = build_optimizer(part, Optim())
    train(part, optimizer, 0, 3)
    bytes_of_state = save(optimizer.state_dict())
    resumed = tiny(seed=9, **EVERYTHING)
    resumed.load_state_dict(part.state_dict())
    optimizer = build_optimizer(resumed, Optim())
    optimizer.load_state_dict(load(bytes_of_state))
    train(resumed, optimizer, 3, 6)
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_loaded_state_is_a_copy():
    model = tiny()
    optimizer = build_optimizer(model, Optim())
    state = {name: value.clone() for name, value in optimizer.state_dict().items()}
    optimizer.load_state_dict(state)
    train(model, optimizer, 0, 1)
    assert state["muon.blocks.0.mlp.up.weight.momentum"].abs().max() == 0


def test_the_state_of_another_model_is_refused():
    optimizer = build_optimizer(tiny(), Optim())
    state = optimizer.state_dict()
    with pytest.raises(DataError, match="smear"):
        optimizer.load_state_dict({name: value for name, value in state.items() if "smear" not in name})
    with pytest.raises(DataError, match="extra"):
        optimizer.load_state_dict(state | {"extra": torch.zeros(1)})
    with pytest.raises(DataError, match=r"embed\.embed\.weight\.mean"):
        optimizer.load_state_dict(state | {"embed.embed.weight.mean": torch.zeros(2, 2)})


def gradients(model, seed=0):
    for number, param in enumerate(model.parameters()):
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(100 * seed + number))
    return torch.cat([param.grad.flatten() for param in model.parameters()])


@pytest.mark.parametrize("limit", [0.0, 5.0, 1e9])
def test_clipping_scales_to_the_limit_only_from_above(limit):
    clipped, scaled = tiny(**EVERYTHING), tiny(**EVERYTHING)
    before = gradients(clipped)
    norm = build_optimizer(clipped, Optim(grad_clip=limit)).step(1.0, 0)
    torch.testing.assert_close(norm, before.double().norm().float(), rtol=1e-6, atol=0)
    gradients(scaled)
    for param in scaled.parameters():
        param.grad *= min(1.0, limit / float(norm)) if limit else 1.0
    optimizer = build_optimizer(scaled, Optim(grad_clip=0.0))
    optimizer.step(1.0, 0)
    for (name, value), other in zip(clipped.state_dict().items(), scaled.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-6, msg=name)


def test_a_norm_that_nobody_needs_is_not_computed(monkeypatch):
    calls, foreach_norm = [], torch._foreach_norm
    monkeypatch.setattr(torch, "_foreach_norm", lambda tensors: calls.append(1) or foreach_norm(tensors))
    model = tiny()
    gradients(model)
    optimizer = build_optimizer(model, Optim(grad_clip=0.0))
    assert optimizer.step(1.0, 0, want_norm=False) is None
    assert not calls
    assert optimizer.step(1.0, 1) is not None
    assert calls


class NoWait(TorchDispatchMode):
    """Refuses to bring a number of a tensor to the host: on a GPU that waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "the host asked for a number"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("limit", [0.0, 0.3])
def test_a_step_brings_no_number_to_the_host(limit):
    model = tiny(**EVERYTHING)
    optimizer = build_optimizer(model, Optim(grad_clip=limit, newton_schulz="polar_express", row_normalize=True))
    gradients(model)
    with NoWait():
        with pytest.raises(AssertionError, match="host asked"):
            torch.ones(()).item()
        optimizer.step(1.0, 0, 0.5)
        optimizer.zero_grad()


def test_each_group_has_its_own_weight_decay_and_only_muon_s_tapers():
    config = Optim(
        matrix_lr=0.1, embed_lr=0.2, scalar_lr=0.4, muon_weight_decay=0.5, embed_weight_decay=0.25,
        scalar_weight_decay=0.125, muon_wd_final=0.5, wd_taper_share=0.5,
    )  # fmt: skip
    kept = {"muon": 1 - 0.1 * 0.5 * 0.75, "embed": 1 - 0.2 * 0.25, "control": 1 - 0.4 * 0.125}
    model = tiny(**EVERYTHING)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, config)
    optimizer.step(1.0, 0, 0.75)  # without gradients nothing but decay is left
    for part, share in kept.items():
        for name, param in getattr(optimizer, part).params.items():
            torch.testing.assert_close(param.detach(), share * before[name], msg=f"{part} {name}")


def test_momentum_rises_linearly():
    config = Optim(muon_momentum=0.95, muon_momentum_start=0.85, muon_momentum_steps=100)
    assert muon_momentum(0, config) == pytest.approx(0.85)
    assert muon_momentum(50, config) == pytest.approx(0.90)
    assert muon_momentum(100, config) == muon_momentum(10_000, config) == pytest.approx(0.95)
    assert muon_momentum(0, dataclasses.replace(config, muon_momentum_steps=0)) == pytest.approx(0.95)
