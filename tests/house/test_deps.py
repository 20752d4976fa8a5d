"""Rule 2: dvc.yaml lists exactly the code a stage imports."""

from pathlib import Path

import pytest
import yaml

from pipeline.deps import collapse, differences, entry, needed, rewrite
from pipeline.imports import closure
from tests.house.source import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_dvc_yaml_lists_exactly_the_code_that_stages_import() -> None:
    found = differences(ROOT)
    assert not found, "\n".join(map(str, found)) + "\nTry: python -m pipeline.deps --write"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_the_module_of_its_name(stage: str) -> None:
    folder = "pipeline" if stage == "track" else "stages"
    assert entry(STAGES[stage]["cmd"]) == f"{folder}.{stage}"
    assert (ROOT / folder / f"{stage}.py").is_file()


@pytest.mark.parametrize(
    ("stage", "free_of"),
    [
        ("train", ["golf/codec", "golf/scoring", "golf/stats", "golf/bundle", "golf/params/quant.py",
                   "golf/params/compress.py", "golf/params/eval.py", "golf/params/budget.py"]),
        ("select", ["golf/codec", "golf/stats", "golf/bundle", "golf/params/quant.py", "golf/params/compress.py"]),
        ("quantize", ["golf/codec", "golf/stats", "golf/optim", "golf/params/compress.py"]),
        ("compress", ["golf/train", "golf/optim", "golf/stats", "golf/scoring"]),
        ("tokenize", ["golf/model", "golf/train", "golf/codec"]),
        ("fetch", ["golf/model", "golf/train", "golf/params/tokenizer.py"]),
    ],
)  # fmt: skip
def test_an_edit_far_away_reruns_nothing_expensive(stage: str, free_of: list[str]) -> None:
    """The point of listing exactly: editing the codec, or a knob of it, never retrains."""
    assert not set(needed(STAGES[stage]["cmd"], ROOT)) & set(free_of)


def test_no_command_names_the_machine() -> None:
    """The command is part of DVC's hash: a path, host or GPU count in it would rerun everything elsewhere."""
    for definition in STAGES.values():
        assert definition["cmd"].split()[:2] == ["python", "-m"]
        assert not any(word.startswith(("/", "~")) or "nproc" in word for word in definition["cmd"].split())


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for path, text in {
        "stages/__init__.py": '"""Stages."""\n',
        "stages/quant.py": "from golf.data import shards\ndef main():\n    from golf.codec.fast import x\n",
        "golf/__init__.py": "",
        "golf/data/__init__.py": "",
        "golf/data/shards.py": "from ..params import base\n",
        "golf/data/other.py": "",
        "golf/params/__init__.py": "",
        "golf/params/base.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import golf.data.other\n",
        "golf/codec/__init__.py": "",
        "golf/codec/fast.py": 'WORKER = "golf.train.worker"\n',
        "golf/train/__init__.py": "",
        "golf/train/worker.py": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n\n  quant:  # a comment\n    cmd: python -m stages.quant\n    deps:\n      - golf/old.py\n"
        "      - data/x  # kept\n    outs:\n      - y\n"
    )
    return tmp_path


def test_closure_sees_lazy_relative_and_named_imports_but_not_the_type_checker_s(house: Path) -> None:
    assert collapse(closure("stages.quant", house), house) == [
        "golf/codec", "golf/data/shards.py", "golf/params/base.py", "golf/train", "stages/quant.py",
    ]  # fmt: skip


def test_a_difference_reads_as_one_sentence(house: Path) -> None:
    found = [str(item) for item in differences(house)]
    assert "stage 'quant' imports golf/codec but dvc.yaml does not list it" in found
    assert "stage 'quant' lists golf/old.py in dvc.yaml but does not import it" in found


def test_rewriting_touches_the_code_lines_alone(house: Path) -> None:
    before = (house / "dvc.yaml").read_text()
    text = before.replace("quant:  # a comment", "quant:")
    after = rewrite(text, {"quant": ["golf/codec", "stages/quant.py"]})
    assert after == text.replace("- golf/old.py", "- golf/codec\n      - stages/quant.py")
    assert rewrite(after, {"quant": ["golf/codec", "stages/quant.py"]}) == after
