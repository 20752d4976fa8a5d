"""Rule 3: parameters are read once, typed, and a stage reads no key that it does not list."""

import ast
import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml

from golf.params.base import Section, from_dict, load_seeds, to_dict
from pipeline.deps import entry
from pipeline.imports import locate
from tests.house.source import ROOT, calls, files, module_name, tree

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ORDER = ["seeds", "budget", "hardware", "data", "tokenizer", "model", "optim", "train", "select", "quant", "compress",
         "eval", "audit", "stats", "tracking"]  # fmt: skip
EXEMPT = {"hardware"}  # changes the speed, never the result


def sections() -> dict[str, type[Section]]:
    found = {}
    for path in files("golf/params"):
        for value in vars(importlib.import_module(module_name(path))).values():
            if isinstance(value, type) and issubclass(value, Section) and value.SECTION:
                found[value.SECTION] = value
    return found


SECTIONS = sections()


def keys(section: str) -> set[str]:
    return {f"{section}.{field.name}" for field in dataclasses.fields(SECTIONS[section])}  # type: ignore[arg-type]


def test_sections_stand_in_the_documented_order() -> None:
    assert list(PARAMS) == ORDER
    assert set(SECTIONS) == set(ORDER) - {"seeds"}
    assert load_seeds(ROOT / "params.yaml") == [42, 314, 999]


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_params_yaml_holds_the_defaults_in_the_dataclass_order(section: str) -> None:
    default = to_dict(SECTIONS[section]())
    assert PARAMS[section] == default
    assert list(PARAMS[section]) == list(default)
    assert to_dict(from_dict(SECTIONS[section], PARAMS[section])) == default


def read_by(stage: str) -> set[str]:
    """The sections that the stage's module loads, by its literal ``load(Section)`` calls; seeds too.

    And keys, by its literal ``pick(Section, "key")`` calls.
    """
    path = locate(entry(STAGES[stage]["cmd"]), ROOT)
    assert path is not None, f"{stage} has no module"
    classes = {section.__name__: name for name, section in SECTIONS.items()}
    found = set()
    for node, name in calls(path):
        if name in ("load_seeds", "base.load_seeds"):
            found.add("seeds")
        if name in ("load", "base.load"):
            assert isinstance(node.args[0], ast.Name), (
                f"{path}:{node.lineno}: load() takes a section by its literal name"
            )
            found.add(classes[node.args[0].id])
        if name == "pick":
            section, *names = node.args
            assert isinstance(section, ast.Name), f"{path}:{node.lineno}: pick() takes a section by its literal name"
            found |= {f"{classes[section.id]}.{ast.literal_eval(key)}" for key in names}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_what_it_reads_and_reads_what_it_lists(stage: str) -> None:
    listed = set(STAGES[stage].get("params") or [])
    expected: set[str] = set()
    for section in read_by(stage) - EXEMPT:
        whole = section == "seeds" or section in listed or "." in section
        expected |= {section} if whole else keys(section)
    if stage == "submission":  # it prints every section: whole ones, read as a mapping
        assert listed == set(ORDER) - EXEMPT - {"tracking"}
    else:
        assert listed == expected


def test_no_stage_depends_on_the_machine() -> None:
    for stage, definition in STAGES.items():
        assert not any(key.split(".")[0] in EXEMPT for key in definition.get("params") or []), stage


@pytest.mark.parametrize("stage", STAGES)
def test_no_key_is_listed_twice(stage: str) -> None:
    listed = STAGES[stage].get("params") or []
    assert len(listed) == len(set(listed))


def test_every_knob_is_turned_by_some_stage() -> None:
    listed = {key for stage in STAGES if stage != "submission" for key in STAGES[stage].get("params") or []}
    for section in set(SECTIONS) - EXEMPT:
        assert keys(section) <= listed or section in listed, section


def test_params_yaml_is_in_block_style_with_units() -> None:
    """DVC rewrites flow style on every override; a block-style file keeps its lines."""
    text = (ROOT / "params.yaml").read_text()
    assert "[" not in "".join(line.split("#")[0] for line in text.splitlines())
    assert "{" not in text


# What torchrun, DVC and the system say; none of it is a knob.
KNOWN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
         "PATH", "HOME", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_ROOT", "DVC_STAGE"}  # fmt: skip


@pytest.mark.parametrize("path", files("golf", "stages", "pipeline"), ids=str)
def test_nothing_is_configured_through_the_environment(path: Path) -> None:
    """Reading a variable would be a second, invisible set of parameters; passing one on to a child is not."""
    for node in ast.walk(tree(path)):
        name = None
        if (
            isinstance(node, ast.Subscript)
            and ast.unparse(node.value) == "os.environ"
            and isinstance(node.ctx, ast.Load)
        ):
            name = node.slice
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            name = node.args[0]
        if name is not None:
            names = {name.value} if isinstance(name, ast.Constant) else _constants(tree(path)) & KNOWN
            assert names, f"{path}:{node.lineno} reads {ast.unparse(name)}"
            assert names <= KNOWN, f"{path}:{node.lineno} reads {names - KNOWN}"


def _constants(module: ast.Module) -> set[str]:
    return {node.value for node in ast.walk(module) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
