"""A program made for parameters does what the package does, to the bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from golf.bundle import program
from golf.bundle.build import build
from tests.programs import ROOT
from tests.stages.world import VOCABULARY, make

MODEL = {"num_layers": 3, "dim": 32, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 8, "xsa_layers": 1,
         "bigram_buckets": 64, "bigram_dim": 16}  # fmt: skip
TRAIN = {"steps": 3, "batch_tokens": 256, "micro_batch_tokens": 128, "seq_len": 64, "log_every": 1}
LESS = {"smear_gate": False, "bigram_buckets": 0, "unet_skips": "none", "resid_mix": False, "xsa_layers": 0}
MORE = {"document_mask": True, "attention_gate": "sparse", "value_residual": True, "loop_last": 1, "loop_passes": 2,
        "parallel": "two_lane", "parallel_from": 2, "softcap_kind": "asymmetric", "value_embed_dim": 8}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "train"),
    [
        (LESS, {"qat_share": 0.0, "ema_decays": []}),
        pytest.param(MORE, {"pack": "documents", "seq_growth": [[0.4, 32]]}, marks=pytest.mark.slow),
    ],
)
def test_the_same_artifact_and_the_same_scores(tmp_path: Path, model: dict, train: dict) -> None:
    folder = make(tmp_path / "world")
    sections = yaml.safe_load((folder / "params.yaml").read_text())
    sections["model"] |= MODEL | model
    sections["train"] |= TRAIN | train
    sections["eval"]["tilt"] = model is MORE
    sections["select"] |= {"tokens": 256, "seq_len": 64, "candidates": ["raw", "swa"]}
    sections["quant"] |= {"calibration_tokens": 256, "heldout_tokens": 256, "seq_len": 64}
    (folder / "params.json").write_text(json.dumps(sections))
    shards = folder / "data/shards"
    shutil.copy(shards / "val_000000.bin", shards / "heldout_000000.bin")
    (shards / "shards.json").write_text(json.dumps({"vocab_size": VOCABULARY, "bos_id": 1, "splits": {}}))
    made = folder / "train_gpt.py"
    made.write_bytes(build(ROOT, sections).program)
    common = [f"--shards={shards}", f"--bytes={folder}/data/tokenizer/bytes.safetensors"]
    common += [f"--params={folder}/params.json"]
    for verb, given in (("train", ["--seed=5"]), ("evaluate", [f"--artifact={folder}/package/model.golf"])):
        program.run(program.parser().parse_args([verb, *given, *common, f"--out={folder}/package"]))
        command = [sys.executable, "-I", "train_gpt.py", verb, *given, *common, "--out=made"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for name in ("model.golf", "nll.npy"):
        assert (folder / "made" / name).read_bytes() == (folder / "package" / name).read_bytes(), name
