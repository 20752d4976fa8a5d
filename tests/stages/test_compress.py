import csv
from pathlib import Path

import pytest

from golf.codec.model import decode_model
from golf.quant.quantized import load, to_arrays
from tests.stages.world import SEED, make, report, stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("compress"))


def test_it_writes_the_artifact_the_table_and_the_report(world: Path) -> None:
    result = stage("compress", world, f"--seed={SEED}")
    assert result.returncode == 0, result.stderr
    folder = world / f"runs/compress/{SEED}"
    blob = (folder / "model.golf").read_bytes()
    expected = to_arrays(load(world / f"runs/quantize/{SEED}"))
    found = to_arrays(decode_model(blob))
    assert found[0] == expected[0]
    assert all((found[1][name] == array).all() for name, array in expected[1].items())
    numbers = report(world, "compress")
    assert numbers["seed"] == SEED
    assert numbers["artifact_bytes"] == len(blob)
    assert len(numbers) <= 12
    with (folder / "streams.csv").open() as file:
        assert sum(int(row["coded"]) for row in csv.DictReader(file)) == len(blob) - numbers["header_bytes"]
    with (world / f"reports/timing/compress/{SEED}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["codec"] for row in rows} == {"stored", "rans", "brotli", "lzma", "zstd"}
    assert sum(row["kept"] == "1" for row in rows) == len({row["stream"] for row in rows})
    again = stage("compress", world, f"--seed={SEED}")
    assert again.returncode == 0
    assert (folder / "model.golf").read_bytes() == blob


def test_a_missing_model_is_one_line(world: Path) -> None:
    result = stage("compress", world, "--seed=8")
    assert result.returncode == 66
    assert result.stderr.startswith("compress: runs/quantize/8/model.json: no such file")
    assert not (world / "runs/compress/8").exists()


def test_a_damaged_model_leaves_nothing(tmp_path: Path) -> None:
    world = make(tmp_path)
    path = world / f"runs/quantize/{SEED}/quantized.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = stage("compress", world, f"--seed={SEED}")
    assert result.returncode == 65
    assert "Traceback" not in result.stderr
    assert not (world / "runs/compress").exists()


def test_an_unknown_codec_is_refused_by_name(tmp_path: Path) -> None:
    result = stage("compress", make(tmp_path, compress={"codecs": ["gzip"]}), f"--seed={SEED}")
    assert result.returncode == 78
    assert "compress.codecs" in result.stderr
