import dataclasses

import pytest
import torch
from safetensors.torch import load, save

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


def test_momentum_rises_linearly():
    config = Optim(muon_momentum=0.95, muon_momentum_start=0.85, muon_momentum_steps=100)
    assert muon_momentum(0, config) == pytest.approx(0.85)
    assert muon_momentum(50, config) == pytest.approx(0.90)
    assert muon_momentum(100, config) == muon_momentum(10_000, config) == pytest.approx(0.95)
    assert muon_momentum(0, dataclasses.replace(config, muon_momentum_steps=0)) == pytest.approx(0.95)
