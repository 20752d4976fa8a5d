"""What a sweep is: its file, or ``-S key=v1,v2`` on the command line, checked before anything runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.params.base import from_dict, load_seeds, parse_yaml, read_document
from golf.runtime.errors import ConfigError

METHODS = ("grid", "list", "random", "halving")
EXAMPLE = "parameters: {quant.bits: [5, 6]}"
_KEY = re.compile(r"\w+(\.\w+)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_ALLOWED = {  # keys of a method beside the common ones
    "grid": ("parameters",),
    "list": ("candidates",),
    "random": ("parameters", "samples", "seed"),
    "halving": ("parameters", "samples", "seed", "resource", "rungs", "keep"),
}
_COMMON = ("name", "method", "base", "failures", "hours", "dollars")


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``: uniform, or uniform in the logarithm; whole ones if both ends are."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Sweep:
    """A checked sweep. Overrides are DVC's, ``key=value``; ``hours`` and ``dollars`` of 0 are no limit.

    ``samples`` of 0 in a halving: every combination of the lists. ``rungs``: values of ``resource``, rising; ``keep``:
    the share of a rung that goes on to the next.
    """

    name: str
    method: str = "grid"
    base: tuple[str, ...] = ()
    parameters: Mapping[str, tuple[str, ...] | Range] = dataclasses.field(default_factory=dict)
    candidates: tuple[tuple[str, ...], ...] = ()
    samples: int = 0
    seed: int = 0
    resource: str = ""
    rungs: tuple[str, ...] = ()
    keep: float = 1 / 3
    failures: int = 3
    hours: float = 0.0
    dollars: float = 0.0

    def identity(self) -> dict[str, Any]:
        """What a journal must share with the sweep that goes on with it: the candidates, and not when to stop."""
        content = dataclasses.asdict(self)
        for limit in ("failures", "hours", "dollars"):
            del content[limit]
        return content


def read_sweep(path: Path) -> Sweep:
    """The sweep of a YAML file.

    Raises:
        MissingInput: there is no such file.
        ConfigError: a key is unknown, missing, of another type or out of range.
    """
    return from_document(read_document(path), path.stem, str(path))


def from_options(options: Sequence[str], name: str = "") -> Sweep:
    """The grid of ``-S key=v1,v2`` options; one value is an override of every candidate.

    Raises:
        ConfigError: an option is not ``key=value``.
    """
    base, parameters = [], {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not _KEY.fullmatch(key) or not text:
            raise ConfigError(f"-S {option}: needed section.key=value,value", hint="fairway sweep -S quant.bits=5,6")
        values = split(text)
        if len(values) == 1:
            base.append(option)
        else:
            parameters[key] = tuple(values)
    found = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(parameters)).strip("-")
    sweep = Sweep(name or f"grid-{found or 'one'}", base=tuple(base), parameters=parameters)
    _check_name(sweep.name, "--name")
    return sweep


def split(text: str) -> list[str]:
    """``text`` at its commas, those within brackets or quotes apart: ``[1,2],[3]`` are two values."""
    found, depth, quote = [""], 0, ""
    for character in text:
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        else:
            depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth and not quote:
            found.append("")
        else:
            found[-1] += character
    return [value.strip() for value in found if value.strip()]


def from_document(document: Mapping[str, Any], default_name: str, where: str) -> Sweep:
    """The sweep of a mapping, every key checked; ``where`` is named in errors."""
    method = document.get("method", "grid")
    if method not in METHODS:
        raise ConfigError(f"{where}: method: found {method!r}, needed one of {', '.join(METHODS)}", hint="method: grid")
    known = (*_COMMON, *_ALLOWED[method])
    for key in document:
        if key not in known:
            raise ConfigError(f"{where}: {method} has no key {key!r}; known: {', '.join(known)}", hint=EXAMPLE)
    read = _Reader(document, where)
    name = read.text("name", default_name)
    _check_name(name, f"{where}: name")
    sweep = Sweep(
        name, method, tuple(_overrides(document.get("base", {}), f"{where}: base")),
        failures=int(read.number("failures", 3, 1, whole=True)),
        hours=read.number("hours", 0.0, 0), dollars=read.number("dollars", 0.0, 0),
    )  # fmt: skip
    if method == "list":
        return dataclasses.replace(sweep, candidates=read.candidates())
    drawn = method in ("random", "halving")
    parameters = read.parameters(ranges=drawn)
    if not drawn:
        return dataclasses.replace(sweep, parameters=parameters)
    ranged = any(isinstance(values, Range) for values in parameters.values())
    needed = 1 if method == "random" or ranged else 0
    samples = int(read.number("samples", 0, needed, whole=True))
    sweep = dataclasses.replace(
        sweep, parameters=parameters, samples=samples, seed=int(read.number("seed", 0, 0, whole=True))
    )
    return sweep if method == "random" else _halving(sweep, read)


def check(sweep: Sweep, overrides: Sequence[Sequence[str]], params: Path) -> None:
    """Hold every candidate against the parameters' types and ranges: a typing error costs nothing yet.

    Raises:
        ConfigError: an override names no parameter, or has a value that its section refuses.
    """
    from pipeline.use import sections

    document, known = read_document(params), sections()
    for candidate in overrides:
        changed: dict[str, dict[str, Any]] = {}
        for override in candidate:
            key, _, text = override.partition("=")
            section, _, name = key.partition(".")
            if key != "seeds" and (section not in known or name not in document.get(section, {})):
                raise ConfigError(f"sweep {sweep.name}: {key}: no such parameter in {params}", hint=EXAMPLE)
            if key == "seeds":
                _check_seeds(text, sweep.name)
            else:
                value = _parsed(text, f"sweep {sweep.name}: {key}")
                changed.setdefault(section, dict(document[section]))[name] = value
        for section, values in changed.items():
            from_dict(known[section], values, f"sweep {sweep.name}")
    load_seeds(params)


def rendered(value: Any) -> str:
    """A YAML value as DVC's overrides write it."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value).lower().replace("none", "null")
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(rendered, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{rendered(item)}" for name, item in value.items()) + "}"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false"):
        return text
    return "'" + text.replace("'", r"\'") + "'"


class _Reader:
    """Typed access to the file's keys."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.document, self.where = document, where

    def text(self, key: str, default: str) -> str:
        value = self.document.get(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self.where}: {key}: found {value!r}, needed text", hint=f"{key}: {default or 'bits'}")
        return value

    def number(self, key: str, default: float, least: float, *, whole: bool = False) -> float:
        value: Any = self.document.get(key, default)
        kinds: tuple[type, ...] = (int,) if whole else (int, float)
        if type(value) not in kinds or not least <= value < float("inf"):
            kind = "an integer" if whole else "a number"
            raise ConfigError(
                f"{self.where}: {key}: found {value!r}, needed {kind} of {least} or more",
                hint=f"{key}: {max(least, 3)}",
            )
        return float(value) if not whole else value

    def candidates(self) -> tuple[tuple[str, ...], ...]:
        found = self.document.get("candidates")
        if not isinstance(found, list) or not found:
            raise ConfigError(
                f"{self.where}: candidates: found {found!r}, needed a list of mappings",
                hint="candidates: [{quant.bits: 5}, {quant.bits: 6}]",
            )
        return tuple(tuple(_overrides(one, f"{self.where}: candidates[{i}]")) for i, one in enumerate(found))

    def parameters(self, *, ranges: bool) -> dict[str, tuple[str, ...] | Range]:
        found = self.document.get("parameters")
        if not isinstance(found, dict) or not found:
            raise ConfigError(
                f"{self.where}: parameters: found {found!r}, needed a mapping of keys to values", hint=EXAMPLE
            )
        result: dict[str, tuple[str, ...] | Range] = {}
        for key, values in found.items():
            place = f"{self.where}: parameters: {key}"
            _check_key(key, f"{self.where}: parameters")
            if isinstance(values, list) and values:
                result[key] = tuple(dict.fromkeys(map(rendered, values)))
            elif isinstance(values, dict) and ranges:
                result[key] = _range(values, place)
            else:
                needed = "a list of values, or {low: , high: }" if ranges else "a list of values"
                raise ConfigError(f"{place}: found {values!r}, needed {needed}", hint=EXAMPLE)
        return result


def _halving(sweep: Sweep, read: _Reader) -> Sweep:
    resource, rungs = read.text("resource", ""), read.document.get("rungs")
    hint = "resource: train.steps, with rungs: [100, 300, 900]"
    numbers = isinstance(rungs, list) and all(type(rung) in (int, float) for rung in rungs)
    if not numbers or len(rungs) < 2 or sorted(set(rungs)) != rungs:  # type: ignore[arg-type]
        raise ConfigError(f"{read.where}: rungs: found {rungs!r}, needed two or more rising numbers", hint=hint)
    if not _KEY.fullmatch(resource) or resource in sweep.parameters:
        raise ConfigError(
            f"{read.where}: resource: found {resource!r}, needed a parameter that is not swept", hint=hint
        )
    keep = read.number("keep", 1 / 3, 0)
    if not 0 < keep < 1:
        raise ConfigError(f"{read.where}: keep: found {keep!r}, needed a share between 0 and 1", hint="keep: 0.33")
    values = tuple(map(rendered, rungs))
    return dataclasses.replace(sweep, resource=resource, rungs=values, keep=float(keep))


def _overrides(found: Any, where: str) -> list[str]:
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: found {found!r}, needed a mapping", hint="{quant.bits: 5}")
    for key in found:
        _check_key(key, where)
    return [f"{key}={rendered(value)}" for key, value in found.items()]


def _range(values: dict[str, Any], where: str) -> Range:
    low: Any = values.get("low")
    high: Any = values.get("high")
    log = values.get("log", False)
    fits = type(low) in (int, float) and type(high) in (int, float) and low < high
    if not fits or type(log) is not bool or (log and low <= 0) or set(values) - {"low", "high", "log"}:
        raise ConfigError(
            f"{where}: found {values!r}, needed low < high, both above 0 for log: true",
            hint="{low: 0.01, high: 0.03, log: true}",
        )
    return Range(low, high, log)


def _check_key(key: Any, where: str) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ConfigError(f"{where}: found the key {key!r}, needed section.key", hint=EXAMPLE)


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: found {name!r}, needed letters, digits, - and _", hint="fairway sweep --name bits")


def _parsed(text: str, where: str) -> Any:
    """A value as DVC will write it: a flow mapping there needs no space after its colon."""
    import yaml

    try:
        return parse_yaml(re.sub(r":(?=\S)", ": ", text) if text.startswith("{") else text)
    except yaml.YAMLError:
        raise ConfigError(f"{where}: found {text!r}, needed a value", hint=EXAMPLE) from None


def _check_seeds(text: str, name: str) -> None:
    value = _parsed(text, f"sweep {name}: seeds")
    if not isinstance(value, list) or not value or not all(type(seed) is int and seed >= 0 for seed in value):
        raise ConfigError(f"sweep {name}: seeds: found {text}, needed a list of integers", hint="seeds: [[42, 314]]")
