"""The ablations on a model of a few steps; a row that could not be trained is told before the first one is."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import ablations
from benchmarks.ablations import PUBLISHED, SMALL, without_each
from golf.runtime.errors import ConfigError
from tests.golf.train.tiny import write_shards
from tests.stages import world

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["train.steps=4", "train.batch_tokens=128", "train.micro_batch_tokens=64", "train.seq_len=32", "model.dim=32"]


CHANGES = [*SHORT, f"tokenizer.vocab_size={world.VOCABULARY}"]


def test_rows_are_differences_from_the_whole_and_are_kept_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    world.make(tmp_path)
    shards = tmp_path / "data/shards"
    shutil.copy(shards / "train_000000.bin", shards / "heldout_000000.bin")
    out, changes = tmp_path / "out.json", [argument for change in CHANGES for argument in ("--set", change)]
    folders = ["--shards", str(shards), "--tokenizer", str(tmp_path / "data/tokenizer")]
    only = ["--only", "xsa", "--only", "late_qat", "--seeds", "1", "2", "--heldout-tokens", "64", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["ablations", *folders, *changes, *only])
    score, scored = ablations.score, []

    def third_row_fails(*arguments: object) -> ablations.Score:
        scored.append(arguments)
        if len(scored) > 4:
            raise RuntimeError
        return score(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ablations, "score", third_row_fails)
    with pytest.raises(RuntimeError):
        ablations.main()
    assert {name: len(row) for name, row in json.loads(out.read_text())["rows"].items()} == {"all": 2, "xsa": 2}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("all corrections")
    assert printed[1].startswith("without xsa")


def test_every_correction_can_be_taken_back_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shards = write_shards(tmp_path / "shards")
    configs = without_each(PUBLISHED, None, [*SMALL, *SHORT], shards)
    assert list(configs) == [None, *PUBLISHED]
    sizes = ["train.steps=4", "train.batch_tokens=4096", "train.micro_batch_tokens=2048"]
    record = without_each(["document_mask"], "r1061", sizes, shards)["document_mask"]
    assert (record.model.document_mask, record.train.pack) == (False, "windows")


def test_what_a_profile_does_not_have_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    message = r"late_qat: these parameters do not have it. Try: --only bos_mask --only document_mask --only grad_clip"
    with pytest.raises(ConfigError, match=message):
        without_each(PUBLISHED, "r1061", ["train.steps=4"], tmp_path)
    with pytest.raises(ConfigError, match=r"clock would decide"):
        without_each(["xsa"], "r1061", [], tmp_path)
