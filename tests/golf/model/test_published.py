import io
import zlib
from pathlib import Path

import pytest
import torch

from golf.model.published import FORMAT, RENAMED, load_published
from golf.model.weights import ModelSpec, build
from golf.params.model import Model
from golf.runtime.errors import DataError, MissingInput

CONFIG = Model(num_layers=3, dim=32, num_heads=4, num_kv_heads=2, mlp_ratio=2.0, activation="relu2", rope_dims=8,
               ln_scale=False, xsa_layers=0, smear_gate=False, bigram_buckets=0, gate_inputs=12)  # fmt: skip


def content() -> dict:
    """A file of the baseline's shape: int8 rows and scales for matrices, the rest as it is."""
    torch.manual_seed(0)
    found: dict = {"__quant_format__": FORMAT, "quantized": {}, "scales": {}, "passthrough": {}}
    for name, value in build(ModelSpec(CONFIG, 64)).state_dict().items():
        old = name
        for theirs, ours in RENAMED:
            old = old.replace(ours, theirs)
        if old.endswith("weight"):
            found["quantized"][old] = torch.randint(-127, 128, value.shape, dtype=torch.int8)
            found["scales"][old] = (torch.rand(value.shape[0]) / 100).half()
        else:
            found["passthrough"][old] = torch.randn(value.shape)
    return found


def write(path: Path, document: object) -> Path:
    buffer = io.BytesIO()
    torch.save(document, buffer)
    path.write_bytes(zlib.compress(buffer.getvalue()))
    return path


def test_the_baseline_s_file_becomes_a_model_of_ours(tmp_path: Path) -> None:
    document = content()
    spec, state = load_published(write(tmp_path / "model.ptz", document))
    assert spec == ModelSpec(CONFIG, 64)
    scale = document["scales"]["blocks.2.attn.c_k.weight"].float()
    codes = document["quantized"]["blocks.2.attn.c_k.weight"].float()
    assert torch.equal(state["blocks.2.attention.key.weight"], codes * scale[:, None])
    assert torch.equal(state["skips.weights"], document["passthrough"]["skip_weights"])
    tokens = torch.randint(0, 64, (2, 9))
    assert bool(torch.isfinite(build(spec, state)(tokens[:, :-1], tokens[:, 1:])).all())


def test_a_matrix_has_the_precision_it_had_in_training(tmp_path: Path) -> None:
    document = content()
    document["dtypes"] = {"tok_emb.weight": "bfloat16", "blocks.0.attn.c_q.weight": "float32"}
    _, state = load_published(write(tmp_path / "model.ptz", document))
    exact = document["quantized"]["tok_emb.weight"].float() * document["scales"]["tok_emb.weight"].float()[:, None]
    assert torch.equal(state["embed.weight"], exact.bfloat16().float())
    assert not torch.equal(state["embed.weight"], exact)


def test_what_is_not_such_a_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file"):
        load_published(tmp_path / "absent.ptz")
    path = tmp_path / "bad.ptz"
    path.write_bytes(b"not zlib")
    with pytest.raises(DataError, match=r"bad.ptz: "):
        load_published(path)
    path.write_bytes(zlib.compress(b"not a checkpoint"))
    with pytest.raises(DataError, match=r"bad.ptz: "):
        load_published(path)
    with pytest.raises(DataError, match=r"found format None, needed 'int8_clean_per_row_v1'"):
        load_published(write(path, {"model": torch.zeros(2)}))
    document = content()
    del document["passthrough"]["blocks.0.attn.q_gain"]
    with pytest.raises(DataError, match=r"bad.ptz: not the baseline's model: "):
        load_published(write(path, document))
