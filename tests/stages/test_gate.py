import shutil
from pathlib import Path

import pytest

from tests.stages.world import SEED, make, report, stage


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make(tmp_path_factory.mktemp("gate"))
    (world / "build").mkdir()
    (world / "build/train_gpt.py").write_bytes(b"x" * 3000)
    assert stage("compress", world, f"--seed={SEED}").returncode == 0
    return world


@pytest.fixture
def world(ready: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ready, tmp_path / "world"))


def size(world: Path) -> int:
    return (world / f"runs/compress/{SEED}/model.golf").stat().st_size


def limit(world: Path, value: int) -> None:
    text = (world / "params.yaml").read_text()
    (world / "params.yaml").write_text(text.replace("artifact_bytes: 16000000", f"artifact_bytes: {value}"))


def test_at_the_cap_it_passes(world: Path) -> None:
    limit(world, 3000 + size(world))
    result = stage("gate", world, f"--seed={SEED}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"gate: {3000 + size(world):,} bytes of {3000 + size(world):,}: 0 to spare\n"
    assert report(world, "gate") == {
        "seed": SEED,
        "model_bytes": size(world),
        "code_bytes": 3000,
        "total_bytes": 3000 + size(world),
        "slack_bytes": 0,
        "limit": 3000 + size(world),
    }


def test_one_byte_over_it_fails_with_advice_and_without_a_report(world: Path) -> None:
    assert stage("gate", world, f"--seed={SEED}").returncode == 0
    model = size(world)
    limit(world, 3000 + model - 1)
    result = stage("gate", world, f"--seed={SEED}")
    assert result.returncode == 65
    assert result.stderr.strip() == (
        f"gate: size gate: {3000 + model:,} bytes > {2999 + model:,} (seed {SEED}: model {model:,} + code 3,000). "
        "Try: dvc exp run -S quant.bits=5"
    )
    assert not (world / f"reports/gate/{SEED}.json").exists()


@pytest.mark.parametrize("name", ["build/train_gpt.py", f"runs/compress/{SEED}/model.golf"])
def test_a_missing_part_is_named(world: Path, name: str) -> None:
    (world / name).unlink()
    result = stage("gate", world, f"--seed={SEED}")
    assert result.returncode == 66
    assert f"{name}: no such file" in result.stderr


def test_a_foreign_artifact_is_refused(world: Path) -> None:
    (world / f"runs/compress/{SEED}/model.golf").write_bytes(b"PK\3\4")
    result = stage("gate", world, f"--seed={SEED}")
    assert result.returncode == 65
    assert "needed b'GOLF'" in result.stderr
