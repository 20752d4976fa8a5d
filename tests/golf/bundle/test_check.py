"""What the checker does with a shipped program that knows nothing of it."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.bundle import check
from golf.bundle.check import recount
from golf.data.bytecount import ByteTable
from golf.data.encode import Encoder
from golf.data.shards import read_shard, write_shard
from golf.data.sidecar import TokenBytes
from golf.data.transform import train_transformed
from golf.runtime.errors import ConfigError, FairwayError, MissingInput
from tests.programs import arguments, shipped, with_artifact
from tests.stages.world import VOCABULARY


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = with_artifact(tmp_path_factory.mktemp("check"))
    (folder / "train_gpt.py").write_bytes(shipped())
    return folder


def run(world: Path, verb: str, **options: object) -> None:
    check.run(check.parser().parse_args(arguments(world, verb, **{"program": world / "train_gpt.py", **options})))


def test_audit_passes_the_evaluator_that_ships(world: Path, tmp_path: Path) -> None:
    run(world, "audit", out=tmp_path)
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["passed"], report
    assert len(report["checks"]) == 10


def test_documents_are_learnt_from_by_the_program_as_audited(world: Path, tmp_path: Path) -> None:
    params = json.loads((world / "params.json").read_text())
    params["eval"] |= {"ttt": "lora", "lora_rank": 4, "lora_chunk_tokens": 16, "stride": params["eval"]["seq_len"]}
    (tmp_path / "params.json").write_text(json.dumps(params))
    given = arguments(world, "evaluate", params=tmp_path / "params.json", out=tmp_path)
    subprocess.run([sys.executable, "-I", "train_gpt.py", *given], cwd=world, check=True, capture_output=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["adapted_chunks"] == result["chunks"] > 1
    assert result["final_bpb"] < result["plain_bpb"]
    run(world, "audit", params=tmp_path / "params.json", out=tmp_path)
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["passed"], report


def test_score_of_shards_is_the_sliding_score(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--artifact", "model.golf", "--shards", "data/shards", "--bytes", "data/tokenizer/bytes.safetensors"]
    code = [sys.executable, "-I", "train_gpt.py", "evaluate", *given, "--params", "params.json", "--out", str(tmp_path)]
    subprocess.run(code, cwd=world, check=True, capture_output=True)
    run(world, "score", params=None, **{"seq-len": 64, "stride": 32})
    printed = capsys.readouterr().out.splitlines()[-1]
    assert float(printed.split()[0]) == pytest.approx(
        json.loads((tmp_path / "result.json").read_text())["sliding_bpb"], abs=1e-5
    )


def test_score_says_what_it_needs(world: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="--bytes"):
        run(world, "score", params=None, bytes=None)
    with pytest.raises(ConfigError, match="--tokenizer"):
        run(world, "score", params=None, shards=None, bytes=None, text=text)


@pytest.mark.parametrize("key", ["program", "artifact", "shards", "bytes", "params"])
def test_missing_inputs_are_named(world: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(MissingInput, match=f"--{key} nowhere"):
        run(world, "audit", out=tmp_path, **{key: "nowhere"})


@pytest.mark.parametrize("verb", ["audit", "score"])
@pytest.mark.parametrize(
    ("tokens", "text"),
    [([1], "1 validation tokens, needed 2 or more"), ([1, 9, 400], "another tokenizer wrote")],
)
def test_what_the_program_refuses_is_one_error_of_ours(
    world: Path, tmp_path: Path, verb: str, tokens: list[int], text: str
) -> None:
    write_shard(tmp_path / "shards/val_000000.bin", np.array(tokens, np.uint16))
    more = {"out": tmp_path} if verb == "audit" else {"params": None}
    with pytest.raises(FairwayError, match=text) as caught:
        run(world, verb, shards=tmp_path / "shards", **more)
    assert caught.value.code == 65
    assert not (tmp_path / "audit.json").exists()


READS_AGAIN = """
import sys, types
from pathlib import Path
from golf.bundle import scoring

class Again:
    def __init__(self, honest):
        self.honest = honest
    trace = property(lambda self: self.honest.trace)
    def distribution(self, tokens, position):
        return self.honest.distribution(tokens, position)
    def score(self, tokens):
        Path({shard!r}).read_bytes()  # what it does with them shows in no score
        return self.honest.score(tokens)

names = "hasten", "opened", "read_validation"
sys.modules["cheat"] = types.SimpleNamespace(
    scorer=lambda model, config: Again(scoring.scorer(model, config)), **{{n: getattr(scoring, n) for n in names}})
"""

HASTENED = """
import sys, types
from golf.bundle import scoring

class Better:
    trace = ()
    def __init__(self, honest):
        self.honest = honest
    def score(self, tokens):
        return self.honest.score(tokens) * 0.9

def scorer(model, config):
    honest = scoring.scorer(model, config)
    return Better(honest) if getattr(model, "graphs", False) else honest

names = "hasten", "opened", "read_validation"
sys.modules["cheat"] = types.SimpleNamespace(scorer=scorer, **{n: getattr(scoring, n) for n in names})
"""


def test_a_program_that_reads_the_text_again_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cheat", None)  # type: ignore[arg-type] - taken away behind the test
    shard = world / "data/shards/val_000000.bin"
    (tmp_path / "cheat.py").write_text(READS_AGAIN.format(shard=str(shard)))
    run(world, "audit", out=tmp_path, program=tmp_path / "cheat.py")
    checks = json.loads((tmp_path / "audit.json").read_text())["checks"]
    assert [name for name, check in checks.items() if not check["passed"]] == ["score-first"]
    assert checks["score-first"]["evidence"].startswith(f"the scorer read {shard}")


def test_a_program_that_scores_better_where_it_is_fast_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cheat", None)  # type: ignore[arg-type] - taken away behind the test
    (tmp_path / "cheat.py").write_text(HASTENED)
    run(world, "audit", out=tmp_path, program=tmp_path / "cheat.py")
    checks = json.loads((tmp_path / "audit.json").read_text())["checks"]
    assert [name for name, check in checks.items() if not check["passed"]] == ["as-run"]


def test_an_adaptation_that_diverges_is_one_error_of_ours(world: Path, tmp_path: Path) -> None:
    params = json.loads((world / "params.json").read_text())
    params["eval"] |= {"ttt_lr": 1e38}
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(FairwayError, match=r"no finite score at position \d+: NaN weights, or adaptation") as caught:
        run(world, "audit", params=tmp_path / "params.json", out=tmp_path)
    assert caught.value.code == 65
    assert not (tmp_path / "audit.json").exists()


def test_the_second_count_agrees_with_the_first(tmp_path: Path) -> None:
    import sentencepiece

    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox, café 5€ and a cat.\n" * 300)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "bpe"), vocab_size=300, model_type="bpe", byte_fallback=True,
        add_dummy_prefix=False, split_digits=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    model = tmp_path / "bpe.model"
    table = ByteTable.from_sentencepiece(model)
    table.save(tmp_path / "bytes.safetensors")
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, table.vocab_size, 3000))
    for tokenizer in (model, None):
        parsed = argparse.Namespace(bytes=tmp_path / "bytes.safetensors", tokenizer=tokenizer)
        assert torch.equal(recount(tokens, parsed), table.count(tokens))


@pytest.fixture(scope="module")
def transformed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same artifact on transformed text, with a tokenizer of its vocabulary."""
    folder = tmp_path_factory.mktemp("transformed")
    text = ["see The NASA launch: OpenAI's PCs and iPhone", "café 5€ The \ue001 End", "a NUL and The Cat"] * 20
    (folder / "tokenizer.model").write_bytes(train_transformed(text, VOCABULARY, 10**6, "caseops"))
    encoder = Encoder(folder / "tokenizer.model", transform="caseops")
    documents = encoder.encode(text)
    counter = TokenBytes(encoder.model)
    (folder / "shards").mkdir()
    write_shard(folder / "shards/val_000000.bin", np.concatenate(documents))
    write_shard(folder / "shards/val_bytes_000000.bin", np.concatenate([counter.count(part) for part in documents]))
    return folder


def audited(world: Path, transformed: Path, out: Path) -> dict[str, dict[str, object]]:
    run(world, "audit", shards=transformed / "shards", tokenizer=transformed / "tokenizer.model", out=out)
    return json.loads((out / "audit.json").read_text())["checks"]


def test_a_sidecar_is_counted_again_from_the_restored_text(world: Path, transformed: Path, tmp_path: Path) -> None:
    checks = audited(world, transformed, tmp_path)
    assert all(check["passed"] for check in checks.values()), checks
    assert str(checks["bytes"]["evidence"]).endswith("recounted the same")
    path = transformed / "shards/val_bytes_000000.bin"
    right = np.array(read_shard(path))
    tokens = read_shard(transformed / "shards/val_000000.bin")
    write_shard(path, np.where((tokens >= 4) & (tokens < 8), 3, right))
    checks = audited(world, transformed, tmp_path)
    write_shard(path, right)
    assert [name for name, check in checks.items() if not check["passed"]] == ["bytes"]


def test_score_of_a_text_transforms_it_first(
    world: Path, transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("See The NASA \ue001 launch")
    run(world, "score", params=None, shards=None, bytes=None, text=text, tokenizer=transformed / "tokenizer.model")
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"  {len(text.read_bytes())} bytes")
