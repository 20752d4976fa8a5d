"""The stage on a finished graph of one tiny seed; what the folder holds is tested with golf.records."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from golf.params.base import to_dict
from golf.params.hardware import Hardware
from golf.runtime.errors import DataError, MissingInput
from stages.submission import FOLDER, main
from tests.golf.records.test_folder import made, record  # noqa: F401 - `made` is a fixture
from tests.stages.world import write


@pytest.fixture
def graph(made: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    run, top, result = record(made), made["top"], made["result"]
    write(
        tmp_path / "params.yaml", yaml.safe_dump({**run.params, "hardware": {**run.params["hardware"], "threads": 1}})
    )
    size = made["code"] + made["model"]
    reports = {
        "train": {"steps": 20},
        "quantize": {"pre_bpb": 5.0, "post_bpb": 5.1},
        "evaluate": {"bpb": result["final_bpb"], "sliding_bpb": 6.0, "roundtrip_bpb": 6.0,
                     "nats_per_token": result["nats"] / result["tokens"], "tokens": result["tokens"],
                     "bytes": result["bytes"]},
        "gate": {"total_bytes": size, "code_bytes": made["code"], "model_bytes": made["model"]},
        "audit": {"passed": True},
    }  # fmt: skip
    for stage, numbers in reports.items():
        write(tmp_path / f"reports/{stage}/42.json", {"seed": 42, **numbers})
    for stage, by_seed in run.timings.items():
        write(tmp_path / f"reports/timing/{stage}/42.json", by_seed[42])
    write(tmp_path / "reports/aggregate.json", {"seeds": [42], **run.aggregate})
    for source, target in {
        "train_gpt.py": "build", "check_gpt.py": "build", "model.golf": "runs/compress/42",
        "nll.npy": "runs/evaluate/42", "val_000000.bin": "data/shards",
        "tokenizer.model": "data/tokenizer", "bytes.safetensors": "data/tokenizer",
        "42.csv": "reports/curves",
    }.items():  # fmt: skip
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(top / source, tmp_path / target / source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages.submission"])
    return tmp_path


def test_the_folder_is_written_and_has_run(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert "runs from itself alone" in capsys.readouterr().out
    assert json.loads((FOLDER / "submission.json").read_text())["seeds"] == [42]
    assert json.loads((FOLDER / "params.json").read_text())["hardware"] == to_dict(Hardware())  # the reader's machine
    nll = np.load("runs/evaluate/42/nll.npy")
    np.save("runs/evaluate/42/nll.npy", nll * 0.999)
    with pytest.raises(DataError, match=r"nll\.npy: score: nats_per_token: reported .*evaluate@42"):
        main()
    np.save("runs/evaluate/42/nll.npy", nll[::-1])
    before = (FOLDER / "submission.json").read_bytes()
    with pytest.raises(DataError, match="records folder, seed 42"):
        main()
    assert (FOLDER / "submission.json").read_bytes() == before  # the old folder stays whole
    assert sorted(path.name for path in FOLDER.parent.iterdir()) == ["check_gpt.py", "submission", "train_gpt.py"]


def test_what_is_missing_or_stale_is_named_before_anything_runs(graph: Path) -> None:
    write(graph / "reports/aggregate.json", {"seeds": [42, 7]})
    with pytest.raises(DataError, match=r"found seeds \[42, 7\], needed \[42\]. Try: dvc repro aggregate"):
        main()
    Path("reports/aggregate.json").unlink()
    with pytest.raises(MissingInput, match="dvc repro aggregate"):
        main()
    write(graph / "reports/aggregate.json", {"seeds": [42], "bpb_mean": 6.0, "bpb_std": None, "verdict": "",
          "flags": [], "test": None, "test_with_margin": None})  # fmt: skip
    Path("runs/evaluate/42/nll.npy").unlink()
    with pytest.raises(MissingInput, match=r"runs/evaluate/42/nll\.npy"):
        main()
    Path("reports/timing/train/42.json").unlink()
    with pytest.raises(MissingInput, match="dvc repro train@42"):
        main()
    assert not FOLDER.exists()
