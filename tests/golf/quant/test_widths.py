from dataclasses import replace

import pytest
import torch

from golf.model.weights import tensor_groups
from golf.params.quant import Quant
from golf.quant.fit import fit
from golf.quant.model import Quantizer
from golf.quant.quantized import QuantizedModel, QuantizedTensor, dequantize_model, from_arrays, to_arrays
from golf.quant.steps import Scheme
from golf.runtime.errors import ConfigError
from tests.golf.quant import tiny


def quantizer(config: Quant) -> Quantizer:
    state, groups = tiny.state(), dict(tensor_groups(tiny.model()))
    torch.manual_seed(0)
    hessians = {}
    for name, group in groups.items():
        if group == "matrix":
            inputs = torch.randn(256, state[name].shape[1])
            hessians[name] = (inputs.T @ inputs / 256).double()
    gains = dict.fromkeys(hessians, 1.0)
    return Quantizer(state, groups, hessians, config, tiny.SPEC, gains=gains if config.steps == "curvature" else None)


def tensors(model: QuantizedModel) -> dict[str, QuantizedTensor]:
    return {name: value for name, value in model.tensors.items() if isinstance(value, QuantizedTensor)}


def test_the_longest_part_of_a_name_decides() -> None:
    config = Quant(bits_of={"mlp": 5, "mlp.down": 7, "blocks.1.mlp.down": 4, "embed": 6})
    assert config.own_bits("blocks.0.mlp.up.weight") == 5
    assert config.own_bits("blocks.0.mlp.down.weight") == 7
    assert config.own_bits("blocks.1.mlp.down.weight") == 4
    assert config.own_bits("blocks.11.mlp.down.weight") == 7
    assert config.own_bits("embed.weight") == 6
    assert config.own_bits("blocks.0.attention.query.weight") is None
    assert Quant().own_bits("embed.weight") is None


@pytest.mark.parametrize("steps", ["row", "column", "curvature"])
def test_a_width_of_its_own_halves_the_steps_and_nothing_else_s(steps: str) -> None:
    plain = tensors(quantizer(Quant(steps=steps))())  # type: ignore[arg-type]
    mixed = tensors(quantizer(Quant(steps=steps, bits_of={"mlp.up": 7, "bigram": 7}))())  # type: ignore[arg-type]
    for name, tensor in mixed.items():
        before = plain[name]
        if "mlp.up" in name:
            assert tensor.bits == 7
            ratio = Scheme.steps(before.steps) / Scheme.steps(tensor.steps)
            assert torch.allclose(ratio, torch.full_like(ratio, 63 / 31), rtol=0.01 if steps == "row" else 0.1)
        elif "bigram" in name:
            assert tensor.bits == 7
        else:
            assert tensor.bits == before.bits
            assert torch.equal(tensor.codes, before.codes)


def test_other_widths_survive_the_artifact_s_arrays() -> None:
    model = quantizer(Quant(bits_of={"attention": 4}))()
    back = tensors(from_arrays(*to_arrays(model)))
    assert {name: tensor.bits for name, tensor in back.items()} == {
        name: tensor.bits for name, tensor in tensors(model).items()
    }
    assert back["blocks.0.attention.key.weight"].bits == 4


def test_a_name_that_no_tensor_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^quant.bits_of: found 'mpl', needed a part of the name of a quantised"):
        quantizer(Quant(bits_of={"mlp": 5, "mpl": 5}))
    with pytest.raises(ConfigError, match=r"^quant.bits_of: found 'skips'"):
        quantizer(Quant(bits_of={"skips": 5}))
    with pytest.raises(ConfigError, match=r"^quant.bits_of: found {'mlp': 9}, needed 2 to 8 for mlp"):
        Quant(bits_of={"mlp": 9})


@pytest.mark.parametrize("method", ["gptq", "trellis"])
def test_two_bits_are_ternary(method: str) -> None:
    """Levels -1, 0, 1, and with a trellis their halves too; about half of the weights are 0."""
    config = Quant(bits=2, clip_sigma=1.6, method=method, trellis_states=4)  # type: ignore[arg-type]
    maker = quantizer(config)
    found = tensors(maker())
    tensor, name = found["blocks.0.mlp.up.weight"], "blocks.0.mlp.up.weight"
    assert set(tensor.codes.unique().tolist()) == {-1, 0, 1}
    assert 0.4 < float((tensor.codes == 0).float().mean()) < 0.7
    restored, weight = dequantize_model(maker())[name], maker.weights[name]
    cosine = torch.nn.functional.cosine_similarity(restored.flatten(), weight.flatten(), 0)
    assert float(cosine) > 0.8


def test_two_bits_at_a_clip_where_all_weights_are_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^quant.clip_sigma: found 12.85, needed at most 6.0 with 2 bits"):
        Quant(bits=2)
    assert replace(Quant(bits=3), clip_sigma=3.0).bits == 3
    fitted = fit(quantizer(Quant(bits=2, fit=True)), _ones, 4000, print)  # fit finds the steps
    assert fitted.bytes <= 4000


def _ones(model: QuantizedModel) -> int:
    return sum(int((tensor.codes != 0).sum()) for tensor in tensors(model).values())
