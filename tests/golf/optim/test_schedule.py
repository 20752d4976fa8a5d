import pytest

from golf.optim.schedule import decay_scale, lr_scale
from golf.params.optim import Optim
from golf.params.train import Train

CONFIG = Train(warmup_steps=10, warmdown_share=0.6, min_lr=0.1)


@pytest.mark.parametrize(
    ("progress", "step", "expected"),
    [
        (0.0, 0, 0.1),
        (0.01, 4, 0.5),
        (0.03, 9, 1.0),
        (0.2, 60, 1.0),
        (0.4, 120, 1.0),
        (0.7, 210, 0.5),
        (0.93, 279, 0.07 / 0.6),
        (0.95, 285, 0.1),
        (1.0, 300, 0.1),
        (1.2, 360, 0.1),
        (-0.1, 60, 1.0),
        (0.7, 4, 0.25),
    ],
)
def test_values(progress, step, expected):
    assert lr_scale(progress, step, CONFIG) == pytest.approx(expected)


def test_switched_off():
    assert lr_scale(0.0, 0, Train(warmup_steps=0)) == 1.0
    assert lr_scale(1.0, 300, Train(warmdown_share=0.0)) == 1.0
    assert lr_scale(0.0, 300, Train(warmdown_share=1.0, min_lr=0.0)) == 1.0
    assert lr_scale(1.0, 300, Train(warmdown_share=1.0, min_lr=0.0)) == 0.0


def test_it_never_rises_after_the_warmup():
    values = [lr_scale(step / 300, step, CONFIG) for step in range(9, 301)]
    assert values == sorted(values, reverse=True)


def test_the_record_s_schedule_is_flat_then_a_line_then_its_floor():
    """Warm-down over 0.85 of the run with a floor of 0.1: flat to 15 %, the floor from 91.5 % on."""
    record = Train(warmup_steps=0, warmdown_share=0.85, min_lr=0.1)
    assert lr_scale(0.15, 700, record) == pytest.approx(1.0)
    assert lr_scale(0.575, 2800, record) == pytest.approx(0.5)
    assert lr_scale(0.914, 4500, record) > 0.1
    assert lr_scale(0.9151, 4500, record) == 0.1


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 1.0), (0.69, 1.0), (0.7, 1.0), (0.85, 0.75), (1.0, 0.5), (1.3, 0.5), (-1, 1.0)]
)
def test_weight_decay_tapers_over_the_last_share(progress, expected):
    assert decay_scale(progress, Optim(muon_wd_final=0.5, wd_taper_share=0.3)) == pytest.approx(expected)
    assert decay_scale(progress, Optim()) == 1.0
