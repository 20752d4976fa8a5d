import math

import pytest

from golf.runtime.errors import DataError
from golf.stats.baseline import load_baseline
from golf.stats.power import minimum_detectable_difference, seeds_needed
from golf.stats.verdict import compare

BASELINES = "golf/stats/baselines"


def against(ours: str, theirs: str, alpha: float = 0.01):
    mine = load_baseline(f"{BASELINES}/{ours}.json")
    return compare(mine.values, mine.val_bytes, load_baseline(f"{BASELINES}/{theirs}.json"), alpha=alpha)


def test_better_by_the_margin():
    result = against("pr1019", "pr549")
    assert result.comparable
    assert "better by more than 0.005 nats" in result.verdict
    assert result.with_margin.p < 0.01
    assert result.flags == ()


def test_better_but_not_by_the_margin():
    result = against("pr1514", "pr1493", alpha=0.05)
    assert "better (p = 0.02)" in result.verdict
    assert "not shown to be so by 0.005 nats" in result.verdict


def test_not_shown_says_what_could_have_been_seen():
    result = against("pr1855", "pr1868")
    assert "not shown to be better (p = 0.36" in result.verdict
    assert f"{result.detectable:.4f} in 80% of cases" in result.verdict


def test_worse():
    assert "not better" in against("pr549", "pr1019").verdict


def test_other_text_makes_no_claim():
    result = compare([1.9, 1.91, 1.905], 240_112, load_baseline(f"{BASELINES}/naive-baseline.json"))
    assert not result.comparable
    assert "no claim against Naive baseline" in result.verdict
    assert "240,112 bytes" in result.verdict
    assert "better" not in result.verdict
    assert any("one run" in flag for flag in result.flags)
    export = compare([1.1, 1.11, 1.105], 151_080_363, load_baseline(f"{BASELINES}/naive-baseline.json"))
    assert export.text == "export"
    assert "another export" in export.verdict


def test_few_or_equal_seeds_are_flagged():
    baseline = load_baseline(f"{BASELINES}/pr549.json")
    one = compare([1.1], baseline.val_bytes, baseline)
    assert one.plain is None
    assert one.detectable is None
    assert "no test" in one.verdict
    assert any("1 seed:" in flag for flag in one.flags)
    two = compare([1.1, 1.101], baseline.val_bytes, baseline, flags=["seed 42 was resumed"])
    assert two.plain is not None
    assert two.flags == ("seed 42 was resumed", "2 seeds: at least 3 are usual")
    same = compare([1.1, 1.1, 1.1], baseline.val_bytes, baseline)
    assert same.plain is None
    assert "same value" in same.verdict
    with pytest.raises(DataError):
        compare([], baseline.val_bytes, baseline)
    with pytest.raises(DataError):
        compare([float("nan")], baseline.val_bytes, baseline)


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.01), (5, 0.05)])
def test_detectable_difference_has_the_stated_power(n, alpha):
    import numpy as np
    from scipy import stats

    found = minimum_detectable_difference(1.0, n, baseline_std=1.0, baseline_n=n, alpha=alpha)
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(-found, 1, (20_000, n)), generator.normal(0, 1, (20_000, n))
    student = stats.ttest_ind(ours, theirs, axis=1, alternative="less")  # equal spreads: the same df
    assert (student.pvalue < alpha).mean() == pytest.approx(0.8, abs=0.01)
    single = minimum_detectable_difference(1.0, n, alpha=alpha)
    power = (stats.ttest_1samp(generator.normal(-single, 1, (20_000, n)), 0, axis=1, alternative="less").pvalue) < alpha
    assert power.mean() == pytest.approx(0.8, abs=0.01)


def test_unequal_spreads_lower_the_degrees_of_freedom():
    """Three quiet seeds against two loud ones: Welch's df is near 1, and the gain that shows is far larger."""
    from scipy import stats

    found = minimum_detectable_difference(0.1, 3, baseline_std=1.0, baseline_n=2)
    first, second = 0.1**2 / 3, 1.0**2 / 2
    df = (first + second) ** 2 / (first**2 / 2 + second**2)
    assert df == pytest.approx(1.0, abs=0.02)
    critical, shift = stats.t.ppf(0.99, df), found / math.sqrt(first + second)
    assert stats.nct.sf(critical, df, shift) == pytest.approx(0.8, abs=1e-6)
    assert found > 5 * minimum_detectable_difference(0.1, 3, baseline_std=0.1, baseline_n=2)


def test_seeds_needed():
    most = seeds_needed(0.001, 0.0006)
    assert minimum_detectable_difference(0.0006, most, baseline_std=0.0006, baseline_n=most) <= 0.001
    fewer = most - 1
    assert minimum_detectable_difference(0.0006, fewer, baseline_std=0.0006, baseline_n=fewer) > 0.001
    assert seeds_needed(1e-9, 1.0) == 1000
    with pytest.raises(DataError):
        seeds_needed(0.0, 1.0)


def test_power_refuses_nonsense():
    for bad in ({"n": 1}, {"std": -1.0}, {"alpha": 0.0}, {"power": 0.001}):
        with pytest.raises(DataError):
            minimum_detectable_difference(**({"std": 1.0, "n": 3, "alpha": 0.01, "power": 0.8} | bad))
    assert minimum_detectable_difference(0.0, 3) == 0.0
