"""A records folder of a tiny model, written and run from itself alone."""

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.codec.model import encode_model
from golf.data.bytecount import ByteTable
from golf.data.shards import write_shard
from golf.model.weights import ModelSpec, build, tensor_groups
from golf.params.audit import Audit
from golf.params.budget import Budget
from golf.params.compress import Compress
from golf.params.data import Data
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.stats import Stats
from golf.params.tokenizer import Tokenizer
from golf.params.train import Train
from golf.quant.fast import quantize_fast
from golf.quant.quantized import dequantize_model
from golf.records.folder import all_params, check_folder, compare_scores, git_author, requirements, write_folder
from golf.records.papers import readme, training_log
from golf.records.record import Record, submission
from golf.records.results import Results
from golf.runtime.errors import DataError, MissingInput
from golf.scoring.evaluator import evaluate
from tests.programs import checker, shipped

VOCABULARY, TOKENS = 64, 700
EVAL = Eval(ttt="sgd", seq_len=32, stride=16, ttt_chunk_tokens=256)
MODEL = Model(
    num_layers=1, dim=16, num_heads=2, num_kv_heads=1, rope_dims=4, xsa_layers=1, bigram_buckets=0, value_embed_layers=0
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Program, artifact, shards, byte table and the scores of the evaluation."""

    top = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    spec = ModelSpec(MODEL, VOCABULARY)
    model = build(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    quantized = quantize_fast(model.state_dict(), tensor_groups(model), 6, 12.85, 7, 14.0, spec=spec)
    blob, _ = encode_model(quantized, Compress(codecs=("lzma",), layouts=("row",)))
    (top / "model.golf").write_bytes(blob)
    program = top / "train_gpt.py"
    program.write_bytes(shipped())
    (top / "check_gpt.py").write_bytes(checker())
    tokens = torch.randint(2, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(1))
    tokens[0] = 1
    write_shard(top / "val_000000.bin", tokens.numpy().astype(np.uint16))
    columns = (torch.ones(VOCABULARY, dtype=torch.int16), torch.zeros(VOCABULARY, dtype=torch.bool))
    table = ByteTable(*columns, torch.zeros(VOCABULARY, dtype=torch.bool))
    table.save(top / "bytes.safetensors")
    (top / "tokenizer.model").write_bytes(b"a tokenizer")
    result = evaluate(build(spec, dequantize_model(quantized)), tokens, table, EVAL)
    np.save(top / "nll.npy", result["nll"])
    (top / "42.csv").write_text("step,loss,lr\n10,4.5,0.1\n20,4.25,0.05\n")
    return {"top": top, "result": result, "code": program.stat().st_size, "model": len(blob)}


def record(made: dict, **changes: object) -> Record:
    result = made["result"]
    results = Results(
        seeds=(42,),
        bpb={42: result["final_bpb"]},
        losses={42: result["nats"] / result["tokens"]},
        tokens=result["tokens"],
        bytes=result["bytes"],
        code_bytes=made["code"],
        total_bytes={42: made["code"] + made["model"]},
        flags=(),
    )
    aggregate = {"bpb_mean": result["final_bpb"], "bpb_std": None, "verdict": "no claim", "flags": ["1 seed"],
                 "test": None, "test_with_margin": None}  # fmt: skip
    evaluated = {key: result[key] for key in ("sliding_bpb", "roundtrip_bpb")}
    params = all_params(
        seeds=[42], budget=Budget(), data=Data(), tokenizer=Tokenizer(), model=MODEL, optim=Optim(), train=Train(),
        select=Select(), quant=Quant(), compress=Compress(), eval=EVAL, audit=Audit(), stats=Stats(),
    )  # fmt: skip
    whole = Record(
        results=results,
        aggregate=aggregate,
        reports={"train": {42: {"steps": 20}}, "quantize": {42: {"pre_bpb": 5.0, "post_bpb": 5.1}},
                 "evaluate": {42: evaluated}},
        timings={"train": {42: {"started_at": 1_700_000_000.0, "seconds": 12.34, "device": "cpu, 1 threads"}},
                 "select": {42: {"started_at": 1_700_000_020.0, "seconds": 1.0, "text_seconds": 0.0}},
                 "quantize": {42: {"started_at": 1_700_000_030.0, "seconds": 4.0, "text_seconds": 1.5}},
                 "evaluate": {42: {"started_at": 1_700_100_000.0, "program": {"clock_seconds": 3.21}}}},
        params=params,
        author="A. Person",
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def write(made: dict, folder: Path, run: Record | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    top = made["top"]
    sources = {"program": top / "train_gpt.py", "artifacts": {42: top / "model.golf"}, "tokenizer": top, "curves": top}
    write_folder(folder, run or record(made), **sources)
    return folder


def test_the_folder_runs_from_itself_alone(made: dict, tmp_path: Path) -> None:
    folder = write(made, tmp_path / "folder")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "submission.json", "params.json", "requirements.txt", "train_gpt.py", "check_gpt.py",
        "train_seed42.log", "model_seed42.golf", "tokenizer.model", "bytes.safetensors",
    }  # fmt: skip
    assert zipfile.is_zipfile(folder / "train_gpt.py")
    scores = made["top"] / "nll.npy"
    found = check_folder(folder, [42], shards=made["top"], scores={42: scores}, hardware=Hardware(threads=1))
    assert found[42] < 1e-4
    other = tmp_path / "other.npy"
    np.save(other, np.load(scores) + 0.01)
    with pytest.raises(DataError, match="records folder, seed 42"):
        check_folder(folder, [42], shards=made["top"], scores={42: other}, hardware=Hardware(threads=1))


def test_the_same_run_gives_the_same_folder(made: dict, tmp_path: Path) -> None:
    first, second = (write(made, tmp_path / name) for name in ("first", "second"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_submission_has_the_keys_that_records_share(made: dict) -> None:
    found = submission(record(made))
    assert found["date"] == "2023-11-16"  # of the newest timing, not of today
    assert found["author"] == "A. Person"
    assert found["bytes_total"] == made["code"] + made["model"]
    assert found["seed_results"]["42"]["val_bpb"] == found["val_bpb"]
    assert found["seed_results"]["42"]["eval_time_s"] == 3.2
    assert found["track"] == "non_record_16mb"
    assert "not on the whole validation split" in found["non_record_reason"]
    assert found["compliance"]["artifact_under_16mb"] is True
    assert found["compliance"]["three_seeds"] is False
    assert "author" not in submission(record(made, author=""))
    json.dumps(found, allow_nan=False)


def test_a_whole_record_run_has_no_obstacle(made: dict) -> None:
    run = record(made)
    seeds = (1, 2, 3)
    results = dataclasses.replace(
        run.results, seeds=seeds, tokens=62_021_632, bytes=151_080_363, bpb=dict.fromkeys(seeds, 1.1),
        losses=dict.fromkeys(seeds, 1.8), total_bytes=dict.fromkeys(seeds, 15_900_000),
    )  # fmt: skip
    train = run.params["train"] | {"steps": 0}
    timing = {seed: {"started_at": 1.0, "seconds": 599.9, "device": "8 x H100"} for seed in seeds}
    run = dataclasses.replace(
        run, results=results, params={**run.params, "train": train}, timings={"train": timing, "evaluate": timing}
    )
    assert run.obstacles() == []
    late = {**run.timings, "evaluate": {**timing, 2: {"seconds": 600.4}}}
    assert (
        run.obstacles()
        != dataclasses.replace(run, timings=late).obstacles()
        == ["evaluate: no proof of 600 s or less for seed 2"]
    )
    flagged = dataclasses.replace(results, flags=("seed 1: its training was resumed",))
    assert dataclasses.replace(run, results=flagged).obstacles() == ["seed 1: its training was resumed"]


def test_the_log_reads_as_the_public_ones(made: dict) -> None:
    text = training_log(record(made), 42, made["top"] / "42.csv")
    assert re.findall(r"^step:(\d+)/(\d+) train_loss:([\d.]+)", text, re.M) == [
        ("10", "20", "4.5000"),
        ("20", "20", "4.2500"),
    ]
    final = re.findall(r"^\S+_exact val_loss:([\d.]+) val_bpb:([\d.]+)$", text, re.M)
    assert len(final) == 3
    assert float(final[-1][1]) == pytest.approx(made["result"]["final_bpb"], abs=1e-8)
    assert float(final[-1][0]) == pytest.approx(made["result"]["nats"] / made["result"]["tokens"], abs=1e-8)
    assert int(re.search(r"^Total submission size golf: (\d+) bytes$", text, re.M)[1]) == made["code"] + made["model"]
    assert int(re.search(r"^Code size: (\d+) bytes$", text, re.M)[1]) == made["code"]
    assert re.search(r"^val_tokens:700$", text, re.M)
    assert re.search(r"train_time:12300ms step:20$", text, re.M)
    assert "training_text_reads: 1.5s after the last step, with them train_time: 13.8s\n" in text
    assert "step:" not in training_log(record(made), 42, made["top"] / "none.csv").replace(" step:20", "")


def test_the_readme_says_what_counts(made: dict) -> None:
    text = readme(record(made))
    assert "no claim." in text
    assert "Note: 1 seed." in text
    assert "Not for the record track:" in text
    assert "python train_gpt.py evaluate --artifact model_seed42.golf" in text


def test_files_that_are_missing_or_changed(made: dict, tmp_path: Path) -> None:
    run = record(made)
    wrong = dataclasses.replace(run.results, total_bytes={42: 1})
    with pytest.raises(DataError, match="the gate measured 1"):
        write(made, tmp_path / "a", dataclasses.replace(run, results=wrong))
    (tmp_path / "b").mkdir()
    with pytest.raises(MissingInput, match=r"needed in the records folder as model_seed42\.golf"):
        write_folder(
            tmp_path / "b", run, program=made["top"] / "train_gpt.py", artifacts={42: tmp_path / "none"},
            tokenizer=made["top"], curves=made["top"],
        )  # fmt: skip


def test_scores_are_compared_one_by_one() -> None:
    scores = np.linspace(0.5, 5.0, 100)
    assert compare_scores(scores[:40], scores, 1) == 0.0
    swapped = scores[:40].copy()
    swapped[[3, 4]] += [0.1, -0.1]  # the mean is right, two targets are not
    for bad in (swapped, scores[:40] + 0.002, scores[:40] * np.nan, scores[:0], np.zeros((2, 2)), np.zeros(101)):
        with pytest.raises(DataError, match="seed 1"):
            compare_scores(bad, scores, 1)


def test_requirements_and_author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"^torch==\d+\.\d+\.\d+$", requirements(), re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_author() == ""
