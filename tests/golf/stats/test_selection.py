import math

import numpy as np
import pytest

from golf.runtime.errors import DataError
from golf.stats.selection import order_statistic_means, selected_test, selection_bias
from golf.stats.significance import one_sample, welch


def test_order_statistics_of_two_and_three_are_the_known_ones() -> None:
    assert order_statistic_means(1) == pytest.approx((0.0,), abs=1e-12)
    assert order_statistic_means(2)[0] == pytest.approx(-1 / math.sqrt(math.pi))
    assert order_statistic_means(3) == pytest.approx(
        (-1.5 / math.sqrt(math.pi), 0.0, 1.5 / math.sqrt(math.pi)), abs=1e-12
    )


@pytest.mark.parametrize("n", [4, 7, 25, 200])
def test_order_statistics_ascend_and_their_mean_is_the_means(n: int) -> None:
    found = order_statistic_means(n)
    assert list(found) == sorted(found)
    assert math.fsum(found) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("best", "ran"), [(1, 5), (3, 5), (5, 7), (3, 10)])
def test_the_bias_is_what_chosen_seeds_show_when_simulated(best: int, ran: int) -> None:
    chosen = np.sort(np.random.default_rng(best).normal(0, 6e-4, (40_000, ran)), axis=1)[:, :best]
    assert selection_bias(best, ran, 6e-4) == pytest.approx(-chosen.mean(), rel=0.02)


def test_all_seeds_are_no_choice() -> None:
    assert selection_bias(4, 4, 1.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("best", "ran", "theirs"), [(3, 5, 3), (3, 10, 3), (5, 7, 3), (3, 10, 1)])
def test_the_corrected_p_is_uniform_when_nothing_was_gained_and_the_naive_is_not(
    best: int, ran: int, theirs: int
) -> None:
    rng = np.random.default_rng(11)
    naive, corrected = [], []
    for trial in range(800):
        ours = np.sort(rng.normal(1.1, 6e-4, ran))[:best].tolist()
        other = rng.normal(1.1, 6e-4, theirs).tolist() if theirs > 1 else [1.1]
        found = selected_test(ours, ran, other, draws=500, seed=trial)
        naive.append(found.naive.p)
        corrected.append(found.p)
    for level in (0.05, 0.2, 0.5):
        error = math.sqrt(level * (1 - level) / len(corrected))
        assert abs(np.mean(np.array(corrected) <= level) - level) < 3.5 * error + 1 / 500
    assert np.mean(np.array(naive) <= 0.05) > 0.1


def test_without_a_choice_the_simulated_p_is_students_and_near_welchs() -> None:
    ours, exact, theirs = [1.0, 1.1, 1.3], [1.35], [1.2, 1.3, 1.45]
    student = selected_test(ours, 3, exact)
    assert abs(student.p - one_sample(ours, exact[0]).p) < 4 * student.standard_error
    other = selected_test(ours, 3, theirs)
    assert other.p == pytest.approx(welch(ours, theirs).p, rel=0.25)  # Welch's degrees of freedom are approximate


def test_more_seeds_to_choose_from_make_the_same_scores_prove_less() -> None:
    ours, theirs = [1.0600, 1.0605, 1.0607], [1.0620, 1.0631, 1.0624]
    found = [selected_test(ours, ran, theirs).p for ran in (3, 5, 10, 30)]
    assert found == sorted(found)
    assert found[-1] > 5 * found[0]


def test_unit_and_origin_do_not_matter() -> None:
    one = selected_test([1.0, 1.1, 1.3], 6, [1.2, 1.4, 1.5], draws=5000)
    other = selected_test([12.0, 13.0, 15.0], 6, [14.0, 16.0, 17.0], draws=5000)
    assert one.p == other.p


def test_a_margin_is_harder_to_beat() -> None:
    ours, theirs = [1.0600, 1.0605, 1.0607], [1.0640, 1.0651, 1.0644]
    assert selected_test(ours, 5, theirs, margin=0.003).p > selected_test(ours, 5, theirs).p


def test_what_cannot_be_is_refused() -> None:
    for best, ran in ((0, 3), (4, 3)):
        with pytest.raises(DataError, match="best of seeds"):
            selection_bias(best, ran, 1.0)
    with pytest.raises(DataError, match="best of seeds"):
        selected_test([1.0, 1.1], 1, [1.0, 1.2])
    with pytest.raises(DataError):
        selected_test([1.0], 3, [1.0, 1.2])
    with pytest.raises(DataError, match="at least 1"):
        order_statistic_means(0)
