import math

import numpy as np
import pytest

from golf.runtime.errors import DataError
from golf.stats.noise import (
    Component,
    Observation,
    difference_interval,
    noise_floor,
    paired_differences,
    pooled_spread,
)
from golf.stats.power import minimum_detectable_difference, seeds_needed


def observe(values: dict[tuple[str, int], list[float]]) -> list[Observation]:
    return [Observation(name, seed, value) for (name, seed), several in values.items() for value in several]


def simulate(rng: np.random.Generator, seed_std: float, machine_std: float, configurations: int = 200) -> list:
    """Unbalanced on purpose: two or three seeds, the first of which ran one to three times."""
    found = []
    for c in range(configurations):
        mean = rng.normal(1.1, 0.05)
        for seed in range(2 + c % 2):
            effect = rng.normal(0, seed_std)
            for _ in range(1 + (c % 3 if seed == 0 else 0)):
                found.append(Observation(c, seed, mean + effect + rng.normal(0, machine_std)))
    return found


@pytest.mark.parametrize(("seed_std", "machine_std"), [(6e-4, 3e-4), (6e-4, 0.0), (0.0, 4e-4)])
def test_the_components_that_were_put_in_come_out(seed_std: float, machine_std: float) -> None:
    floor = noise_floor(simulate(np.random.default_rng(7), seed_std, machine_std))
    assert floor.machine is not None
    assert floor.machine.std == pytest.approx(machine_std, rel=0.12, abs=1e-12)
    assert floor.seed.std == pytest.approx(seed_std, rel=0.12, abs=1e-4)
    assert floor.run.std == pytest.approx(math.hypot(seed_std, machine_std), rel=0.1)


def test_by_hand_with_one_run_a_seed() -> None:
    floor = noise_floor(observe({("a", 1): [1.0], ("a", 2): [1.2], ("b", 1): [2.0], ("b", 2): [2.0], ("b", 3): [2.3]}))
    squares = 0.02 + (0.1**2 + 0.1**2 + 0.2**2)
    assert floor.run.std == pytest.approx(math.sqrt(squares / 3))
    assert (floor.run.df, floor.machine, floor.configurations, floor.runs) == (3, None, 2, 5)


def test_a_configuration_of_one_run_says_nothing_and_does_not_count() -> None:
    pair = {("a", 1): [1.0], ("a", 2): [1.1]}
    assert noise_floor(observe({**pair, ("b", 1): [5.0]})) == noise_floor(observe(pair))


def test_one_seed_run_again_and_again_shows_the_machines_only() -> None:
    floor = noise_floor(observe({("a", 1): [1.0, 1.1, 1.2]}))
    assert floor.machine is not None
    assert floor.run == floor.machine == Component(pytest.approx(0.1), 2)
    assert floor.seed.df == 0


def test_seeds_that_move_all_configurations_alike_cancel_in_pairs() -> None:
    rng = np.random.default_rng(3)
    effects = {seed: rng.normal(0, 1e-3) for seed in range(6)}
    values = {(f"c{c}", seed): [1 + c / 10 + effects[seed] + rng.normal(0, 1e-5)] for c in range(5) for seed in effects}
    floor = noise_floor(observe(values))
    assert floor.paired is not None
    assert floor.paired.std == pytest.approx(math.sqrt(2) * 1e-5, rel=0.3)
    assert floor.paired.df == 30 - 5 - 6 + 1
    assert floor.detectable(3, paired=True) < floor.detectable(3) / 10  # type: ignore[operator]


def test_seeds_without_a_common_effect_gain_nothing_from_pairs() -> None:
    rng = np.random.default_rng(4)
    floor = noise_floor(observe({(f"c{c}", seed): [rng.normal(0, 1e-3)] for c in range(40) for seed in range(4)}))
    assert floor.paired is not None
    assert floor.paired.std == pytest.approx(math.sqrt(2) * floor.run.std, rel=0.1)


def test_configurations_that_share_no_seed_have_no_pairs() -> None:
    floor = noise_floor(observe({("a", 1): [1.0], ("a", 2): [1.1], ("b", 3): [1.0], ("b", 4): [1.1]}))
    assert floor.paired is None
    assert floor.detectable(3, paired=True) is None


def test_too_little_or_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="none run twice"):
        noise_floor(observe({("a", 1): [1.0], ("b", 1): [1.1]}))
    with pytest.raises(DataError, match="finite"):
        noise_floor(observe({("a", 1): [1.0, math.nan]}))


def test_the_interval_of_a_spread_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    spreads = rng.normal(0, 1, (2000, 4)).std(axis=1, ddof=1)
    intervals = [Component(float(std), 3).interval(0.9) for std in spreads]
    assert np.mean([low <= 1 <= high for low, high in intervals]) == pytest.approx(0.9, abs=0.025)


def test_the_detectable_difference_is_found_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    found = minimum_detectable_difference(1.0, 5, alpha=0.05, power=0.8)
    draws = rng.normal(-found, 1, (4000, 5))
    t = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(5)
    assert np.mean(t < -2.131847) == pytest.approx(0.8, abs=0.02)  # Student's 5 % point at 4 degrees of freedom


def test_paired_seeds_needed_are_the_fewest_that_find_the_effect() -> None:
    n = seeds_needed(0.002, 0.001, paired=True)
    assert minimum_detectable_difference(0.001, n) <= 0.002 < minimum_detectable_difference(0.001, n - 1)
    assert n < seeds_needed(0.002, 0.001)


def test_an_interval_ends_where_the_one_sided_test_turns() -> None:
    low, high = difference_interval(-0.002, 0.001, 4, 0.05)
    assert high == pytest.approx(-0.002 + 2.13184679 * 0.001)
    assert low + high == pytest.approx(-0.004)


def test_small_helpers() -> None:
    assert paired_differences({1: 1.0, 2: 2.0, 3: 3.0}, {3: 1.0, 1: 4.0}) == {1: -3.0, 3: 2.0}
    assert pooled_spread([[1.0], [2.0]]) is None
    assert pooled_spread([[1.0, 3.0], [5.0]]) == Component(pytest.approx(math.sqrt(2)), 1)
