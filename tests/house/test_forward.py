"""Rules 4 and 5: one forward pass, and what is scored is what ships."""

import ast
from pathlib import Path

import pytest
import yaml

from pipeline.deps import needed
from pipeline.imports import closure
from tests.house.source import ROOT, calls, files, tree

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
TRANSFORMER = Path("golf/model/transformer.py")
ATTENTION = {"attend", "scaled_dot_product_attention", "flash_attn_func", "flash_attn_varlen_func"}
# The ideas of golf/research are models of their own: they never ship, and nothing imports them (tests/golf/research).
MODELS = {("golf", "model"), ("golf", "research")}
OUTSIDE = [path for path in files("golf", "stages", "pipeline") if path.parts[:2] not in MODELS]


@pytest.mark.parametrize("path", OUTSIDE, ids=str)
def test_only_the_model_computes_layers(path: Path) -> None:
    """No other module attends, walks the blocks or defines a layer: a second forward drifts from the first."""
    for node, name in calls(path):
        assert name.rpartition(".")[2] not in ATTENTION, f"{path}:{node.lineno} attends by itself"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr != "blocks", f"{path}:{node.lineno} walks the model's blocks"
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            assert "Module" not in bases, f"{path}:{node.lineno} defines a layer outside golf/model"


def test_one_class_is_the_transformer() -> None:
    walkers = {
        path
        for path in files("golf")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.name == "forward" and "blocks" in ast.unparse(node)
    }
    assert walkers == {TRANSFORMER}


@pytest.mark.parametrize("module", ["golf.quant.hessian", "golf.bundle.scoring", "stages.bundle", "stages.train"])
def test_training_calibration_scoring_and_shipping_reach_the_same_forward(module: str) -> None:
    assert TRANSFORMER in closure(module, ROOT)


@pytest.mark.parametrize("stage", ["evaluate", "audit"])
def test_the_scoring_stages_cannot_reach_the_model(stage: str) -> None:
    """They run the shipped program: no model, codec or scorer of the repository is within their imports."""
    code = needed(STAGES[stage]["cmd"], ROOT)
    packages = {"golf/model", "golf/train", "golf/codec", "golf/optim", "golf/scoring"}
    assert not packages & set(code)
    assert not [path for path in code if path.startswith("golf/quant/")]


@pytest.mark.parametrize("stage", ["evaluate", "audit"])
def test_the_scoring_stages_read_the_artifact_and_the_program_alone(stage: str) -> None:
    read = [dep for dep in STAGES[stage]["deps"] if not dep.startswith(("golf/", "stages/"))]
    assert {"build/train_gpt.py", "runs/compress/${item.seed}"} <= set(read)
    assert not [dep for dep in read if dep.startswith("runs/") and not dep.startswith("runs/compress/")]
