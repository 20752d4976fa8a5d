"""``fairway noise``: the noise floor of what was tracked, and what a number of seeds can show above it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from golf.params.base import load
from golf.params.stats import Stats
from golf.runtime.errors import ConfigError
from golf.stats.noise import Component, NoiseFloor, noise_floor
from golf.stats.power import seeds_needed
from golf.stats.selection import selection_bias
from golf.stats.verdict import POWER
from pipeline.campaign.tracked import observations, read_states

SEEDS = (2, 3, 4, 5, 7, 10)
NAMES = {
    "seed": "seed sigma", "machine": "machine sigma", "run": "one run sigma",
    "paired_difference": "same seed, difference sigma",
}  # fmt: skip
MOST = 1000  # seeds; more are not worth asking for


def measure(root: Path) -> NoiseFloor:
    """The noise floor of all runs in MLflow.

    Raises:
        MissingInput: nothing is logged yet.
        DataError: no configuration has two runs.
    """
    return noise_floor(observations(read_states(root)))


def report(floor: NoiseFloor, effect: float | None = None, best: tuple[int, int] | None = None) -> dict[str, Any]:
    """Everything that the verb prints, as JSON; bits a byte.

    Raises:
        ConfigError: ``effect`` is not above zero.
    """
    if effect is not None and not effect > 0:
        raise ConfigError(
            f"--effect: found {effect!r}, needed a gain in bpb above 0", hint="fairway noise --effect 0.002"
        )
    alpha = load(Stats).alpha
    power = max(POWER, (1 + alpha) / 2)
    content: dict[str, Any] = {
        "runs": floor.runs, "configurations": floor.configurations, "machines": floor.machines,
        "alpha": alpha, "power": power,
        "run": _component(floor.run), "seed": _component(floor.seed), "machine": _component(floor.machine),
        "paired_difference": _component(floor.paired),
        "detectable": [
            {"seeds": n, "unpaired": floor.detectable(n, alpha=alpha, power=power),
             "paired": floor.detectable(n, paired=True, alpha=alpha, power=power)}
            for n in SEEDS
        ],
    }  # fmt: skip
    if effect is not None:
        paired = None if floor.paired is None else seeds_needed(
            effect, floor.paired.std, paired=True, alpha=alpha, power=power, most=MOST)  # fmt: skip
        unpaired = seeds_needed(effect, floor.run.std, alpha=alpha, power=power, most=MOST)
        content["needed"] = {"effect": effect, "unpaired": unpaired, "paired": paired}
    if best is not None:
        bias = selection_bias(*best, floor.run.std)
        content["best"] = {"best": best[0], "of": best[1], "bias": bias}
    return content


def lines(content: dict[str, Any]) -> list[str]:
    """The report as text."""
    spread = f"{content['runs']} runs of {content['configurations']} configurations"
    known = f" on {content['machines']} kinds of device" if content["machines"] else ""
    found = [f"noise floor from {spread}{known} (bpb, 95 % interval)"]
    for key, name in NAMES.items():
        found.append(f"  {name:<28} {_spread(content[key], key)}")
    alpha, power = content["alpha"], content["power"]
    found += ["", f"smallest true gain found in {power:.0%} of cases at one-sided p < {alpha:g} (bpb)",
              f"  {'seeds a side':<14}{'other seeds':>12}{'same seeds':>12}"]  # fmt: skip
    found += [
        f"  {row['seeds']:<14}{_gain(row['unpaired']):>12}{_gain(row['paired']):>12}" for row in content["detectable"]
    ]
    if needed := content.get("needed"):
        found += [
            "",
            f"a gain of {needed['effect']:g} bpb needs {_seeds(needed['unpaired'])} a side"
            + ("" if needed["paired"] is None else f", {_seeds(needed['paired'])} if both run the same seeds"),
        ]
    if best := content.get("best"):
        found += [
            "",
            f"the best {best['best']} of {best['of']} seeds look {best['bias']:.5f} bpb better than they are; "
            f"`fairway compare A B --best {best['best']}` prints the p that knows of the choice",
        ]
    return found


def _component(component: Component | None) -> dict[str, Any] | None:
    if component is None or component.df == 0:
        return None
    low, high = component.interval()
    return {"std": component.std, "df": component.df, "low": low, "high": high}


def _spread(entry: dict[str, Any] | None, key: str) -> str:
    if entry is None:
        why = {
            "machine": "no seed was run twice: it is part of the seed sigma",
            "seed": "every configuration has one seed only",
            "paired_difference": "no two configurations share enough seeds",
        }
        return f"unknown ({why.get(key, 'too few runs')})"
    return f"{entry['std']:.5f}  [{entry['low']:.5f}, {entry['high']:.5f}]  {entry['df']} degrees of freedom"


def _gain(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _seeds(number: int) -> str:
    return f"{MOST} seeds or more" if number >= MOST else f"{number} seeds"
