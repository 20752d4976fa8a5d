import csv
import io

import pytest
import torch

from golf.codec import artifact
from golf.codec.artifact import summary, table
from golf.codec.budget import check_budget
from golf.codec.container import encode
from golf.codec.model import decode_model, encode_model
from golf.model.weights import ModelSpec, build, tensor_groups
from golf.params.compress import Compress
from golf.params.model import Model
from golf.quant.fast import quantize_fast
from golf.quant.quantized import QuantizedModel, QuantizedTensor
from golf.runtime.errors import DataError, Exit, FairwayError


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    torch.manual_seed(0)
    config = Model(num_layers=2, dim=32, num_heads=2, num_kv_heads=1, rope_dims=8, xsa_layers=1, bigram_buckets=64)
    spec = ModelSpec(config, 300, 1)
    module = build(spec)
    return quantize_fast(module.state_dict(), tensor_groups(module), 6, 12.85, 7, 14.0, spec=spec)


def test_a_model_survives_bit_by_bit(model: QuantizedModel) -> None:
    blob, _ = encode_model(model, Compress())
    back = decode_model(blob)
    assert back.spec == model.spec
    assert list(back.tensors) == sorted(back.tensors) or set(back.tensors) == set(model.tensors)
    for name, tensor in model.tensors.items():
        found = back.tensors[name]
        if isinstance(tensor, QuantizedTensor):
            assert isinstance(found, QuantizedTensor)
            assert found.bits == tensor.bits
            assert torch.equal(found.codes, tensor.codes)
            assert torch.equal(found.steps, tensor.steps)
        else:
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, tensor)


def test_what_does_not_come_back_is_not_handed_out(model: QuantizedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = artifact.decode

    def flawed(blob: bytes):
        metadata, arrays = honest(blob)
        next(array for array in arrays.values() if array.size).reshape(-1)[0] += 1
        return metadata, arrays

    monkeypatch.setattr(artifact, "decode", flawed)
    with pytest.raises(FairwayError, match="nothing was kept"):
        encode_model(model, Compress())


def test_an_artifact_without_a_model_is_refused() -> None:
    blob, _ = encode({"format": 1}, {})
    with pytest.raises(DataError, match="artifact"):
        decode_model(blob)


def test_summary_and_table_add_up(model: QuantizedModel) -> None:
    blob, reports = encode_model(model, Compress(codecs=("brotli",), layouts=("row",)))
    numbers = summary(blob, reports)
    rows = list(csv.DictReader(io.StringIO(table(reports))))
    assert len(numbers) <= 11
    assert numbers["artifact_bytes"] == len(blob) == numbers["header_bytes"] + sum(int(row["coded"]) for row in rows)
    assert numbers["streams"] == len(rows) == numbers["won_by_brotli"] + numbers["won_by_stored"]
    assert numbers["raw_bytes"] == sum(int(row["raw"]) for row in rows)
    assert {row["codec"] for row in rows} <= {"brotli", "stored"}


def test_the_budget_in_numbers() -> None:
    assert check_budget(30_000, 15_970_000, 16_000_000, 42, {})["slack_bytes"] == 0


def test_over_budget_is_said_as_the_design_does() -> None:
    with pytest.raises(DataError) as error:
        check_budget(48_120, 15_964_214, 16_000_000, 43, {"bits": 6})
    assert str(error.value) == (
        "size gate: 16,012,334 bytes > 16,000,000 (seed 43: model 15,964,214 + code 48,120). "
        "Try: dvc exp run -S quant.bits=5"
    )
    assert error.value.code == Exit.DATA


@pytest.mark.parametrize(
    ("code", "model_bytes", "metadata", "advice"),
    [
        (30_000, 20_000_000, {"bits": 6}, "quant.bits=5"),
        (30_000, 30_000_000, {"bits": 6}, "quant.bits=4"),
        (30_000, 120_000_000, {"bits": 6, "model": {"num_layers": 11}}, "model.num_layers=1"),
        (30_000, 16_000_000, {"bits": 3, "model": {"num_layers": 11}}, "model.num_layers=10"),
        (30_000, 16_000_000, {}, "model.dim"),
        (17_000_000, 1, {"bits": 6, "model": {"num_layers": 11}}, "the code alone is over it"),
    ],
)
def test_the_advice_would_help(code: int, model_bytes: int, metadata: dict, advice: str) -> None:
    with pytest.raises(DataError, match=advice):
        check_budget(code, model_bytes, 16_000_000, 1, metadata)
