import pytest
import torch

from golf.optim.newton_schulz import newton_schulz, quintics, symmetric_product

KINDS = ["stock", "polar_express"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(values, rows, columns):
    u, _ = torch.linalg.qr(random(rows, rows, seed=1))
    v, _ = torch.linalg.qr(random(columns, columns, seed=2))
    return (u[:, : len(values)] * values) @ v[:, : len(values)].mT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(12, 20), (20, 12), (12, 12)])
def test_it_applies_the_quintics_to_the_singular_values_and_keeps_the_vectors(kind, rows, columns):
    values = torch.logspace(-2, 0, 12, dtype=torch.float64)
    expected = values / values.norm()
    for a, b, c in quintics(kind, 5):
        expected = a * expected + b * expected**3 + c * expected**5
    x = newton_schulz(with_singular_values(values, rows, columns)[None], quintics(kind, 5), dtype=torch.float64)[0]
    torch.testing.assert_close(x, with_singular_values(expected, rows, columns), rtol=0, atol=1e-6)


# The least singular value, as a share of the Frobenius norm, and the interval to which it and all above it come.
@pytest.mark.parametrize(
    ("kind", "least", "low", "high"),
    [("stock", 3e-3, 0.68, 1.21), ("stock", 1e-3, 0.47, 1.21), ("polar_express", 1e-3, 0.858, 1.142)],
)
def test_the_interval_that_singular_values_reach(kind, least, low, high):
    x = torch.logspace(torch.tensor(least).log10(), 0, 10_001, dtype=torch.float64)
    for a, b, c in quintics(kind, 5):
        x = a * x + b * x**3 + c * x**5
    assert low < x.min() < low + 0.01
    assert high - 0.01 < x.max() < high


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_polar_express_ends_nearer_to_one_also_in_bf16(dtype):
    def error(kind):
        x = newton_schulz(random(2, 96, 192), quintics(kind, 5), dtype=dtype)
        return (torch.linalg.svdvals(x.double()) - 1).abs().mean()

    assert error("polar_express") < min(0.09, 0.6 * error("stock"))


def test_fewer_and_more_iterations_than_polar_express_has():
    assert quintics("polar_express", 3) == quintics("polar_express", 5)[:3]
    assert quintics("polar_express", 7)[4:] == (quintics("polar_express", 5)[4],) * 3
    assert quintics("stock", 2) == ((3.4445, -4.7750, 2.0315),) * 2


def test_direction_is_that_of_the_polar_factor():
    gradient = random(1, 24, 40)
    u, _, vh = torch.linalg.svd(gradient[0], full_matrices=False)
    x = newton_schulz(gradient)[0].double()
    cosine = (x * (u @ vh)).sum() / (x.norm() * (u @ vh).norm())
    assert cosine > 0.97


def test_a_batch_equals_its_matrices_one_by_one():
    batch = random(4, 12, 20)
    together = newton_schulz(batch)
    for one, x in zip(batch, together, strict=True):
        assert torch.allclose(newton_schulz(one[None])[0], x, atol=1e-5)


def test_rows_are_normalised_first():
    batch = random(2, 12, 20)
    scaled = batch * torch.linspace(0.01, 100, 12, dtype=torch.float64)[:, None]
    one, two = (newton_schulz(x, row_normalize=True, dtype=torch.float64) for x in (batch, scaled))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    by_hand = newton_schulz(batch / batch.norm(dim=2, keepdim=True), dtype=torch.float64)
    torch.testing.assert_close(one, by_hand, rtol=0, atol=1e-5)


def test_zero_and_tiny_gradients_stay_finite():
    for row_normalize in (False, True):
        assert newton_schulz(torch.zeros(1, 4, 8), row_normalize=row_normalize).abs().max() == 0
        assert torch.isfinite(newton_schulz(1e-30 * random(1, 4, 8), row_normalize=row_normalize)).all()


def test_scale_of_the_gradient_does_not_matter():
    gradient = random(1, 12, 20)
    assert torch.allclose(newton_schulz(gradient), newton_schulz(1000 * gradient), atol=1e-4)


def test_the_product_is_symmetric_and_adds():
    x, plus = random(2, 5, 7), random(2, 5, 5)
    plus = plus + plus.mT
    torch.testing.assert_close(symmetric_product(x), torch.einsum("nik,njk->nij", x, x))
    expected = 2.0 * torch.einsum("nik,njk->nij", x, x) - 0.5 * plus
    torch.testing.assert_close(symmetric_product(x, plus, alpha=2.0, beta=-0.5), expected)
    torch.testing.assert_close(symmetric_product(x, alpha=2.0), 2.0 * symmetric_product(x))
