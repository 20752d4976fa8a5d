import torch
from torch import nn

from golf.optim.adamw import AdamW


def test_it_equals_torch():
    torch.manual_seed(0)
    ours = {"a": nn.Parameter(torch.randn(5, 3)), "b": nn.Parameter(torch.randn(())), "c": nn.Parameter(torch.randn(7))}
    theirs = [nn.Parameter(param.detach().clone()) for param in ours.values()]
    mine = AdamW(ours, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    reference = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(20):
        scale = 1.0 - step / 30
        reference.param_groups[0]["lr"] = 0.01 * scale
        for one, two in zip(ours.values(), theirs, strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        mine.step(scale)
        reference.step()
    for one, two in zip(ours.values(), theirs, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_no_tensors_no_step():
    empty = AdamW({}, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    empty.step(1.0)
    assert empty.state_dict()["steps"].item() == 0
