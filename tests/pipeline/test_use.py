"""Profiles: an overlay into params.yaml, every line that it does not name left as it is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from golf.params.base import from_dict
from golf.runtime.errors import ConfigError, FairwayError
from pipeline import use

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_written_and_the_default_brings_every_byte_back(here: Path, name: str) -> None:
    before = here.read_text()
    changes = use.use(name)
    document = yaml.safe_load(here.read_text())
    for section, values in yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text()).items():
        assert document[section] == values if section == "seeds" else values.items() <= document[section].items()
    assert changes
    assert use.use(name) == []
    use.use("default")
    assert here.read_text() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_valid_and_says_in_its_first_line_what_it_is(here: Path, name: str) -> None:
    use.use(name)
    document = yaml.safe_load(here.read_text())
    for section, kind in use.sections().items():
        from_dict(kind, document[section])
    assert (ROOT / "profiles" / f"{name}.yaml").read_text().startswith("# ")


def test_nothing_of_the_profile_before_is_left(here: Path) -> None:
    use.use("record")
    record = here.read_text()
    use.use("smoke")
    use.use("record")
    assert here.read_text() == record


def test_what_no_profile_names_stays(here: Path) -> None:
    here.write_text(here.read_text().replace("path: data/source/train ", "path: my/text.jsonl "))
    use.use("smoke")
    assert yaml.safe_load(here.read_text())["data"]["path"] == "my/text.jsonl"
    assert "# your files (jsonl, text)" in here.read_text()


def test_the_record_is_eight_gpus_for_ten_minutes_under_the_cap(here: Path) -> None:
    use.use("record")
    document = yaml.safe_load(here.read_text())
    train = document["train"]
    assert (train["gpus"], train["seconds"], train["steps"]) == (8, 600.0, 0)
    assert train["micro_batch_tokens"] * train["gpus"] == train["batch_tokens"]
    assert len(document["seeds"]) == 3
    assert document["budget"]["artifact_bytes"] == 16_000_000
    assert (ROOT / document["stats"]["baseline"]).is_file()


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (("seeds",), [7], "seeds:  # one"),
        (("optim", "eps"), 1e-9, "  eps: 1.0e-09"),
        (("model", "ln_scale"), False, "  ln_scale: false  # inputs"),
        (("train", "ema_decays"), [], "  ema_decays: []  # exponential"),
        (("data", "path"), "a: b", "  path: 'a: b'  # your"),
        (("train", "seq_len"), 64, "  seq_len: 64  # tokens"),
    ],
)
def test_replacing_keeps_comments_and_gives_the_value_back(place: tuple[str, ...], value: object, line: str) -> None:
    before = (ROOT / "params.yaml").read_text()
    text = use.replace(before, place, value)
    document = yaml.safe_load(text)
    assert (document[place[0]] if len(place) == 1 else document[place[0]][place[1]]) == value
    assert any(found.startswith(line) for found in text.splitlines())
    original = yaml.safe_load(before)
    (document if len(place) == 1 else document[place[0]])[place[-1]] = (
        original[place[0]] if len(place) == 1 else original[place[0]][place[1]]
    )
    assert document == original


def test_an_inline_list_as_dvc_may_write_it_is_replaced(here: Path) -> None:
    text = here.read_text().replace("  ema_decays:  # exponential", "  ema_decays: [0.5]  # exponential")
    text = text.replace("    - 0.98\n    - 0.99\n", "")
    assert yaml.safe_load(use.replace(text, ("train", "ema_decays"), [0.9]))["train"]["ema_decays"] == [0.9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {layers: 3}", "unknown key model.layers; known: num_layers"),
        ("nets: {a: 1}", "unknown section 'nets'; known: seeds"),
        ("quant: 5", "quant: found 5, needed a mapping of its keys"),
        ("seeds: 7", "seeds: found 7, needed a list"),
        ("- a", "found list, needed a mapping of sections"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_profile_that_is_none_is_refused(here: Path, text: str, message: str) -> None:
    Path("profiles/mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        use.use("smoke")


def test_a_section_in_one_line_is_refused_and_no_other_section_s_key_taken_for_its_own(here: Path) -> None:
    text = here.read_text()
    start, end = text.index("\nselect:") + 1, text.index("\nquant:") + 1
    here.write_text(
        before := text[:start] + "select: " + json.dumps(yaml.safe_load(text)["select"]) + "\n" + text[end:]
    )
    with pytest.raises(ConfigError, match=r"select\.\w+: found no line of its own"):
        use.use("smoke")
    assert here.read_text() == before


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), (None, "no such file")])
def test_a_params_yaml_that_is_none_is_one_error(here: Path, text: str | None, message: str) -> None:
    here.unlink() if text is None else here.write_text(text)
    with pytest.raises(FairwayError, match=f"params.yaml: {message}"):
        use.use("smoke")


def test_a_profile_with_a_bad_value_leaves_params_as_they_were(here: Path) -> None:
    before = here.read_text()
    Path("profiles/mine.yaml").write_text("quant: {bits: 40}")
    with pytest.raises(ConfigError, match="needed 2 to 8"):
        use.use("mine")
    assert here.read_text() == before
    assert sorted(path.name for path in here.parent.iterdir()) == ["params.yaml", "profiles"]


@pytest.mark.parametrize("name", ["nope", "", "../params"])
def test_an_unknown_profile_is_one_error_that_lists_the_known(here: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "use", name],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert f"known: default, {', '.join(NAMES)}" in done.stderr
