"""The candidates of a sweep, always the same ones for the same file: every grid point, a list, or a seeded draw."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from golf.runtime.errors import ConfigError
from pipeline.campaign.sweep.spec import Range, Sweep, rendered

DIGITS = 4  # significant ones of a drawn number: more would only make its name unreadable
TRIES = 1000  # draws for one new candidate


@dataclass(frozen=True)
class Candidate:
    """One experiment: its DVC name and overrides, and the configuration and rung that it stands for."""

    name: str
    overrides: tuple[str, ...]
    index: int
    rung: int = 0


def configurations(sweep: Sweep) -> list[tuple[str, ...]]:
    """The overrides of every configuration, without a rung's resource; each once, in the order in which they run.

    Raises:
        ConfigError: there are fewer different ones than ``samples``.
    """
    if sweep.method == "list":
        own = list(sweep.candidates)
    elif sweep.samples:
        own = _drawn(sweep)
    else:
        lists = [[f"{key}={value}" for value in values] for key, values in sweep.parameters.items()
                 if not isinstance(values, Range)]  # fmt: skip
        own = list(itertools.product(*lists))
    return list(dict.fromkeys(merged(sweep.base, overrides) for overrides in own))


def merged(base: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """Both, the later value of a key winning: DVC would take either."""
    found = {override.partition("=")[0]: override for override in (*base, *overrides)}
    return tuple(found.values())


def at_rung(sweep: Sweep, state: str, every: Sequence[tuple[str, ...]], rung: int) -> list[Candidate]:
    """All configurations at ``rung``; ``state``: of code and parameters, on which a result depends too."""
    resource = [f"{sweep.resource}={sweep.rungs[rung]}"] if sweep.rungs else []
    found = []
    for index, overrides in enumerate(every):
        whole = merged(overrides, resource)
        mark = hashlib.sha256(json.dumps([sorted(whole), state]).encode()).hexdigest()[:8]
        found.append(Candidate(f"{sweep.name}-{mark}", whole, index, rung))
    return found


def _drawn(sweep: Sweep) -> list[tuple[str, ...]]:
    """``samples`` different points; only ``random.random`` is used, whose sequence Python promises to keep."""
    source = random.Random(sweep.seed)
    found: dict[tuple[str, ...], None] = {}
    for _ in range(sweep.samples * TRIES):
        point = (f"{key}={_draw(values, source.random())}" for key, values in sweep.parameters.items())
        found.setdefault(tuple(point))
        if len(found) == sweep.samples:
            return list(found)
    raise ConfigError(
        f"sweep {sweep.name}: samples: found {sweep.samples}, needed at most the {len(found)} points that there are",
        hint=f"samples: {len(found)}",
    )


def _draw(values: tuple[str, ...] | Range, share: float) -> str:
    """The value at ``share`` (in [0, 1)) of a list or a range."""
    if isinstance(values, tuple):
        return values[int(share * len(values))]
    low, high = values.low, values.high
    if values.whole:
        high += 1
    if values.log:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    if values.whole:
        return str(min(int(value), int(values.high)))
    return rendered(float(f"{value:.{DIGITS}g}"))
