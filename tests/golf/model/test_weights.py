import json

import pytest
import torch

from golf.model.weights import ModelSpec, build, load_spec, load_state, save_model, tensor_groups
from golf.runtime.errors import DataError, MissingInput
from tests.golf.model.tiny import BOS, EVERYTHING, VOCAB, tiny, tokens


@pytest.fixture
def saved(tmp_path):
    model = tiny(**EVERYTHING)
    save_model(tmp_path / "run", "raw", model.state_dict(), model.config, VOCAB, BOS)
    return model, tmp_path / "run"


def test_round_trip(saved):
    model, folder = saved
    spec = load_spec(folder)
    assert spec == ModelSpec(model.config, VOCAB, BOS)
    state = load_state(folder, "raw")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    rebuilt = build(spec, state)
    assert torch.equal(rebuilt(tokens()), model(tokens()))
    assert all(param.requires_grad for param in rebuilt.parameters())
    with torch.no_grad():
        rebuilt.embed.weight.zero_()
    assert torch.equal(state["embed.weight"], model.embed.weight)  # the caller's state is not the model's memory


def test_the_same_weights_give_the_same_bytes(saved, tmp_path):
    model, folder = saved
    save_model(tmp_path / "again", "raw", dict(reversed(model.state_dict().items())), model.config, VOCAB, BOS)
    assert (tmp_path / "again/raw.safetensors").read_bytes() == (folder / "raw.safetensors").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "raw.safetensors"]


def test_building_from_weights_leaves_the_random_state(saved):
    _, folder = saved
    state, spec = load_state(folder, "raw"), load_spec(folder)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(spec, state)
    assert torch.equal(torch.rand(3), expected)


def test_building_without_weights_draws_them():
    spec = ModelSpec(tiny().config, VOCAB, BOS)
    torch.manual_seed(3)
    one = build(spec)
    torch.manual_seed(3)
    two = build(spec)
    assert torch.equal(one.embed.weight, two.embed.weight)
    assert one.embed.weight.abs().max() > 0


def test_half_precision_weights_are_widened(saved):
    _, folder = saved
    state = {name: value.half() for name, value in load_state(folder, "raw").items()}
    assert all(param.dtype == torch.float32 for param in build(load_spec(folder), state).parameters())


def test_groups_cover_the_state():
    model = tiny(**EVERYTHING)
    groups = tensor_groups(model)
    assert set(groups) == set(model.state_dict())
    assert {name for name, group in groups.items() if group == "embed"} == {
        "embed.weight", "bigram.table.weight", "values.table.weight",
    }  # fmt: skip
    matrices = {name for name, group in groups.items() if group == "matrix"}
    assert len(matrices) == 6 * 4 + 2
    assert all(model.state_dict()[name].dim() == 2 for name in matrices)
    assert groups["skips.gates"] == groups["blocks.0.resid_mix"] == groups["bigram.scale"] == "control"


def test_missing_files(tmp_path):
    with pytest.raises(MissingInput, match=r"model\.json"):
        load_spec(tmp_path)
    with pytest.raises(MissingInput, match=r"raw\.safetensors"):
        load_state(tmp_path, "raw")


def test_damaged_weights(saved):
    _, folder = saved
    path = folder / "raw.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"raw\.safetensors"):
        load_state(folder, "raw")
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"raw\.safetensors"):
        load_state(folder, "raw")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"format": None}, {"model": None}, {"model": {}}, {"vocab_size": "61"}, {"vocab_size": True},
        {"bos_id": 61}, {"bos_id": -1}, {"bos_id": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_description_is_refused(saved, change):
    _, folder = saved
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"model\.json"):
        load_spec(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '{"format": 1}'])
def test_a_description_that_is_none(saved, content):
    _, folder = saved
    (folder / "model.json").write_text(content)
    with pytest.raises(DataError, match=r"model\.json"):
        load_spec(folder)


def test_a_value_out_of_range_is_refused(saved):
    _, folder = saved
    content = json.loads((folder / "model.json").read_text())
    content["model"]["num_heads"] = 5
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"model\.json.*dim.*needed a multiple of num_heads"):
        load_spec(folder)


def test_weights_of_another_model_are_refused(saved):
    _, folder = saved
    spec, state = load_spec(folder), load_state(folder, "raw")
    with pytest.raises(DataError, match=r"skips.weights missing"):
        build(spec, {name: value for name, value in state.items() if name != "skips.weights"})
    with pytest.raises(DataError, match="extra unknown"):
        build(spec, state | {"extra": torch.zeros(1)})
    with pytest.raises(DataError, match=r"embed.weight is \(3, 3\), needed \(61, 32\)"):
        build(spec, state | {"embed.weight": torch.zeros(3, 3)})
