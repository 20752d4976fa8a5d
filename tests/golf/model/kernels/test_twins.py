"""The eager twins against the plain formulas; they run wherever the model runs."""

import pytest
import torch

from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.kernels.launch import kernels_available
from golf.model.kernels.loss import linear_cross_entropy
from golf.model.kernels.mix_norm import mix_norm
from golf.model.kernels.mlp import mlp
from tests.golf.model.kernels import cases, exact


@pytest.mark.parametrize("case", cases.small(), ids=lambda case: case.name)
def test_twin_equals_the_formula(case):
    found = exact.errors(case.function(kernel=False), case.formula, case.inputs(), uniform=case.uniform)
    assert max(found.values()) < 1e-6, found


def test_kernels_are_refused_where_there_is_no_gpu():
    available, reason = kernels_available("cpu")
    assert not available
    assert "found cpu" in reason


def test_sizes_that_no_kernel_takes_are_refused():
    with pytest.raises(ValueError, match="found 1 terms together and 5 coefficients, needed 1 to 3 and 1 to 4"):
        mix_norm([torch.zeros(2, 3)] * 5, torch.zeros(5, 3), kernel=True)
    with pytest.raises(ValueError, match="found 4 terms together and 2 coefficients"):
        mix_norm([torch.zeros(2, 3)] * 5, torch.zeros(2, 3), kernel=True, together=4)
    x, first = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"found 40000 tokens and cap 30\.0, needed at most 32768"):
        linear_cross_entropy(x, torch.zeros(40000, 2), first, 30.0, kernel=True)
    with pytest.raises(ValueError, match=r"cap 50\.0"):
        linear_cross_entropy(x, torch.zeros(40, 2), first, 50.0, kernel=True)


def test_half_precision_stays_half():
    x, v = torch.randn(1, 3, 4, 8).bfloat16(), torch.randn(1, 3, 2, 8).bfloat16()
    assert exclude_and_gate(x, v, torch.rand(1, 3, 4)).dtype == torch.float32  # an fp32 gate widens the twin's result
    rows = x.view(-1, 8)
    assert mlp(rows, torch.randn(16, 8), torch.randn(8, 16), 0.5).dtype == torch.bfloat16
    assert all(out.dtype == torch.bfloat16 for out in mix_norm([rows, rows], torch.randn(2, 8)))
