"""The noise floor: how much the score of one configuration moves by itself.

A score is taken as mean of its configuration + effect of the seed + effect of the run, and the two variances are
estimated from runs of equal configurations, pooled over configurations. The effect of the run is what is left when
the same seed is run again: another machine, another hour, kernels that add in another order.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from golf.runtime.errors import DataError
from golf.stats.power import minimum_detectable_difference


@dataclass(frozen=True)
class Observation:
    """The final score (bits a byte) of one seed of one configuration on one machine."""

    configuration: Hashable
    seed: int
    value: float
    machine: str = ""


@dataclass(frozen=True)
class Component:
    """A standard deviation in bits a byte and the degrees of freedom behind it."""

    std: float
    df: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of ``std`` for normal scores, from the chi-squared distribution of df s^2 / sigma^2."""
        from scipy.special import gammaincinv

        tail = (1 - level) / 2
        low, high = (2.0 * float(gammaincinv(self.df / 2, q)) for q in (1 - tail, tail))
        return self.std * math.sqrt(self.df / low), self.std * math.sqrt(self.df / high) if high else math.inf


@dataclass(frozen=True)
class NoiseFloor:
    """Variance components over ``configurations`` with at least two runs.

    ``run`` (one score): what a test of independent seeds meets. ``seed`` and ``machine`` are its parts; ``machine`` is
    None where no seed was run twice, and then stands inside ``seed``. ``paired``: of the difference of two
    configurations on one seed, None where no two configurations share enough seeds.
    """

    run: Component
    seed: Component
    machine: Component | None
    paired: Component | None
    runs: int
    configurations: int
    machines: int

    def detectable(self, n: int, *, paired: bool = False, alpha: float = 0.01, power: float = 0.8) -> float | None:
        """The smallest true gain that ``n`` seeds a side find; None for paired seeds whose spread isn't known."""
        if paired:
            return None if self.paired is None else minimum_detectable_difference(
                self.paired.std, n, alpha=alpha, power=power
            )  # fmt: skip
        std = self.run.std
        return minimum_detectable_difference(std, n, baseline_std=std, baseline_n=n, alpha=alpha, power=power)


def noise_floor(observations: Iterable[Observation]) -> NoiseFloor:
    """Estimate the components by the analysis of variance of nested, unbalanced groups.

    With N runs, n_cs of seed s in configuration c: the mean square within (c, s) estimates machine^2; that between the
    seeds of a configuration estimates machine^2 + n0 seed^2, where n0 = (N - sum_c sum_s n_cs^2 / n_c) / df
    (Searle, Casella and McCulloch, Variance Components, 1992, chapter 3).
    A negative difference is taken as zero.

    Raises:
        DataError: no configuration has two runs, or a value isn't finite.
    """
    cells: dict[Hashable, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    found = list(observations)
    for item in found:
        if not math.isfinite(item.value):
            raise DataError(f"noise floor: seed {item.seed}: found {item.value!r}, needed a finite score")
        cells[item.configuration][item.seed].append(item.value)
    used = {name: seeds for name, seeds in cells.items() if sum(map(len, seeds.values())) > 1}
    if not used:
        raise DataError(
            f"noise floor: found {len(found)} runs of {len(cells)} configurations, none run twice; "
            "needed two seeds or two runs of one configuration",
            hint="dvc repro, then dvc exp run -S seeds=[42,314,999]",
        )
    squares, df, within, df_within, shared = 0.0, 0, 0.0, 0, 0.0
    total = sum(len(values) for seeds in used.values() for values in seeds.values())
    for seeds in used.values():
        everything = [value for values in seeds.values() for value in values]
        mean = math.fsum(everything) / len(everything)
        for values in seeds.values():
            own = math.fsum(values) / len(values)
            squares += len(values) * (own - mean) ** 2
            within += math.fsum((value - own) ** 2 for value in values)
            df_within += len(values) - 1
            shared += len(values) ** 2 / len(everything)
        df += len(seeds) - 1
    machine = Component(math.sqrt(within / df_within), df_within) if df_within else None
    below = machine.std**2 if machine else 0.0
    if not df:  # one seed, run again and again
        assert machine is not None
        seed = Component(0.0, 0)
        run = machine
    else:
        variance = max(0.0, (squares / df - below) / ((total - shared) / df))
        seed = Component(math.sqrt(variance), df)
        run = Component(math.sqrt(variance + below), df + df_within)
    machines = len({item.machine for item in found if item.machine and item.configuration in used})
    return NoiseFloor(run, seed, machine, _paired(used), total, len(used), machines)


def _paired(cells: dict[Hashable, dict[int, list[float]]]) -> Component | None:
    """Spread of the difference of two configurations on the same seed: sqrt(2) times the residual of score ~
    configuration + seed, by least squares over all runs, so that configurations may share seeds in any pattern."""
    rows = [(name, seed, value) for name, seeds in cells.items() for seed, values in seeds.items() for value in values]
    names, numbers = list(cells), sorted({seed for _, seed, _ in rows})
    if len(names) < 2:
        return None
    design = np.zeros((len(rows), len(names) + len(numbers)))
    for i, (name, seed, _) in enumerate(rows):
        design[i, names.index(name)] = design[i, len(names) + numbers.index(seed)] = 1.0
    values = np.array([value for _, _, value in rows])
    values -= values.mean()  # small numbers keep the residual exact
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    df = len(rows) - int(rank)
    if df < 1:
        return None
    residual = values - design @ solution
    return Component(math.sqrt(2.0 * float(residual @ residual) / df), df)


def paired_differences(ours: dict[int, float], theirs: dict[int, float]) -> dict[int, float]:
    """Ours minus theirs on each seed that both have, in the order of ours."""
    return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}


def difference_interval(difference: float, std_error: float, df: float, alpha: float = 0.01) -> tuple[float, float]:
    """The interval of level 1 - 2 alpha, whose ends are the one-sided bounds at ``alpha`` (Student's t)."""
    from scipy.special import stdtrit

    half = float(stdtrit(df, 1 - alpha)) * std_error
    return difference - half, difference + half


def pooled_spread(groups: Sequence[Sequence[float]]) -> Component | None:
    """The spread within groups of seeds, pooled; None where no group has two."""
    df = sum(len(group) - 1 for group in groups)
    if df < 1:
        return None
    squares = sum(math.fsum((v - math.fsum(group) / len(group)) ** 2 for v in group) for group in groups)
    return Component(math.sqrt(squares / df), df)
