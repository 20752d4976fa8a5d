from functools import cache

import pytest
import torch

from golf.codec.model import encode_model
from golf.model.weights import ModelSpec, build, tensor_groups
from golf.params.compress import Compress
from golf.params.model import Model
from golf.params.quant import Quant
from golf.quant.fit import SLACK, fit
from golf.quant.model import Quantizer
from golf.quant.quantized import QuantizedModel
from golf.runtime.errors import DataError, Exit

CONFIG = Model(num_layers=2, dim=48, num_heads=2, num_kv_heads=1, rope_dims=8, xsa_layers=1, bigram_buckets=0)
SPEC = ModelSpec(CONFIG, 256)


@cache
def parts() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    torch.manual_seed(3)
    model = build(SPEC)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in model.state_dict().items()}
    return state, dict(tensor_groups(model))


def quantizer(**changed: object) -> Quantizer:
    state, groups = parts()
    hessians = {name: torch.eye(state[name].shape[1]) for name, group in groups.items() if group != "control"}
    return Quantizer(state, groups, hessians, Quant(**changed), SPEC)  # type: ignore[arg-type]


def size(model: QuantizedModel) -> int:
    return len(encode_model(model, Compress(codecs=("brotli",), layouts=("row",)))[0])


COLUMN = {"steps": "column"}
TRELLIS = {"steps": "column", "method": "trellis", "trellis_states": 4}


@pytest.mark.parametrize(
    ("changed", "share"), [({}, 0.6), ({}, 0.9), ({}, 1.15), (COLUMN, 1.15), (TRELLIS, 0.8)]
)  # fmt: skip
def test_it_lands_under_the_limit_and_close_to_it(changed: dict[str, str], share: float) -> None:
    quantise = quantizer(**changed)
    limit = round(size(quantise()) * share)
    fitted = fit(quantise, size, limit, print)
    assert fitted.bytes == size(fitted.model)
    assert 0 <= limit - fitted.bytes < SLACK
    assert fitted.report()["slack_bytes"] == limit - fitted.bytes
    assert (fitted.multiplier > 1) == (share < 1)
    assert fitted.passes <= 6
    assert fitted.encodings <= 12


def test_a_model_too_small_for_the_limit_keeps_its_finest_steps_and_says_so() -> None:
    said: list[str] = []
    quantise = quantizer()
    fitted = fit(quantise, size, 10_000_000, said.append)
    assert len(said) == 1
    assert "of 10,000,000: a larger model would fit" in said[0]
    assert fitted.bytes == size(fitted.model) > size(quantise())
    assert fitted.passes == 2


def test_a_limit_below_the_side_information_is_one_error() -> None:
    for limit in (-5, 0, 900):
        with pytest.raises(
            DataError, match=r"^fit: steps, controls and header take [\d,]+ bytes, the program"
        ) as error:
            fit(quantizer(), size, limit, print)
        assert error.value.code == Exit.DATA
        assert "\n" not in str(error.value)


def stubborn(model: QuantizedModel) -> int:
    """A byte for each tensor that is not all 0: they stay until steps are very coarse."""
    return 5000 + sum(bool(tensor.codes.any()) for tensor in model.tensors.values() if hasattr(tensor, "codes"))


def test_a_limit_that_the_coarsest_steps_do_not_keep_is_one_error() -> None:
    with pytest.raises(DataError, match=r"^fit: [\d,]+ bytes with steps [\d.]+ times the parameters', needed at most"):
        fit(quantizer(), lambda model: 2 * stubborn(model), 10_001, print)


def test_a_limit_that_only_the_coarsest_steps_keep_is_not_given_up() -> None:
    assert fit(quantizer(), stubborn, 5001, print).bytes == 5001


@pytest.mark.parametrize("clip_sigma", [2.8, 12.85])
@pytest.mark.parametrize("share", [0.16, 0.35, 0.55])
def test_it_lands_where_most_codes_are_zero_too(clip_sigma: float, share: float) -> None:
    quantise = quantizer(clip_sigma=clip_sigma)
    limit = round(size(quantise()) * share)
    assert 0 <= limit - fit(quantise, size, limit, print).bytes < SLACK


def test_only_a_small_tensor_has_steps_of_its_own() -> None:
    quantise = quantizer()
    fitted = fit(quantise, size, round(size(quantise()) * 0.8), print)
    whole = quantise(fitted.multiplier)
    different = [
        name for name, tensor in fitted.model.tensors.items()
        if hasattr(tensor, "codes") and not torch.equal(tensor.codes, whole.tensors[name].codes)
    ]  # fmt: skip
    assert different == [fitted.trimmed] * bool(fitted.trimmed)
