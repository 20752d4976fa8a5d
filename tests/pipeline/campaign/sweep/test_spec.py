"""A sweep's file: what it means, and that everything wrong with it is told with an example that works."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from golf.params.base import parse_yaml
from golf.runtime.errors import ConfigError
from pipeline.campaign.sweep.candidates import at_rung, configurations
from pipeline.campaign.sweep.spec import check, from_document, from_options, read_sweep, rendered, split

ROOT = Path(__file__).resolve().parents[4]
GRID = {"parameters": {"quant.bits": [5, 6], "optim.matrix_lr": [0.01, 0.02]}}
HALVING = {
    "method": "halving", "parameters": {"optim.matrix_lr": {"low": 0.01, "high": 0.04, "log": True}}, "samples": 9,
    "resource": "train.steps", "rungs": [100, 300, 900],
}  # fmt: skip


def sweep(document: dict[str, Any]) -> Any:
    return from_document(document, "bits", "bits.yaml")


def test_a_grid_has_every_combination_once_and_the_base_in_each() -> None:
    found = configurations(sweep({**GRID, "base": {"quant.fit": True, "quant.bits": 4}}))
    assert found[0] == ("quant.fit=true", "quant.bits=5", "optim.matrix_lr=0.01")  # the later value of a key wins
    assert len(set(found)) == 4
    assert configurations(from_options(["quant.bits=5,6", "optim.matrix_lr=0.01,0.02"])) == configurations(sweep(GRID))


def test_options_split_outside_brackets_and_quotes() -> None:
    assert split("[1,2],[3]") == ["[1,2]", "[3]"]
    assert split("'a,b',c,{x:[1,2],y:3}") == ["'a,b'", "c", "{x:[1,2],y:3}"]
    found = from_options(["seeds=[42,314]", "quant.bits=5,6"])
    assert found.base == ("seeds=[42,314]",)
    assert found.name == "grid-quant-bits"


def test_draws_are_seeded_distinct_and_within_their_range() -> None:
    draws = configurations(sweep(HALVING))
    assert draws == configurations(sweep(HALVING)) != configurations(sweep({**HALVING, "seed": 1}))
    values = [float(overrides[0].partition("=")[2]) for overrides in draws]
    assert len(set(values)) == 9
    assert all(0.01 <= value <= 0.04 for value in values)
    whole = {"method": "random", "samples": 5, "parameters": {"model.num_layers": {"low": 2, "high": 6}}}
    assert {int(one[0][-1]) for one in configurations(sweep(whole))} == {2, 3, 4, 5, 6}
    with pytest.raises(ConfigError, match="samples: found 6, needed at most the 5 points"):
        configurations(sweep({**whole, "samples": 6}))


def test_a_rung_is_an_override_and_names_tell_everything_apart() -> None:
    made = sweep(HALVING)
    every = configurations(made)
    rungs = [at_rung(made, state, every, rung) for state in ("one", "two") for rung in range(3)]
    assert rungs[1][0].overrides[-1] == "train.steps=300"
    assert len({one.name for rung in rungs for one in rung}) == 9 * 6


@pytest.mark.parametrize("value", [True, None, 3, 1e-5, 0.25, "lora", "a,b", "null", [1, 2], ["a", "b"], {"x": 1}])
def test_a_value_is_written_so_that_yaml_reads_it_back(value: object) -> None:
    text = rendered(value)
    read = yaml.safe_load(text.replace(":", ": ")) if isinstance(value, dict) else parse_yaml(text)
    assert read == (value if value != 1e-5 else "1e-05")  # DVC parses numbers by itself, and writes 1e-05 as one
    assert split(text) == [text]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "bayes"}, "method: found 'bayes', needed one of grid, list, random, halving"),
        ({"keys": 1}, "grid has no key 'keys'; known: name, method"),
        ({"samples": 3}, "grid has no key 'samples'"),
        ({"name": "a b"}, "name: found 'a b'"),
        ({"name": 3}, "name: found 3, needed text"),
        ({"parameters": None}, "parameters: found None"),
        ({"parameters": {"quant.bits": 5}}, "quant.bits: found 5, needed a list of values"),
        ({"parameters": {"quant.bits": []}}, "quant.bits: found []"),
        ({"parameters": {"quant.bits": {"low": 1, "high": 2}}}, "needed a list of values. "),
        ({"parameters": {5: [1]}}, "found the key 5, needed section.key"),
        ({"base": ["quant.bits=5"]}, "base: found ['quant.bits=5'], needed a mapping"),
        ({"failures": 0}, "failures: found 0, needed an integer of 1 or more"),
        ({"failures": True}, "failures: found True"),
        ({"hours": -1}, "hours: found -1, needed a number"),
        ({"dollars": float("nan")}, "dollars: found nan"),
    ],
)
def test_what_is_wrong_is_named_with_an_example(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep({**GRID, **change})
    assert told in str(caught.value)
    assert "Try: " in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"rungs": [100]}, {"rungs": [300, 100]}, {"rungs": "100"}, {"rungs": [1, "a"]}, {"resource": "optim.matrix_lr"},
     {"resource": "a b"}, {"keep": 0}, {"keep": 1}, {"samples": 0},
     {"parameters": {"optim.matrix_lr": {"low": 2, "high": 1}}},
     {"parameters": {"optim.matrix_lr": {"low": 0, "high": 1, "log": True}}},
     {"parameters": {"optim.matrix_lr": {"low": 0, "high": 1, "lgo": True}}},
     {"parameters": {"optim.matrix_lr": {"low": "0", "high": 1}}}],
)  # fmt: skip
def test_a_halving_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Try: "):
        sweep({**HALVING, **change})


def test_examples_in_the_documentation_are_sweeps(tmp_path: Path) -> None:
    blocks = (ROOT / "docs/cli.md").read_text().split("## `fairway sweep")[1].split("\n## ")[0].split("```yaml\n")[1:]
    assert len(blocks) >= 2
    for number, block in enumerate(blocks):
        path = tmp_path / f"s{number}.yaml"
        path.write_text(block.partition("```")[0])
        made = read_sweep(path)
        check(made, configurations(made), ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("quant.bitz=5", "quant.bitz: no such parameter"),
        ("nope.bits=5", "nope.bits: no such parameter"),
        ("quant=5", "quant: no such parameter"),
        ("quant.bits=five", "quant.bits: found 'five', needed an integer"),
        ("hardware.processes=-1", "hardware.processes: found -1"),
        ("seeds=42", "seeds: found 42, needed a list of integers"),
        ("seeds=[a]", "seeds: found [a]"),
    ],
)
def test_a_wrong_candidate_costs_nothing(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(from_options(["quant.bits=5"]), [["quant.bits=5"], [override]], ROOT / "params.yaml")
    assert told in str(caught.value)
