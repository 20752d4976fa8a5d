import pytest

from golf.optim.schedule import lr_scale
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
        (0.7, 210, 0.55),
        (1.0, 300, 0.1),
        (1.2, 360, 0.1),
        (-0.1, 60, 1.0),
        (0.7, 4, 0.275),
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
