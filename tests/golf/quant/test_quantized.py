from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from golf.model.weights import build, load_spec, tensor_groups
from golf.params.base import to_dict
from golf.quant.fast import quantize_fast, round_to_nearest
from golf.quant.quantized import (
    QuantizedModel,
    QuantizedTensor,
    dequantize_model,
    from_arrays,
    load,
    save,
    store_half,
    to_arrays,
)
from golf.runtime.errors import ConfigError, DataError, MissingInput
from tests.golf.quant import tiny


def fast(bits: int = 6, embed_bits: int = 7) -> QuantizedModel:
    state = tiny.state()
    return quantize_fast(state, tensor_groups(build(tiny.SPEC)), bits, 12.85, embed_bits, 14.0, spec=tiny.SPEC)


def equal(one: QuantizedTensor | Tensor, other: QuantizedTensor | Tensor) -> bool:
    if isinstance(one, QuantizedTensor) and isinstance(other, QuantizedTensor):
        same = torch.equal(one.codes, other.codes) and torch.equal(one.steps, other.steps)
        return same and one.bits == other.bits and one.codes.dtype == other.codes.dtype
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    )


def test_nothing_is_wider_than_fp16_and_every_matrix_and_table_is_coded() -> None:
    quantised, groups = fast(), tensor_groups(build(tiny.SPEC))
    assert set(quantised.tensors) == set(groups)
    for name, tensor in quantised.tensors.items():
        if groups[name] == "control":
            assert isinstance(tensor, Tensor)
            assert tensor.dtype == torch.float16
        else:
            assert isinstance(tensor, QuantizedTensor)
            assert tensor.bits == (7 if groups[name] == "embed" else 6)
    _, arrays = to_arrays(quantised)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int8), np.dtype(np.float16)}


def test_dequantising_is_exact() -> None:
    codes = torch.arange(-127, 128, dtype=torch.int8).repeat(3, 1)
    steps = torch.tensor([1 / 3, 6e-8, 60000.0]).half()
    restored = QuantizedTensor(codes, steps, 8).dequantize()
    assert restored.dtype == torch.float32
    assert torch.equal(restored.double(), codes.double() * steps.double()[:, None])


def test_rounding_twice_changes_nothing() -> None:
    """The grid's own points stay: with the steps kept, nearest codes of the restored weights are the codes."""
    quantised = round_to_nearest(torch.randn(6, 40, generator=torch.Generator().manual_seed(0)), 6, 12.85)
    again = torch.round(quantised.dequantize() / quantised.steps.float()[:, None])
    assert torch.equal(again.to(torch.int8), quantised.codes)


@pytest.mark.parametrize(("bits", "embed_bits"), [(6, 7), (2, 8), (8, 2), (5, 5)])
def test_arrays_and_files_round_trip(tmp_path: Path, bits: int, embed_bits: int) -> None:
    quantised = fast(bits, embed_bits)
    metadata, arrays = to_arrays(quantised)
    save(quantised, tmp_path)
    for back in (from_arrays(metadata, arrays), load(tmp_path)):
        assert back.spec == tiny.SPEC
        assert set(back.tensors) == set(quantised.tensors)
        assert all(equal(back.tensors[name], quantised.tensors[name]) for name in quantised.tensors)
        assert to_dict(back.spec.config) == to_dict(tiny.CONFIG)
    assert load_spec(tmp_path) == tiny.SPEC, "model.json says what it says for any weights"
    build(tiny.SPEC, dequantize_model(quantised))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 5), (1, 2, 3), (0,)])
def test_plain_tensors_of_every_shape_round_trip(shape: tuple[int, ...]) -> None:
    original = QuantizedModel(tiny.SPEC, {"gain": torch.randn(shape).half()})
    back = from_arrays(*to_arrays(original)).tensors["gain"]
    assert equal(back, original.tensors["gain"])
    assert back.shape == shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_matrices_of_every_shape_and_width_round_trip(shape: tuple[int, int]) -> None:
    tensors = {f"w{bits}": round_to_nearest(torch.randn(shape), bits, 3.0) for bits in range(2, 9)}
    back = from_arrays(*to_arrays(QuantizedModel(tiny.SPEC, dict(tensors))))
    assert all(equal(back.tensors[name], tensors[name]) for name in tensors)


def test_two_savings_are_the_same_bytes(tmp_path: Path) -> None:
    save(fast(), tmp_path / "a")
    save(fast(), tmp_path / "b")
    for name in ("quantized.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_arrays_that_cannot_be_written_to_are_copied() -> None:
    metadata, arrays = to_arrays(fast())
    for array in arrays.values():
        array.flags.writeable = False
    back = from_arrays(metadata, arrays)
    matrix = back.tensors["blocks.0.mlp.up.weight"]
    assert isinstance(matrix, QuantizedTensor)
    matrix.codes[0, 0] = 1


def test_codes_that_can_be_written_to_are_not_kept_twice() -> None:
    metadata, arrays = to_arrays(fast())
    for name, tensor in from_arrays(metadata, arrays).tensors.items():
        if isinstance(tensor, QuantizedTensor):
            assert np.shares_memory(tensor.codes.numpy(), arrays[f"{name}.codes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, a: a.pop("embed.weight.steps"), "embed.weight.codes without its steps"),
        (lambda m, a: a.pop("embed.weight.codes"), "embed.weight.steps without its codes"),
        (lambda m, a: a.update({"embed.weight.codes": a["embed.weight.codes"].astype(np.int16)}), "int16, needed int8"),
        (lambda m, a: a.update({"embed.weight.codes": a["embed.weight.codes"].ravel()}), "needed int8 (rows, columns)"),
        (lambda m, a: a.update({"embed.weight.steps": a["embed.weight.steps"][1:]}), "needed float16 (48,)"),
        (lambda m, a: a.update({"embed.weight.steps": a["embed.weight.steps"] * np.float16("nan")}), "NaN"),
        (lambda m, a: a.update({"smear.gate": a["smear.gate"].astype(np.float32)}), "float32, needed float16"),
        (lambda m, a: m.update(bits=2, bits_of={}), "needed ±1 for 2 bits"),
        (lambda m, a: m.update(bits=99), "needed 2 to 8"),
        (lambda m, a: m.update(bits="6"), "needed an integer and a mapping"),
        (lambda m, a: m.pop("bits_of"), "needed an integer and a mapping"),
        (lambda m, a: m["bits_of"].update({"smear.gate": 7}), "smear.gate, which is not among the codes"),
        (lambda m, a: m["bits_of"].update({"embed.weight": None}), "width None, needed an integer"),
        (lambda m, a: m.update(format=2), "needed 1"),
        (lambda m, a: m.update(model={}), "model.num_layers is missing"),
        (lambda m, a: m.pop("vocab_size"), "vocab_size"),
    ],
)  # fmt: skip
def test_a_foreign_artifact_is_one_error(change, message: str) -> None:
    metadata, arrays = to_arrays(fast())
    metadata = {**metadata, "bits_of": dict(metadata["bits_of"])}
    change(metadata, arrays)
    with pytest.raises(DataError) as error:
        from_arrays(metadata, arrays, "model.golf")
    assert message in str(error.value)
    assert str(error.value).startswith("model.golf")
    assert "\n" not in str(error.value)


def test_damaged_and_missing_files_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"model.json: no such file"):
        load(tmp_path)
    save(fast(), tmp_path)
    weights = tmp_path / "quantized.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="Try: dvc repro --force quantize"):
        load(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(DataError):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(MissingInput, match=r"quantized.safetensors: no such file"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_arrays_of_a_dtype_that_numpy_lacks_are_one_error(tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    save(fast(), tmp_path)
    save_file({"gain": torch.zeros(3, dtype=dtype)}, tmp_path / "quantized.safetensors")
    with pytest.raises(DataError, match=f"^{tmp_path}: "):
        load(tmp_path)


def test_controls_that_fp16_cannot_hold_are_refused_by_name() -> None:
    assert store_half("gain", torch.tensor([65504.0, -65504.0])).isfinite().all()
    with pytest.raises(DataError, match=r"gain: found a value of magnitude 70000, needed at most 65504"):
        store_half("gain", torch.tensor([1.0, -70000.0]))
    with pytest.raises(DataError, match="gain: 1 values NaN"):
        store_half("gain", torch.tensor([float("nan"), 1.0]))


@pytest.mark.parametrize(
    ("codes", "steps", "bits", "error"),
    [
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(2).half(), 9, ConfigError),
        (torch.zeros(2, 3), torch.ones(2).half(), 6, DataError),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(3).half(), 6, DataError),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(2), 6, DataError),
        (torch.full((2, 3), 32, dtype=torch.int8), torch.ones(2).half(), 6, DataError),
        (torch.full((2, 3), -128, dtype=torch.int8), torch.ones(2).half(), 8, DataError),
    ],
)
def test_codes_steps_and_width_must_fit(codes: Tensor, steps: Tensor, bits: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        QuantizedTensor(codes, steps, bits)


def test_clipped_counts_both_ends() -> None:
    codes = torch.tensor([[31, -31, 30], [0, 1, -30]], dtype=torch.int8)
    assert QuantizedTensor(codes, torch.ones(2).half(), 6).clipped == 2
