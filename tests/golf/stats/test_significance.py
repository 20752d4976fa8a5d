"""The published claims, recomputed: where they are right, and where they are wrong."""

import math

import pytest

from golf.runtime.errors import DataError
from golf.stats.baseline import load_baseline
from golf.stats.significance import Moments, moments, one_sample, one_sided_p, welch, welch_from_moments
from golf.stats.units import bpb_to_nats, nats_per_bpb, nats_to_bpb
from golf.stats.verdict import spread_convention

BASELINES = "golf/stats/baselines"
SP1024, SP8192, CASEOPS = 2.43593, 3.72663, 3.15736


def seeds(name: str) -> tuple[float, ...]:
    return load_baseline(f"{BASELINES}/{name}.json").values


def test_pr49_is_right_with_the_margin_taken_in_bpb():
    test = one_sample(seeds("pr49"), 1.2243657, margin=0.005)
    assert -test.t == pytest.approx(31.417, abs=5e-4)
    assert test.df == 2
    assert test.p == pytest.approx(5.06e-4, abs=5e-7)
    lenient = one_sample(seeds("pr49"), 1.2243657, margin=nats_to_bpb(0.005, SP1024))
    assert lenient.p < test.p  # 0.005 nats is a smaller margin than 0.005 bpb


def test_seq4096_states_a_t_off_by_its_rounded_std():
    test = one_sample(seeds("seq4096"), 1.21613611, margin=0.005)
    assert -test.t == pytest.approx(9.040, abs=5e-4)
    assert test.p == pytest.approx(6.01e-3, abs=5e-6)
    assert round(-test.t, 2) != 9.06  # as claimed


def test_yahya010_is_right_with_a_margin_that_it_does_not_mention():
    losses = [1.96032898, 1.95627871, 1.95825352]
    assert one_sample(losses, 2.0727, margin=0.005).t == pytest.approx(-93.57, abs=5e-3)
    assert one_sample(losses, 2.0727).t == pytest.approx(-97.84, abs=5e-3)


def test_aruniyer_is_right_without_a_margin():
    test = one_sample([1.94265607, 1.94207795, 1.94121940], 2.0727)
    assert -test.t == pytest.approx(313.199, abs=5e-4)
    assert test.p == pytest.approx(5.1e-6, abs=5e-8)
    assert test.df == 2


def test_pr1019_passes_narrowly_with_the_margin_in_nats():
    ours, theirs = seeds("pr1019"), seeds("pr549")
    test = welch(ours, theirs)
    assert test.t == pytest.approx(-11.8339, abs=5e-5)
    assert test.df == pytest.approx(3.3063, abs=5e-5)
    assert test.p == pytest.approx(4.03e-4, abs=5e-7)
    assert 2 * test.p == pytest.approx(8.07e-4, abs=5e-7)  # two-sided
    assert bpb_to_nats(test.difference, SP1024) == pytest.approx(-0.00784215, abs=2e-7)
    margin = welch(ours, theirs, nats_to_bpb(0.005, SP1024))
    assert margin.t == pytest.approx(-4.29, abs=5e-3)
    assert margin.p == pytest.approx(9.55e-3, abs=5e-6)
    assert margin.p < 0.01
    factor = nats_per_bpb(SP1024)  # the unit does not matter to the test
    assert welch([v * factor for v in ours], [v * factor for v in theirs], 0.005).p == pytest.approx(margin.p)


def test_pr1514_beats_by_too_little_for_the_margin():
    ours, theirs = seeds("pr1514"), seeds("pr1493")
    test = welch(ours, theirs)
    assert (test.t, test.df) == (pytest.approx(-3.789, abs=5e-4), pytest.approx(2.614, abs=5e-4))
    assert test.p == pytest.approx(0.02042, abs=5e-6)
    assert bpb_to_nats(-test.difference, SP8192) == pytest.approx(0.0030, abs=5e-5)
    assert welch(ours, theirs, nats_to_bpb(0.005, SP8192)).p == pytest.approx(0.95, abs=5e-3)


def test_pr1529_is_right():
    test = welch(seeds("pr1529"), seeds("pr1514"))
    assert (test.t, test.df) == (pytest.approx(-8.19, abs=5e-3), pytest.approx(3.61, abs=5e-3))
    assert test.p == pytest.approx(9.3e-4, abs=5e-6)


def test_pr1855_needs_three_foreign_reruns_for_its_p():
    ours, theirs = seeds("pr1855"), seeds("pr1868")
    assert welch(ours, theirs).p == pytest.approx(0.355, abs=5e-4)
    assert welch(ours, theirs).p > 0.25  # above the cut in force
    pooled = welch([*ours, 1.05965, 1.06041, 1.06124], theirs)
    assert pooled.p == pytest.approx(0.1882, abs=5e-5)
    assert (pooled.t, pooled.df) == (pytest.approx(-0.992, abs=5e-4), pytest.approx(4.07, abs=5e-3))
    assert spread_convention(ours, 0.00090) == "population"
    assert spread_convention(ours, 0.00111) == "sample"
    assert spread_convention(ours, 0.00150) == "neither"


def test_pr1812_states_a_wrong_p_and_a_wrong_unit():
    test = welch_from_moments(Moments(1.07290, 0.00016, 3), moments(seeds("pr1493")))
    assert (test.t, test.df) == (pytest.approx(-55.3, abs=0.1), pytest.approx(3.84, abs=5e-3))
    assert test.p == pytest.approx(5e-7, abs=5e-8)
    assert not test.p < 1e-7  # as claimed
    assert one_sided_p(-54.93, 3.80) == pytest.approx(5.9e-7, abs=5e-9)  # from its own t and df
    assert -test.difference == pytest.approx(0.0081, abs=5e-5)  # bpb, claimed as nats
    assert bpb_to_nats(-test.difference, SP8192) == pytest.approx(0.0209, abs=5e-5)


@pytest.mark.parametrize(
    ("bytes_per_token", "factor", "margin"),
    [
        (2.43593, 1.68846, 0.002961),
        (3.31968, 2.30103, 0.002173),
        (3.72663, 2.58310, 0.001936),
        (3.15736, 2.18852, 0.002285),
    ],
)
def test_nats_and_bpb(bytes_per_token, factor, margin):
    assert nats_per_bpb(bytes_per_token) == pytest.approx(factor, abs=1.1e-5)
    assert nats_to_bpb(0.005, bytes_per_token) == pytest.approx(margin, abs=5.1e-7)
    assert bpb_to_nats(nats_to_bpb(0.3, bytes_per_token), bytes_per_token) == pytest.approx(0.3)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bytes_per_token_must_be_positive(bad):
    with pytest.raises(DataError, match="bytes a token"):
        nats_per_bpb(bad)


def test_against_scipy():
    from scipy import stats

    ours, theirs = [1.101, 1.103, 1.0985, 1.1], [1.102, 1.1045]
    expected = stats.ttest_ind(ours, theirs, equal_var=False, alternative="less")
    test = welch(ours, theirs)
    assert (test.t, test.p, test.df) == pytest.approx((expected.statistic, expected.pvalue, expected.df))
    single = stats.ttest_1samp(ours, 1.102, alternative="less")
    assert one_sample(ours, 1.102).p == pytest.approx(single.pvalue)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [1.0, math.inf], [1.0, True], [1.0, "1.1"]])
def test_values_must_be_numbers(bad):
    with pytest.raises(DataError, match="seed values"):
        moments(bad)


def test_too_little_to_test():
    with pytest.raises(DataError, match="ours has 1 value"):
        welch([1.0], [1.0, 1.1])
    with pytest.raises(DataError, match="theirs has 1 value"):
        welch([1.0, 1.1], [1.0])
    with pytest.raises(DataError, match="no spread"):
        welch([1.0, 1.0], [1.1, 1.1])
    with pytest.raises(DataError, match="no spread"):
        one_sample([1.0, 1.0], 1.1)
    with pytest.raises(DataError, match="at least 2"):
        one_sample([1.0], 1.1)
    assert math.isnan(moments([1.0]).std)
