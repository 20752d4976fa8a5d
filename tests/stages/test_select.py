import shutil
from pathlib import Path

import pytest

from golf.model.weights import load_spec, load_state
from golf.runtime.errors import DataError, MissingInput
from stages import select
from tests.golf.quant import tiny
from tests.stages.world import report, write_params

SEED = 42


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages.select", "--seed", str(SEED)])
    tiny.write_data(tmp_path)
    tiny.write_run(
        tmp_path / f"runs/train/{SEED}", raw=tiny.state(1), ema_0_98=tiny.state(2), swa=tiny.state(3)
    )  # fmt: skip
    parameters(tmp_path)
    return tmp_path


def parameters(root: Path, **changed: object) -> None:
    write_params(root, select={"tokens": 512, "seq_len": 32, "bits": 4, "clip_sigma": 3.0, **changed})


def test_it_writes_the_best_weights_and_reports_every_candidate(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    select.main()
    numbers = report(workspace, "select", SEED)
    assert list(numbers["post_bpb"]) == list(numbers["pre_bpb"]) == ["raw", "ema-0.98", "swa", "soup"]
    assert numbers["chosen"] == min(numbers["post_bpb"], key=numbers["post_bpb"].get)
    best = numbers["post_bpb"][numbers["chosen"]]
    said = capsys.readouterr().out
    assert said == f"select: {numbers['chosen']}, {best:.4f} bpb after quantisation, the best of 4\n"
    assert numbers["seed"] == SEED
    assert numbers["tokens"] == 512
    folder = workspace / f"runs/select/{SEED}"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "model.json", "candidates.csv"}
    assert load_spec(folder) == tiny.SPEC
    assert set(load_state(folder, "model")) == set(tiny.state())
    timing = report(workspace, "timing/select", SEED)
    assert set(timing["parts"]) == {"read", "score", "write"}
    assert timing["device"].startswith("cpu")


def test_the_report_holds_no_time_host_or_path_and_twice_is_the_same_bytes(workspace: Path) -> None:
    files = ["reports/select/42.json", "runs/select/42/model.safetensors", "runs/select/42/candidates.csv"]
    select.main()
    before = [(workspace / file).read_bytes() for file in files]
    shutil.rmtree(workspace / "runs/select")
    select.main()
    assert before == [(workspace / file).read_bytes() for file in files]
    assert str(workspace) not in (workspace / files[0]).read_text()


def test_only_held_out_text_is_read(workspace: Path, opened: list[str]) -> None:
    select.main()
    assert set(opened) == {"heldout_000000.bin"}


def test_validation_and_training_text_need_not_be_there(workspace: Path) -> None:
    select.main()
    expected = report(workspace, "select", SEED)
    for name in ("val_000000.bin", "train_000000.bin"):
        (workspace / "data/shards" / name).unlink()
    select.main()
    assert report(workspace, "select", SEED) == expected


def test_asked_for_raw_alone_it_takes_raw(workspace: Path) -> None:
    parameters(workspace, candidates=["raw"])
    select.main()
    assert report(workspace, "select", SEED)["chosen"] == "raw"
    raw = (workspace / f"runs/train/{SEED}/raw.safetensors").read_bytes()
    assert (workspace / f"runs/select/{SEED}/model.safetensors").read_bytes() == raw


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("runs/train/42/model.json", "model.json"),
        ("data/tokenizer/bytes.safetensors", "no byte table"),
        ("data/shards/heldout_000000.bin", "no shard of the split 'heldout'"),
    ],
)
def test_a_missing_input_is_one_error_and_nothing_is_written(workspace: Path, missing: str, message: str) -> None:
    (workspace / missing).unlink()
    with pytest.raises(MissingInput, match=message):
        select.main()
    assert not (workspace / "runs/select").exists()
    assert not (workspace / "reports").exists()


def test_a_broken_candidate_keeps_the_former_result(workspace: Path) -> None:
    select.main()
    before = (workspace / f"runs/select/{SEED}/model.safetensors").read_bytes()
    path = workspace / f"runs/train/{SEED}/swa.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"swa.safetensors"):
        select.main()
    assert (workspace / f"runs/select/{SEED}/model.safetensors").read_bytes() == before
    assert [path.name for path in (workspace / "runs/select").iterdir()] == [str(SEED)]
