"""Reading one section of params.yaml into its dataclass, refusing what does not fit by its full name."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from golf.runtime.errors import ConfigError, Exit, FairwayError, MissingInput

PARAMS_FILE = Path("params.yaml")
# From 762 deviations on (6 times the 127 steps of 8 bits, the widest grid) what lies within 3 of them rounds to 0.
MOST_CLIP = 1000


class Section:
    """Base of every section: ``SECTION`` is its key in params.yaml, its fields are the section's keys.

    ``FIXED`` is for programs built for some parameters (:mod:`golf.bundle`): the keys, or ``*`` for all, that can have
    no value but their default.
    """

    SECTION: ClassVar[str] = ""
    FIXED: ClassVar[tuple[str, ...]] = ()

    def require(self, condition: bool, key: str, needed: str, example: object) -> None:
        """Refuse the value of ``key`` unless ``condition`` holds."""
        if not condition:
            found = getattr(self, key)
            raise ConfigError(
                f"{self.SECTION}.{key}: found {found!r}, needed {needed}",
                hint=f"dvc exp run -S {self.SECTION}.{key}={example}",
            )


S = TypeVar("S", bound=Section)


def load(section: type[S], path: Path | str = PARAMS_FILE) -> S:
    """Read and check ``section`` from a YAML or JSON file of sections.

    Raises:
        ConfigError: a key is unknown, missing, of another type or out of range.
        MissingInput: there is no such file.
    """
    document = read_document(Path(path))
    values = document.get(section.SECTION)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: section {section.SECTION!r} is missing", hint="git checkout params.yaml")
    return from_dict(section, values, str(path))


def pick(section: type[S], *keys: str, path: Path | str = PARAMS_FILE) -> dict[str, Any]:
    """Some keys of ``section``, read and checked as by :func:`load`: a stage that needs no more lists no more."""
    values = to_dict(load(section, path))
    return {key: values[key] for key in keys}


def from_dict(section: type[S], values: dict[str, Any], where: str = "params") -> S:
    """Build ``section`` from a dict that must hold exactly its keys."""
    hints = typing.get_type_hints(section)
    fields = {field.name: field for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            known = ", ".join(fields)
            raise ConfigError(f"{where}: unknown key {section.SECTION}.{key}; known: {known}")
    for key, field in fields.items():
        if key not in values:
            raise ConfigError(
                f"{where}: {section.SECTION}.{key} is missing",
                hint=f"add `{key}: {_yaml(field.default)}` under `{section.SECTION}:`",
            )
    return section(**{key: _read(section, fields[key], value, hints[key], where) for key, value in values.items()})


def _read(section: type[S], field: dataclasses.Field[Any], value: Any, hint: Any, where: str) -> Any:
    """``value`` of a key, in its type, or the only one that the key can have."""
    key = f"{section.SECTION}.{field.name}"
    if field.name not in section.FIXED and "*" not in section.FIXED:
        return _check(key, value, hint, where)
    if value != json.loads(json.dumps(field.default)):
        raise ConfigError(
            f"{where}: {key}: found {value!r}, needed {field.default!r}, which this program was built for",
            hint="a program that `python -m stages.bundle` builds for these parameters",
        )
    return field.default


def check_every_section() -> None:
    """Hold the whole of params.yaml, before an expensive stage: the later ones' parameters too.

    In a process of its own: a stage that imported the other sections would depend on them, and retrain for a comment.

    Raises:
        FairwayError: some parameter of some section is unknown, missing, of another type or out of range, or names a
            file that is not there; with the exit code of that error.
    """
    command = [sys.executable, "-m", "golf.params"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        code = Exit(result.returncode) if result.returncode in set(Exit) else Exit.FAILURE
        raise FairwayError(result.stderr.strip().removeprefix("params: "), code=code)


def to_dict(section: Section) -> dict[str, Any]:
    """The section as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(section)))  # type: ignore[call-overload]


def read_seed(text: str) -> int:
    """A seed of the command line: what torch takes, as ``seeds`` in params.yaml.

    Raises:
        ConfigError: it is no integer from 0 to 2^63 - 1.
    """
    if text.isdecimal() and len(text) < 20 and int(text) < 1 << 63:
        return int(text)
    raise ConfigError(f"--seed: found {text}, needed an integer from 0 to 2^63 - 1", hint="--seed 42")


def load_seeds(path: Path | str = PARAMS_FILE) -> list[int]:
    """The seeds of the run: distinct integers from 0 to 2^63 - 1, what torch takes.

    Raises:
        ConfigError: the list is empty, repeats a seed, or holds something else.
    """
    seeds = read_document(Path(path)).get("seeds")
    known = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 1 << 63 for seed in seeds)
    if known and seeds and len(set(seeds)) == len(seeds):
        return list(seeds)
    raise ConfigError(
        f"{path}: seeds: found {seeds!r}, needed distinct non-negative integers below 2^63",
        hint="dvc exp run -S 'seeds=[42,314,999]'",
    )


def read_document(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of sections, unchecked.

    Raises:
        ConfigError: it is no text, no YAML or JSON, or no mapping.
        MissingInput: there is no such file.
    """
    if not path.is_file():
        raise MissingInput(f"{path}: no such file", hint="run from the repository's top folder")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: byte {error.start}") from None
    if path.suffix == ".json":
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: not valid JSON: {error}") from None
    else:
        import yaml  # only here: the shipped program reads JSON and need not have PyYAML

        try:
            document = parse_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: found {type(document).__name__}, needed a mapping of sections")
    return document


def parse_yaml(text: str) -> Any:
    """YAML 1.1 with the booleans of 1.2: DVC writes ``off`` without quotes, and means the word.

    Raises:
        yaml.YAMLError: it is none.
    """
    import yaml

    tag, base = "tag:yaml.org,2002:bool", yaml.SafeLoader
    resolvers = {first: [pair for pair in pairs if pair[0] != tag]
                 for first, pairs in base.yaml_implicit_resolvers.items()}  # fmt: skip
    loader: Any = type("CoreLoader", (base,), {"yaml_implicit_resolvers": resolvers})
    loader.add_implicit_resolver(tag, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    return loader(text).get_single_data()


def _check(key: str, value: Any, hint: Any, where: str) -> Any:
    """``value`` converted to the annotated type, or an error that names ``key``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in args:
            return value
        needed = "one of " + ", ".join(map(str, args))
    elif origin in (tuple, dict):
        return _check_items(key, value, hint, where)
    elif origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _check(key, value, next(arg for arg in args if arg is not type(None)), where)
    elif hint is float:
        if type(value) in (int, float) and abs(value) <= sys.float_info.max:
            return float(value)
        needed = "a finite number" + (" (YAML reads 1e-4 as text: write 1.0e-4)" if isinstance(value, str) else "")
    elif type(value) is hint:
        return value
    else:
        needed = {int: "an integer", bool: "true or false", str: "text"}[hint]
    raise ConfigError(f"{where}: {key}: found {value!r}, needed {needed}")


def _check_items(key: str, value: Any, hint: Any, where: str) -> Any:
    """The same for a list, of any length or of as many as ``hint`` names types, and for a mapping of names."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            return {name: _check(f"{key}.{name}", item, args[1], where) for name, item in value.items()}
        raise ConfigError(f"{where}: {key}: found {value!r}, needed a mapping of names")
    kinds = args[:1] * len(value) if args[-1] is Ellipsis and isinstance(value, (list, tuple)) else args
    if isinstance(value, (list, tuple)) and len(kinds) == len(value):
        pairs = enumerate(zip(value, kinds, strict=True))
        return tuple(_check(f"{key}[{i}]", item, kind, where) for i, (item, kind) in pairs)
    length = "" if args[-1] is Ellipsis else f" of {len(args)}"
    raise ConfigError(f"{where}: {key}: found {value!r}, needed a list{length}")


def _yaml(default: Any) -> str:
    return json.dumps(list(default) if isinstance(default, tuple) else default)
