"""Parameters are refused by their full name, before anything is computed."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import yaml

import golf.params
from golf.params.base import Section, from_dict, load, load_seeds, pick, read_seed, to_dict
from golf.params.data import Data
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.train import Train
from golf.runtime.errors import ConfigError, Exit, MissingInput

FOLDER = Path(golf.params.__file__).parent
SECTIONS = [
    value
    for path in sorted(FOLDER.glob("*.py"))
    for value in vars(importlib.import_module(f"golf.params.{path.stem}")).values()
    if isinstance(value, type) and issubclass(value, Section) and value.SECTION and value.__module__.endswith(path.stem)
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.SECTION)
def test_defaults_survive_yaml_and_json(section: type[Section], tmp_path: Path) -> None:
    default = section()
    for name, text in (
        ("p.yaml", yaml.safe_dump({section.SECTION: to_dict(default)})),
        ("p.json", json.dumps({section.SECTION: to_dict(default)})),
    ):
        (tmp_path / name).write_text(text)
        assert load(section, tmp_path / name) == default


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.SECTION)
def test_every_key_must_be_there_and_no_other(section: type[Section]) -> None:
    values = to_dict(section())
    for key in values:
        rest = {name: value for name, value in values.items() if name != key}
        with pytest.raises(ConfigError, match=f"{section.SECTION}.{key} is missing. Try: add `{key}: "):
            from_dict(section, rest)
    with pytest.raises(ConfigError, match=f"unknown key {section.SECTION}.colour; known: "):
        from_dict(section, {**values, "colour": 1})


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.SECTION)
@pytest.mark.parametrize("wrong", [None, {"a": 1}, [[1]], "nonsense", -1, 1e300, float("nan"), float("inf"), "", True])
def test_no_wrong_value_passes_as_a_value_of_another_type(section: type[Section], wrong: object) -> None:
    """Every key is given every wrong value: refused by name, or taken as what it is, never converted in silence."""
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        kept, error = outcome(section, field.name, wrong)
        if error:
            assert f"{section.SECTION}." in error
            assert "\n" not in error
        else:
            assert kept == wrong
            assert isinstance(kept, (type(wrong), float))


def outcome(section: type[Section], key: str, value: object) -> tuple[object, str]:
    try:
        return getattr(from_dict(section, {**to_dict(section()), key: value}), key), ""
    except ConfigError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (Quant, "bits", 9, "quant.bits: found 9, needed 2 to 8. Try: dvc exp run -S quant.bits=6"),
        (Quant, "bits", 5.5, "quant.bits: found 5.5, needed an integer"),
        (Quant, "bits", True, "quant.bits: found True, needed an integer"),
        (Quant, "damping", 0.0, "quant.damping: found 0.0, needed above 0. Try: dvc exp run -S quant.damping=0.01"),
        (Quant, "damping", "1e-2", r"needed a finite number \(YAML reads 1e-4 as text: write 1.0e-4\)"),
        (
            Quant,
            "clip_sigma",
            1e300,
            r"quant.clip_sigma: found 1e\+300, needed above 0, at most 1000. Try: .*clip_sigma=12.85",
        ),
        (Quant, "embed_clip_sigma", 1001, "quant.embed_clip_sigma: found 1001.0, needed above 0, at most 1000"),
        (Quant, "clip_sigma", 0, "quant.clip_sigma: found 0.0, needed above 0"),
        (
            Quant,
            "seq_len",
            32769,
            r"quant.seq_len: found 32769, needed at most calibration_tokens \(32768\). Try: .*seq_len=32768",
        ),
        (Hardware, "threads", 10**6, "hardware.threads: found 1000000, needed at most 1024. Try: .*threads=1$"),
        (Hardware, "nccl_timeout", 1e18, r"hardware.nccl_timeout: found 1e\+18, needed at most 86400. Try: "),
        (Model, "mlp_ratio", 1e300, r"model.mlp_ratio: found 1e\+300, needed at most 64. Try: .*mlp_ratio=3$"),
        (Model, "loop_passes", 10**6, "model.loop_passes: found 1000000, needed 1 to 10000. Try: .*loop_passes=2$"),
        (Model, "num_layers", 10**9, "model.num_layers: found 1000000000, needed 1 to 10000. Try: .*num_layers=4$"),
        (Model, "dim", 1 << 17, "model.dim: found 131072, needed 1 to 10000. Try: .*dim=128$"),
        (Select, "clip_sigma", 1e9, r"select.clip_sigma: found 1000000000.0, needed above 0, at most 1000"),
        (Train, "qat_embed_clip_sigma", 1e9, "train.qat_embed_clip_sigma: found 1000000000.0, needed above 0"),
        (Model, "dim", 131, r"model.dim: found 131, needed a multiple of num_heads \(2\)"),
        (Model, "num_heads", 5, r"model.dim: found 96, needed a multiple of num_heads \(5\)"),
        (Model, "num_kv_heads", 3, "needed a divisor of 2"),
        (Model, "loop_last", 2, "model.loop_last: found 2, needed 0 to 1. Try: dvc exp run -S model.loop_last=1"),
        (Model, "activation", "gelu", "needed one of relu2, leaky_relu2"),
        (Model, "xsa_layers", 5, "model.xsa_layers: found 5, needed 0 to 2"),
        (Model, "rope_dims", 50, "needed even, 0 to 48"),
        (Train, "gpus", 3, "needed 1, 2, 4 or 8"),
        (Train, "batch_tokens", 1000, r"needed a multiple of seq_len \(256\)"),
        (
            Train,
            "seq_len",
            4096,
            r"train.seq_len: found 4096, needed at most micro_batch_tokens \(2048\). Try: .*=2048",
        ),
        (Train, "micro_batch_tokens", 512 * 3, "needed a divisor of batch_tokens"),
        (Train, "seconds", 5.0, "needed more than reserve_seconds"),
        (Train, "ema_decays", [0.9, 0.9], "needed distinct decays"),
        (Train, "ema_decays", 0.9, "needed a list"),
        (Train, "ema_decays", [0.9, "x"], r"train.ema_decays\[1\]: found 'x', needed a finite number"),
        (Optim, "beta1", 1, "optim.beta1: found 1.0, needed 0 to 1"),
        (Hardware, "compile", True, "hardware.compile: found True, needed one of auto, on, off"),
        (Data, "source", "web", "needed one of docstrings, jsonl, text, fineweb"),
    ],
)
def test_a_bad_value_is_named_with_what_is_needed(
    section: type[Section], key: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_dict(section, {**to_dict(section()), key: value})
    assert caught.value.code == Exit.CONFIG


def test_a_hint_s_own_example_would_pass() -> None:
    """What an error tells the user to type must not be refused in turn."""
    for section in SECTIONS:
        for field in dataclasses.fields(section):  # type: ignore[arg-type]
            for wrong in (-1, 10**9, -1.0):
                _, error = outcome(section, field.name, wrong)
                _, found, example = error.partition(f"dvc exp run -S {section.SECTION}.{field.name}=")
                if found:
                    assert outcome(section, field.name, yaml.safe_load(example))[1] == "", error


def test_an_integer_is_taken_where_a_number_is_asked_for() -> None:
    assert from_dict(Train, {**to_dict(Train()), "seconds": 700}).seconds == 700.0


@pytest.mark.parametrize("seeds", [[], [1, 1], [1, True], [-1], ["1"], [1.0], 42, None, [1, "1"], [1 << 63]])
def test_bad_seeds_are_refused(tmp_path: Path, seeds: object) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"seeds": seeds}))
    with pytest.raises(
        ConfigError, match=r"seeds: found .*, needed distinct non-negative integers below 2\^63. Try: dvc exp run -S"
    ):
        load_seeds(path)


@pytest.mark.parametrize("text", ["-1", str(2**63), str(2**70), "9" * 5000, "1.0", "", "x", "0x10", "²"])
def test_a_bad_seed_of_the_command_line_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--seed: found .*, needed an integer from 0 to 2\^63 - 1. Try: --seed 42$"):
        read_seed(text)


@pytest.mark.parametrize("seed", [0, 42, 2**63 - 1])
def test_a_seed_that_torch_takes_is_read(seed: int) -> None:
    assert read_seed(str(seed)) == seed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "found list, needed a mapping of sections"),
        ("", "found NoneType, needed a mapping"),
        ("quant:", "section 'quant' is missing"),
        ("quant: 3", "section 'quant' is missing"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(Quant, path)
    assert "\n" not in str(caught.value)


def test_broken_json_is_one_line_too(tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load(Quant, path)


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"no such file\. Try: run from the repository's top folder"):
        load(Quant, tmp_path / "params.yaml")


def test_not_text_at_all(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00quant")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(Quant, path)


def test_a_fixed_key_has_one_value_and_the_others_are_free() -> None:
    """As in a program that was built for some parameters."""

    @dataclasses.dataclass(frozen=True)
    class Made(Section):
        SECTION = "made"
        FIXED = ("shares",)
        shares: tuple[float, ...] = (0.5,)
        steps: int = 1

    assert from_dict(Made, {"shares": [0.5], "steps": 7}) == Made(steps=7)
    with pytest.raises(
        ConfigError, match=r"made\.shares: found \[0\.25\], needed \(0\.5,\), which this program was built"
    ):
        from_dict(Made, {"shares": [0.25], "steps": 7})


def test_the_words_on_and_off_are_words_as_dvc_writes_them(tmp_path: Path) -> None:
    document = {"hardware": to_dict(Hardware())}
    path = tmp_path / "params.yaml"
    path.write_text(
        yaml.safe_dump(document).replace("compile: auto", "compile: on").replace("graphs: auto", "graphs: off")
    )
    found = load(Hardware, path)
    assert (found.compile, found.graphs, found.strict_clock) == ("on", "off", False)


def test_some_keys_alone_are_checked_with_all_others(tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text(json.dumps({"quant": to_dict(Quant(bits=5))}))
    assert pick(Quant, "bits", "steps", path=path) == {"bits": 5, "steps": "row"}
    path.write_text(json.dumps({"quant": to_dict(Quant()) | {"damping": 0}}))
    with pytest.raises(ConfigError, match=r"quant\.damping"):
        pick(Quant, "bits", path=path)
