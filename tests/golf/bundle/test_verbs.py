import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from golf.bundle import program, scoring, training
from golf.data.bytecount import ByteTable
from golf.data.shards import read_split, write_shard
from golf.model.weights import load_state
from golf.params.hardware import Hardware
from golf.quant import calibration, reserve
from golf.runtime.errors import DataError, FairwayError, MissingInput
from golf.scoring.recorded import RecordedForward, forward_of, recordable
from tests.programs import arguments, with_artifact
from tests.ranks import run_ranks
from tests.stages.world import VOCABULARY

RANK = """
import sys
from golf.bundle import program
program.run(program.parser().parse_args(sys.argv[1:]))
sys.stdout.write("rank done\\n")
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_artifact(tmp_path_factory.mktemp("verbs"))


def run(world: Path, verb: str, **options: object) -> None:
    program.run(program.parser().parse_args(arguments(world, verb, **options)))


def test_evaluate_writes_the_score_and_every_log_probability(world: Path, tmp_path: Path) -> None:
    run(world, "evaluate", out=tmp_path / "new/out")
    result = json.loads((tmp_path / "new/out/result.json").read_text())
    nll = np.load(tmp_path / "new/out/nll.npy")
    assert nll.dtype == np.float64
    assert nll.shape == (1999,)
    assert result["final_bpb"] == pytest.approx(nll.sum() / math.log(2) / result["bytes"])
    assert result["attention"] == "sdpa"
    assert result["ranks"] == 1


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_a_gpu_scores_with_the_kernels(world: Path, monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    monkeypatch.setattr(scoring, "kernels_available", lambda device: (True, ""))
    hardware = Hardware(device="cpu", kernels=kernels)
    with scoring.opened(world / "model.golf", hardware) as subject:
        assert not subject.model.kernels, "an audit holds distributions against scores"
        scoring.hasten(subject.model, hardware, torch.device("cpu"))
        assert subject.model.kernels is (kernels == "auto")


@pytest.mark.parametrize(("graphs", "found"), [("auto", True), ("off", False)])
def test_scores_are_not_recorded_where_that_is_off(world: Path, graphs: str, found: bool) -> None:
    """What cannot be recorded says to turn ``hardware.graphs`` off: it must be of use here too."""
    hardware = Hardware(device="cpu", graphs=graphs)
    with scoring.opened(world / "model.golf", hardware) as subject:
        scoring.hasten(subject.model, hardware, torch.device("cpu"))
        subject.model.kernels, subject.model.attention = True, "fa3"  # as on a GPU
        assert isinstance(forward_of(subject.model), RecordedForward) is found
        assert recordable(subject.model) is found


def test_the_output_folder_is_asked_for_first(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FairwayError, match="needed a writable folder") as error:
        run(world, "evaluate", out=tmp_path / "file", artifact=world / "params.json")
    assert error.value.code == 74


@pytest.mark.parametrize("key", ["artifact", "shards", "bytes", "params"])
def test_missing_inputs_are_named(world: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(MissingInput, match=f"--{key} nowhere"):
        run(world, "evaluate", out=tmp_path, **{key: "nowhere"})


@pytest.mark.parametrize("key", ["artifact", "bytes", "params", "shards"])
def test_a_folder_for_a_file_or_a_file_for_a_folder_is_named(world: Path, tmp_path: Path, key: str) -> None:
    kind, given = ("folder", world / "model.golf") if key == "shards" else ("file", world)
    with pytest.raises(MissingInput, match=f"--{key} {given}: no such {kind}"):
        run(world, "evaluate", out=tmp_path, **{key: given})


def test_sidecars_count_the_bytes_and_must_be_of_every_shard(world: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(world / "data/shards", shards)
    tokens = read_split(shards, "val")
    write_shard(shards / "val_bytes_000000.bin", np.full(tokens.size, 7))
    run(world, "evaluate", out=tmp_path, shards=shards)
    assert json.loads((tmp_path / "result.json").read_text())["bytes"] == 7 * (tokens.size - 1)
    write_shard(shards / "val_bytes_000001.bin", np.full(5, 7))
    with pytest.raises(DataError, match="byte sidecars of 2,005 tokens, needed the 2,000 of its shards"):
        run(world, "evaluate", out=tmp_path, shards=shards)


def test_a_byte_table_of_another_vocabulary_is_refused(world: Path, tmp_path: Path) -> None:
    other = tmp_path / "bytes.safetensors"
    ByteTable(torch.ones(9, dtype=torch.int16), torch.ones(9).bool(), torch.ones(9).bool()).save(other)
    with pytest.raises(DataError, match="byte table of 9 tokens, needed 300"):
        run(world, "evaluate", out=tmp_path, bytes=other)
    shards = shutil.copytree(world / "data/shards", tmp_path / "shards")
    write_shard(shards / "val_bytes_000000.bin", np.full(2000, 7))  # then the table counts nothing
    with pytest.raises(DataError, match="byte table of 9 tokens, needed 300"):
        run(world, "evaluate", out=tmp_path, bytes=other, shards=shards)


def test_train_fits_the_artifact_to_what_the_program_leaves(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "train_gpt.py"
    program.write_bytes(bytes(4_000))
    given = small_training(world, tmp_path, quant={"fit": True}, budget={"artifact_bytes": 14_000})
    monkeypatch.setattr("sys.argv", [str(program), "train"])
    run(world, "train", out=tmp_path / "out", **given)
    assert 0 <= 10_000 - (tmp_path / "out/model.golf").stat().st_size < 256


def test_train_makes_an_artifact_that_evaluate_takes(world: Path, tmp_path: Path) -> None:
    given = small_training(world, tmp_path)
    blobs = []
    for name in ("one", "two"):
        run(world, "train", out=tmp_path / name, **given)
        blobs.append((tmp_path / name / "model.golf").read_bytes())
        assert not list((tmp_path / name).glob(".checkpoints/*"))
    assert blobs[0] == blobs[1]
    run(world, "evaluate", artifact=tmp_path / "one/model.golf", out=tmp_path / "score")
    assert json.loads((tmp_path / "score/result.json").read_text())["final_bpb"] > 0


def test_train_leaves_of_its_clock_what_calibration_needs_and_no_more_is_read(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "MARGIN", 20.0)  # a busy machine ends its last step some hundredths late
    clocked = {"steps": 0, "seconds": 6.0, "gpus": 1, "reserve_seconds": None}
    run(world, "train", out=tmp_path / "out", **small_training(world, tmp_path, train=clocked))
    said = capfd.readouterr().err
    assert (tmp_path / "out/model.golf").is_file()
    reserved = re.search(r"([\d.]+) of 6 s are set aside for reads of training text", said)
    used = re.search(r"calibrated on 256 tokens in ([\d.]+) s, of ([\d.]+) left", said)
    assert reserved is not None
    assert used is not None, said
    assert 0 < float(reserved[1]) < 6


def test_train_reads_no_more_than_the_clock_leaves(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.train_among

    def late(*arguments: object) -> object:
        return dataclasses.replace(real(*arguments), left_seconds=-1.0)

    monkeypatch.setattr(training, "train_among", late)
    monkeypatch.setattr(calibration, "batch_windows", lambda windows, device: 1)
    run(world, "train", out=tmp_path / "out", **small_training(world, tmp_path))
    assert "calibrated on 64 tokens in" in capfd.readouterr().err, "one pass of four"
    own = small_training(world, tmp_path / "own", quant={"calibration": "self"})
    run(world, "train", out=tmp_path / "out", **own)
    assert "calibrated on 256 tokens in" in capfd.readouterr().err, "what the model writes is not limited"


@pytest.mark.slow
def test_ranks_train_and_calibrate_together_and_one_writes(world: Path, tmp_path: Path) -> None:
    given = small_training(world, tmp_path)
    run(world, "train", out=tmp_path / "alone", **given)
    words = arguments(world, "train", out=tmp_path / "ranks", **given)
    printed = run_ranks(2, *words, program=RANK)
    assert printed.count("rank done") == 2
    weights = [load_state(tmp_path / name / "select", "model") for name in ("alone", "ranks")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-6, msg=name)
    sizes = [(tmp_path / name / "model.golf").stat().st_size for name in ("alone", "ranks")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def small_training(world: Path, tmp_path: Path, **changed: dict) -> dict:
    """Arguments of a training of three steps, with ``changed`` parameters by section."""
    sections = yaml.safe_load((world / "params.yaml").read_text())
    sections["model"] |= {"num_layers": 2, "dim": 32, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 8}
    sections["model"] |= {"xsa_layers": 1, "bigram_buckets": 64, "bigram_dim": 16}
    sections["train"] |= {"steps": 3, "batch_tokens": 256, "micro_batch_tokens": 128, "seq_len": 64}
    sections["select"] |= {"tokens": 256, "seq_len": 64}
    sections["quant"] |= {"calibration_tokens": 256, "heldout_tokens": 256, "seq_len": 64}
    for section, values in changed.items():
        sections[section] |= values
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "params.json").write_text(json.dumps(sections))
    shards = tmp_path / "shards"
    shutil.copytree(world / "data/shards", shards)
    shutil.copy(shards / "val_000000.bin", shards / "heldout_000000.bin")
    (shards / "shards.json").write_text(json.dumps({"vocab_size": VOCABULARY, "bos_id": 1, "splits": {}}))
    return {"artifact": None, "shards": shards, "params": tmp_path / "params.json", "seed": 5}
