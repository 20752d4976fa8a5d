import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from golf.optim.averaging import Averages, multi_ema_, soup
from golf.runtime.errors import DataError


class Weights(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values[0]))
        self.values = values

    def go(self, step):
        with torch.no_grad():
            self.w.copy_(torch.tensor(self.values[step]))


def history(steps):
    return torch.randn(steps, 5, generator=torch.Generator().manual_seed(0)).tolist()


def run(averages, model, start, stop, total):
    for step in range(start, stop):
        model.go(step)
        averages.update((step + 1) / total)


@pytest.mark.parametrize("decay", [0.5, 0.98, 0.9999])
def test_an_exponential_average_is_its_weighted_mean(decay):
    values = history(40)
    model = Weights(values)
    averages = Averages(model, [decay])
    run(averages, model, 0, 40, 40)
    shares = torch.tensor([decay ** (39 - step) for step in range(40)], dtype=torch.float64)
    expected = (shares[:, None] * torch.tensor(values, dtype=torch.float64)).sum(0) / shares.sum()
    assert torch.allclose(averages.states()[f"ema-{decay!r}"]["w"].double(), expected, atol=1e-6)


def test_the_initial_weights_have_no_share():
    model = Weights([[1e6] * 5, [2.0] * 5])
    averages = Averages(model, [0.999])
    model.go(1)
    averages.update(0.5)
    assert torch.equal(averages.states()["ema-0.999"]["w"], torch.full((5,), 2.0))


def test_swa_is_the_mean_of_its_snapshots():
    values = history(20)
    model = Weights(values)
    averages = Averages(model, [0.9], swa_share=0.5, swa_every=3)
    run(averages, model, 0, 20, 20)
    taken = torch.tensor([values[step] for step in (9, 12, 15, 18)], dtype=torch.float64)  # progress 0.5 is step 9
    assert torch.allclose(averages.states()["swa"]["w"].double(), taken.mean(0), atol=1e-6)


def test_averages_of_nothing_are_left_out():
    model = Weights(history(4))
    averages = Averages(model, [0.9], swa_share=0.25)
    assert averages.states() == {}
    run(averages, model, 0, 2, 4)
    assert list(averages.states()) == ["ema-0.9"]
    assert list(Averages(model, []).states()) == []


def test_a_resumed_average_is_the_same():
    values = history(20)
    model = Weights(values)
    whole = Averages(model, [0.9, 0.99], swa_share=0.5, swa_every=3)
    run(whole, model, 0, 20, 20)
    model.go(0)
    first = Averages(model, [0.9, 0.99], swa_share=0.5, swa_every=3)
    run(first, model, 0, 14, 20)
    kept = load(save(first.state_dict()))
    second = Averages(model, [0.9, 0.99], swa_share=0.5, swa_every=3)
    second.load_state_dict(kept)
    run(second, model, 14, 20, 20)
    for name, state in whole.states().items():
        assert torch.equal(state["w"], second.states()[name]["w"]), name


def test_a_state_with_other_decays_is_refused():
    model = Weights(history(2))
    with pytest.raises(DataError, match=r"ema-0\.9"):
        Averages(model, [0.9]).load_state_dict(Averages(model, [0.8]).state_dict())


def test_all_averages_move_at_once_each_by_its_share():
    weights = [torch.randn(3, 2), torch.randn(4)]
    averages = [[torch.randn_like(weight) for weight in weights] for _ in range(3)]
    shares = [1.0, 0.25, 0.01]
    expected = [
        [a.double() + share * (w.double() - a.double()) for a, w in zip(average, weights, strict=True)]
        for average, share in zip(averages, shares, strict=True)
    ]
    multi_ema_(averages, weights, shares)
    for found, wanted in zip(averages, expected, strict=True):
        torch.testing.assert_close([value.double() for value in found], wanted, rtol=0, atol=1e-6)


def test_a_soup_is_the_equal_average():
    states = [{"a": torch.randn(3, 2), "b": torch.randn(())} for _ in range(3)]
    mixed = soup((str(number), state) for number, state in enumerate(states))
    for name in "ab":
        expected = torch.stack([state[name].double() for state in states]).mean(0)
        torch.testing.assert_close(mixed[name], expected.float(), rtol=0, atol=0)
    with pytest.raises(DataError, match="one and zero are not of one model"):
        soup([("zero", states[0]), ("one", {"a": torch.zeros(3, 2)})])
    with pytest.raises(DataError, match="a soup of no weights"):
        soup([])
