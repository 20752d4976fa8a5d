"""What a number of seeds can show at all."""

from __future__ import annotations

import math

from golf.runtime.errors import DataError


def minimum_detectable_difference(
    std: float, n: int, *, baseline_std: float = 0.0, baseline_n: int = 0, alpha: float = 0.01, power: float = 0.8
) -> float:
    """The smallest true gain that a one-sided test at ``alpha`` finds with probability ``power``.

    In the unit of ``std``. With ``baseline_n`` of 0 or 1 the baseline is taken as exact (one-sample test,
    n - 1 degrees of freedom), else Welch's degrees of freedom are used with the standard deviations
    as if they were known. t at the critical value then follows the noncentral t distribution, whose
    noncentrality is solved for; with Student's test that is exact, with Welch's it is the usual approximation.

    Raises:
        DataError: fewer than two seeds, a negative spread, or a probability outside (0, 1).
    """
    if n < 2:
        raise DataError(f"detectable difference: found {n} seed, needed at least 2")
    if not (std >= 0 and baseline_std >= 0):
        raise DataError(f"detectable difference: found std {std!r} and {baseline_std!r}, needed 0 or more")
    if not (0 < alpha < 1 and alpha < power < 1):
        raise DataError(f"detectable difference: found alpha {alpha!r}, power {power!r}, needed 0 < alpha < power < 1")
    from scipy.special import nctdtrinc, stdtrit

    first = std**2 / n
    second = baseline_std**2 / baseline_n if baseline_n > 1 else 0.0
    error = math.sqrt(first + second)
    if error == 0.0:
        return 0.0
    df = float(n - 1)
    if second:
        df = (first + second) ** 2 / (first**2 / (n - 1) + second**2 / (baseline_n - 1))
    critical = stdtrit(df, 1 - alpha)
    return float(error * nctdtrinc(df, 1 - power, critical))


def seeds_needed(
    difference: float, std: float, *, paired: bool = False, alpha: float = 0.01, power: float = 0.8, most: int = 1000
) -> int:
    """Seeds a side, both with spread ``std``, to find a true gain of ``difference``; ``most`` if no fewer do.

    ``paired``: both sides run the same seeds, and ``std`` is the spread of their differences.

    Raises:
        DataError: ``difference`` is not above zero, or as in :func:`minimum_detectable_difference`.
    """
    if not difference > 0:
        raise DataError(f"seeds needed: found a difference of {difference!r}, needed one above 0")
    low, high = 2, most
    while low < high:  # the detectable difference falls as seeds are added
        middle = (low + high) // 2
        found = minimum_detectable_difference(
            std, middle, baseline_std=0.0 if paired else std, baseline_n=middle, alpha=alpha, power=power
        )
        low, high = (low, middle) if found <= difference else (middle + 1, high)
    return low
