"""Write a profile into params.yaml: ``fairway use smoke``; ``--list`` explains each.

A profile is an overlay in profiles/. Using one sets every key that any profile sets, to its own value or else to the
default, so that nothing of the profile before is left; keys that no profile names (your ``data.path``) stay. Comments
and layout of params.yaml stay too; every change is printed, and ``git diff params.yaml`` shows it.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import textwrap
from pathlib import Path
from typing import Any

import golf.params
from golf.params.base import PARAMS_FILE, Section, load_seeds, read_document, to_dict
from golf.params.base import load as load_section
from golf.runtime.errors import ConfigError
from golf.runtime.files import whole_file

PROFILES = Path("profiles")
DEFAULT = "default"
SEEDS = [42, 314, 999]
WIDTH = 110  # of a line of the list


def sections() -> dict[str, type[Section]]:
    """Every section's dataclass by the section's name."""
    found = {}
    for info in pkgutil.iter_modules(golf.params.__path__):
        for value in vars(importlib.import_module(f"golf.params.{info.name}")).values():
            if isinstance(value, type) and issubclass(value, Section) and value.SECTION:
                found[value.SECTION] = value
    return found


def defaults() -> dict[str, Any]:
    """The whole of params.yaml as the dataclasses have it."""
    return {"seeds": SEEDS, **{name: to_dict(section()) for name, section in sections().items()}}


def profiles() -> dict[str, dict[str, Any]]:
    """Every profile by name; ``default`` sets nothing.

    Raises:
        ConfigError: a profile is no mapping, or names a section or key that does not exist.
    """
    known = defaults()
    found: dict[str, dict[str, Any]] = {DEFAULT: {}}
    for path in sorted(PROFILES.glob("*.yaml")):
        overlay = read_document(path)
        for section, values in overlay.items():
            if section not in known:
                raise ConfigError(f"{path}: unknown section {section!r}; known: {', '.join(known)}")
            if type(values) is not type(known[section]):
                needed = "a list" if section == "seeds" else "a mapping of its keys"
                raise ConfigError(f"{path}: {section}: found {values!r}, needed {needed}")
            for key in values if isinstance(values, dict) else ():
                if key not in known[section]:
                    raise ConfigError(f"{path}: unknown key {section}.{key}; known: {', '.join(known[section])}")
        found[path.stem] = overlay
    return found


def settings(name: str) -> dict[tuple[str, ...], Any]:
    """What the profile sets, ``(section, key)`` to value (``("seeds",)`` for the seeds).

    Raises:
        ConfigError: there is no such profile.
    """
    every = profiles()
    if name not in every:
        raise ConfigError(
            f"profile {name!r}: no such file {PROFILES}/{name}.yaml; known: {', '.join(every)}",
            hint="fairway use --list",
        )
    touched = {place for overlay in every.values() for place in _flat(overlay)}
    own, rest = _flat(every[name]), _flat(defaults())
    return {place: own.get(place, rest[place]) for place in touched}


def use(name: str, path: Path = PARAMS_FILE) -> list[str]:
    """Write the profile into ``path`` and return one line a change, in the file's order."""
    wanted, document = settings(name), read_document(path)
    text = path.read_text(encoding="utf-8")
    changes = []
    for place, found in _flat(document).items():
        if place in wanted and found != wanted[place]:
            changes.append(f"{'.'.join(place)}: {found} -> {wanted[place]}")
            text = replace(text, place, wanted[place])
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        _check(temporary)
    return changes


def replace(text: str, place: tuple[str, ...], value: Any) -> str:
    """``text`` of a block-style YAML file with one value replaced; comments and all other lines stay.

    (A YAML library that keeps comments still moves them, and drops the blank line after a list.)

    Raises:
        ConfigError: the key has no line of its own: its section is written in one line.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(f"{place[0]}:")), len(lines))
    end = next((i for i in range(start + 1, len(lines)) if re.match(r"\w", lines[i])), len(lines))
    key = re.compile(rf"(\s*{place[-1]}:)([^#]*?)(\s*#.*)?")
    number = next((i for i in range(start, end) if key.fullmatch(lines[i])), None)
    if number is None:
        raise ConfigError(
            f"{PARAMS_FILE}: {'.'.join(place)}: found no line of its own, needed a line a key, as Git has the file",
            hint=f"git checkout {PARAMS_FILE}",
        )
    head, _, comment = key.fullmatch(lines[number]).groups()  # type: ignore[union-attr]
    end = number + 1
    while end < len(lines) and re.match(r"\s*- ", lines[end]):
        end += 1
    indent = " " * (len(head) - len(head.lstrip()) + 2)
    items = [f"{indent}- {_scalar(item)}" for item in value] if isinstance(value, list) else []
    inline = "" if items else f" {'[]' if isinstance(value, list) else _scalar(value)}"
    return "\n".join([*lines[:number], f"{head}{inline}{comment or ''}", *items, *lines[end:]]) + "\n"


def _scalar(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=4096).removesuffix("...\n").strip()


def _check(path: Path) -> None:
    load_seeds(path)
    for section in sections().values():
        load_section(section, path)


def _flat(document: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for section, values in document.items():
        if isinstance(values, dict):
            found.update({(section, key): value for key, value in values.items()})
        else:
            found[(section,)] = values
    return found


def switch(name: str) -> str:
    """:func:`use`, and what to say about it."""
    changes = use(name)
    told = "\n".join(changes) if changes else f"params.yaml is at profile {name!r} already"
    return f"{told}\nnext: dvc repro   (undo: fairway use {DEFAULT})"


def listing() -> str:
    """Every profile with the sentences at its head, and how much of params.yaml it sets."""
    lines = []
    for name, overlay in profiles().items():
        path = PROFILES / f"{name}.yaml"
        head = _head(path.read_text(encoding="utf-8")) if path.exists() else ["params.yaml as it comes: any machine."]
        count = len(_flat(overlay))
        told = " ".join([*head, f"({count} parameters)" if count else ""]).strip()
        lines += textwrap.wrap(told, WIDTH, initial_indent=f"{name:10} ", subsequent_indent=" " * 11)
    return "\n".join(lines)


def _head(text: str) -> list[str]:
    """The comment that a file begins with, without its marks."""
    return [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())]
