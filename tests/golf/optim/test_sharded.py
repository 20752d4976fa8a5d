"""Real ranks of gloo: the optimizer that is shared out over them makes the same step as one alone."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from golf.model.transformer import Transformer
from golf.optim.exchange import Peers
from golf.optim.groups import Optimizer, build_optimizer
from golf.params.optim import Optim
from tests.golf.model.tiny import EVERYTHING, tiny, tokens
from tests.ranks import run_ranks

# Adam divides a gradient of nearly zero by itself: with its usual eps a sum in another order, which is the processor's
# and the ranks', would move such a weight by a hundredth of a step.
CONFIGS = {
    "clipped": Optim(matrix_lr=0.01, grad_clip=0.3, eps=1e-4),
    "free": Optim(matrix_lr=0.01, grad_clip=0.0, newton_schulz="polar_express", row_normalize=True, eps=1e-4),
}
STEPS, SAVED = 4, 2
RANKS = f"""
import sys
from pathlib import Path
from golf.params.hardware import Hardware
from golf.train.distributed import join
from {__name__} import as_ranks
with join(Hardware(device="cpu")) as ranks:
    as_ranks(Path(sys.argv[1]), ranks)
"""


def make(config: str, peers: Peers | None = None) -> tuple[Transformer, Optimizer]:
    model = tiny(**EVERYTHING)
    return model, build_optimizer(model, CONFIGS[config], peers)


def go(model: Transformer, optimizer: Optimizer, start: int, stop: int, peers: Peers | None = None) -> Tensor:
    """Train on this rank's part of a batch; the norms of the gradients."""
    norms = []
    for step in range(start, stop):
        ids = tokens(batch=8, length=25, seed=step)
        if peers is not None:
            ids = ids.chunk(peers.count)[peers.index]
        model(ids[:, :-1], ids[:, 1:]).mean().backward()
        norm = optimizer.step(1.0, step)
        assert norm is not None
        norms.append(norm)
        optimizer.zero_grad()
    return torch.stack(norms)


def state(model: Transformer, optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": value for name, value in optimizer.state_dict().items()}
    return {name: value.clone() for name, value in tensors.items()}


def load(model: Transformer, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    for part, target in (("model/", model), ("optimizer/", optimizer)):
        chosen = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        target.load_state_dict(chosen)


def as_ranks(folder: Path, ranks: Peers) -> None:
    """From the start, with a checkpoint on the way; and from the checkpoint that one rank alone has left."""
    for config in CONFIGS:
        model, optimizer = make(config, ranks)
        assert sum(bank.momentum.numel() for bank in optimizer.muon.banks) < sum(
            param.numel() for param in optimizer.muon.params.values()
        ), "a rank keeps the momentum of its own matrices"
        norms = go(model, optimizer, 0, SAVED, ranks)
        on_the_way = state(model, optimizer)
        norms = torch.cat([norms, go(model, optimizer, SAVED, STEPS, ranks)])
        at_the_end = state(model, optimizer) | {"norms": norms}
        model, optimizer = make(config, ranks)
        load(model, optimizer, load_file(folder / f"{config}-alone-{SAVED}.safetensors"))
        go(model, optimizer, SAVED, STEPS, ranks)
        resumed = state(model, optimizer)
        if ranks.index == ranks.count - 1:  # any of them has it all
            for name, tensors in (("saved", on_the_way), ("end", at_the_end), ("resumed", resumed)):
                save_file(tensors, folder / f"{config}-{name}.safetensors")


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_make_the_steps_of_one_and_resume_from_each_other_s_checkpoints(tmp_path: Path, count: int) -> None:
    ends = {}
    for config in CONFIGS:
        model, optimizer = make(config)
        norms = go(model, optimizer, 0, SAVED)
        save_file(state(model, optimizer), tmp_path / f"{config}-alone-{SAVED}.safetensors")
        norms = torch.cat([norms, go(model, optimizer, SAVED, STEPS)])
        ends[config] = state(model, optimizer) | {"norms": norms}
    run_ranks(count, tmp_path, program=RANKS)
    for config, expected in ends.items():
        model, optimizer = make(config)
        load(model, optimizer, load_file(tmp_path / f"{config}-saved.safetensors"))
        go(model, optimizer, SAVED, STEPS)
        found = {
            "ranks": load_file(tmp_path / f"{config}-end.safetensors"),
            "ranks after one": load_file(tmp_path / f"{config}-resumed.safetensors"),
            "one after ranks": state(model, optimizer),
        }
        for who, tensors in found.items():
            assert tensors.keys() | {"norms"} == expected.keys()
            for name, value in tensors.items():
                torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6, msg=f"{config}, {who}: {name}")


class Mirror:
    """Peers that all have this rank's gradients; remembers the order of the exchanges."""

    index, count = 1, 3

    def __init__(self) -> None:
        self.log: list[str] = []

    def done(self, what: str) -> "Mirror":
        self.log.append(what)
        return self

    def wait(self) -> None:
        self.log.append("wait")

    def sum_(self, tensor: Tensor) -> "Mirror":
        tensor.mul_(self.count)
        return self.done(f"sum {tensor.numel()}")

    def sum_shares(self, whole: Tensor, share: Tensor) -> "Mirror":
        share.copy_(whole.chunk(self.count)[self.index]).mul_(self.count)
        return self.done(f"shares {tuple(whole.shape)}")

    def gather_shares(self, share: Tensor, whole: Tensor) -> "Mirror":
        whole.zero_().chunk(self.count)[self.index].copy_(share)
        return self.done(f"gather {tuple(whole.shape)}")


def test_exchanges_are_under_way_while_a_rank_computes() -> None:
    peers = Mirror()
    model, optimizer = make("free", peers)
    ids = tokens(batch=2, length=25)
    model(ids[:, :-1], ids[:, 1:]).mean().backward()
    optimizer.step(1.0, 0, want_norm=False)
    banks = [(bank, -(-len(bank.params) // 3) * 3) for bank in optimizer.muon.banks]
    shapes = [str((slots, *bank.momentum.shape[1:])) for bank, slots in banks]
    replicated = sum(p.numel() for part in (optimizer.embed, optimizer.control) for p in part.params.values())
    expected = [f"shares {shape}" for shape in shapes]  # all start before the first is waited for
    expected += [f"sum {replicated}"]  # everything small in one
    expected += [word for shape in shapes for word in ("wait", f"gather {shape}")]
    expected += ["wait"]  # AdamW, while updates are gathered
    expected += ["wait"] * len(shapes)
    assert peers.log == expected


def test_one_rank_exchanges_nothing() -> None:
    peers = Mirror()
    peers.count, peers.index = 1, 0
    model, optimizer = make("clipped", peers)
    go(model, optimizer, 0, 1)
    optimizer.state_dict()
    assert not peers.log


def test_a_gradient_that_a_rank_lacks_counts_as_zero() -> None:
    peers = Mirror()
    model = tiny()
    optimizer = build_optimizer(model, dataclasses.replace(CONFIGS["free"], embed_weight_decay=0.0), peers)
    before = model.state_dict()["embed.weight"].clone()
    optimizer.step(1.0, 0)
    assert torch.equal(model.state_dict()["embed.weight"], before)
