"""Published shards from a stand-in of the hub, and from mirrors."""

import builtins
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import golf.data.fetch
from golf.data.fetch import fetch
from golf.data.hub import from_hub, from_mirror, is_mirror
from golf.data.published import choose, is_whole_val
from golf.data.raw import read_manifest
from golf.data.shards import header_bytes
from golf.data.verify import verify
from golf.params.data import Data
from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError

REPO = "someone/golf"
needs_hub = pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is absent")


def _server_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shard(seed: int, count: int = 40_000) -> bytes:
    tokens = np.random.default_rng(seed).integers(4, 300, count, dtype=np.uint16)
    tokens[0] = 1
    return header_bytes(count) + tokens.tobytes()


def published(train: int = 3) -> dict[str, bytes]:
    top = "datasets/datasets/fineweb10B_sp1024"
    files = {f"{top}/fineweb_train_{i:06d}.bin": shard(i) for i in range(train)}
    files[f"{top}/fineweb_val_000000.bin"] = shard(99)
    files["datasets/tokenizers/fineweb_1024_bpe.model"] = b"model"
    files["datasets/tokenizers/fineweb_8192_bpe.model"] = b"other"
    files["datasets/docs_selected.jsonl"] = b"{}" * 1000
    manifest = {
        "datasets": [
            {
                "name": "fineweb10B_sp1024",
                "tokenizer_name": "sp_bpe_1024",
                "vocab_size": 1024,
                "stats": {"files_train": train, "files_val": 1, "docs_val": 5},
            }
        ],
        "tokenizers": [{"name": "sp_bpe_1024", "model_path": "tokenizers/fineweb_1024_bpe.model"}],
    }
    files["datasets/manifest.json"] = json.dumps(manifest).encode()
    return files


@needs_hub
def test_the_variant_is_brought_and_nothing_else(tmp_path: Path) -> None:
    files = published()
    with _server_module().Hub(REPO, files) as hub:
        found = from_hub(REPO, "main", "sp1024", 2, endpoint=hub.endpoint, cache_dir=tmp_path)
        assert found.commit == _server_module().COMMIT
        assert found.layout.vocab_size == 1024
        assert found.layout.stats["docs_val"] == 5
        assert sorted(Path(name).name for name in found.files) == [
            "fineweb_1024_bpe.model", "fineweb_train_000000.bin", "fineweb_train_000001.bin", "fineweb_val_000000.bin",
        ]  # fmt: skip
        for name, path in found.files.items():
            assert path.read_bytes() == files[name]
        assert not hub.gets("datasets/docs_selected.jsonl")
        before = len([r for r in hub.requests if r[0] == "GET" and not r[1].startswith("/api")])
        from_hub(REPO, "main", "sp1024", 3, endpoint=hub.endpoint, cache_dir=tmp_path)
        after = [r[1] for r in hub.requests if r[0] == "GET" and not r[1].startswith("/api")][before:]
        assert after == ["datasets/datasets/fineweb10B_sp1024/fineweb_train_000002.bin"]  # only what is new


@needs_hub
def test_a_broken_transfer_is_resumed_where_it_broke(tmp_path: Path) -> None:
    files = published()
    name = "datasets/datasets/fineweb10B_sp1024/fineweb_train_000000.bin"
    files[name] = shard(0, count=12_000_000)  # huggingface_hub keeps what came in pieces of 10 MB
    with _server_module().Hub(REPO, files) as hub:
        hub.breaks[name] = 1
        found = from_hub(REPO, "main", "sp1024", 1, endpoint=hub.endpoint, cache_dir=tmp_path)
        assert found.files[name].read_bytes() == files[name]
        spans = hub.gets(name)
        assert len(spans) == 2
        assert int(spans[1].removeprefix("bytes=").rstrip("-")) > 0


@needs_hub
def test_fetch_from_the_hub_pins_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(golf.data.fetch, "from_hub", partial(from_hub, cache_dir=tmp_path / "cache"))
    config = Data(source="fineweb", repo=REPO, train_shards=2, path="train", val_path="val")
    with _server_module().Hub(REPO, published()) as hub:
        fetch(config, endpoint=hub.endpoint)
    manifest = read_manifest("data/raw")
    assert manifest["revision"] == _server_module().COMMIT
    assert manifest["stats"]["docs_val"] == 5
    assert len(manifest["files"]) == 4
    assert Path("data/raw/tokenizer.model").read_bytes() == b"model"
    defects = verify("data/raw").defects  # a stand-in is not the published set, and random bytes are no model
    assert any("partial validation split" in line for line in defects)
    assert any("not a SentencePiece model" in line for line in defects)


@needs_hub
def test_what_the_hub_answers_becomes_one_line(tmp_path: Path) -> None:
    with _server_module().Hub(REPO, published()) as hub:

        def bring(repo: str = REPO, revision: str = "main", variant: str = "sp1024", shards: int = 1) -> Any:
            return from_hub(repo, revision, variant, shards, endpoint=hub.endpoint, cache_dir=tmp_path)

        with pytest.raises(ConfigError, match="no such dataset or revision"):
            bring(repo="someone/else")
        with pytest.raises(ConfigError, match="no such dataset or revision"):
            bring(revision="nowhere")
        with pytest.raises(ConfigError, match="has no fineweb10B_sp512; it has fineweb10B_sp1024"):
            bring(variant="sp512")
        with pytest.raises(ConfigError, match=r"found 9, .* has 3 training shards"):
            bring(shards=9)
        hub.wrong_sha.add("datasets/datasets/fineweb10B_sp1024/fineweb_val_000000.bin")
        with pytest.raises(DataError, match=r"fineweb_val_000000\.bin: found SHA-256 .*; the copy was removed"):
            bring()
        wrong = hub.files["datasets/datasets/fineweb10B_sp1024/fineweb_val_000000.bin"]
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == wrong]
    with pytest.raises(FairwayError, match="transfer failed") as caught:
        from_hub(REPO, "main", "sp1024", 1, endpoint="http://127.0.0.1:1", cache_dir=tmp_path)
    assert caught.value.code == Exit.RETRY
    assert "\n" not in str(caught.value)


@needs_hub
def test_a_hub_that_falls_silent_after_its_listing_may_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub calls that a missing entry of its cache, by the same class as an entry that the hub has not."""
    import huggingface_hub.utils

    def silent(*args: Any, **options: Any) -> str:  # what the real one raises after half a minute of attempts
        raise huggingface_hub.utils.LocalEntryNotFoundError("we cannot find the requested files in the local cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", silent)
    with _server_module().Hub(REPO, published()) as hub, pytest.raises(FairwayError, match="transfer failed") as caught:
        from_hub(REPO, "main", "sp1024", 1, endpoint=hub.endpoint, cache_dir=tmp_path)
    assert caught.value.code == Exit.RETRY


def test_absent_hub_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match="huggingface_hub, which is not installed"):
        from_hub(REPO, "main", "sp1024", 1)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


@pytest.mark.parametrize("shape", ["tree", "no manifest", "flat"])
def test_mirrors(tmp_path: Path, shape: str) -> None:
    files = published()
    if shape == "no manifest":
        del files["datasets/manifest.json"]
    if shape == "flat":
        files = {Path(n).name: raw for n, raw in files.items() if n.endswith(".bin") or "1024_bpe" in n}
    _write(tmp_path, files)
    assert is_mirror(tmp_path)
    found = from_mirror(tmp_path, "sp1024", 2)
    assert [Path(name).name for name in found.layout.train] == ["fineweb_train_000000.bin", "fineweb_train_000001.bin"]
    assert found.layout.tokenizer is not None
    assert Path(found.layout.tokenizer).name == "fineweb_1024_bpe.model"
    assert found.commit == ""
    if shape != "flat":
        with pytest.raises(ConfigError, match=r"data\.variant"):
            from_mirror(tmp_path, "sp77", 1)


def test_incomplete_listings_are_refused() -> None:
    files = published()
    manifest = json.loads(files.pop("datasets/manifest.json"))
    with pytest.raises(DataError, match="found 0 val shards, needed 1"):
        choose([name for name in files if "_val_" not in name], manifest, "sp1024", 1, "here")
    with pytest.raises(DataError, match=r"found no tokenizers/fineweb_1024_bpe\.model"):
        choose([name for name in files if "1024_bpe" not in name], manifest, "sp1024", 1, "here")
    odd = {"datasets": [{"name": "fineweb10B_sp1024", "vocab_size": "many", "stats": [1]}], "tokenizers": 5}
    layout = choose(files, odd, "sp1024", 1, "here")
    assert (layout.stats, layout.vocab_size) == ({}, None)
    sidecar = "datasets/datasets/fineweb10B_sp1024/fineweb_val_bytes_000000.bin"
    layout = choose([*files, sidecar], manifest, "sp1024", 1, "here")
    assert layout.sidecars == [sidecar]
    assert len(layout.val) == 1


@pytest.mark.parametrize(
    ("variant", "tokens", "whole"),
    [
        ("sp1024", 62_021_846, True),
        ("sp1024", 62_021_632, False),
        ("sp1024", 262_145, False),
        ("sp4096", 45_514_900, True),
        ("sp8192_lossless_caps_caseops_v1_reserved", 47_853_344, True),
        ("sp8192_lossless_caps_caseops_v1_reserved", 36_562_944, False),
        ("sp512", 1, None),
    ],
)
def test_published_totals(variant: str, tokens: int, whole: bool | None) -> None:
    assert is_whole_val(variant, tokens) is whole
