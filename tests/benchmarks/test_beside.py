"""Fairway beside the public script: names and shapes of the weights, the text changed, the log read, the text cut."""

import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import torch.nn.functional as F

from benchmarks.beside import evaluation, ours, script, training
from benchmarks.beside.text import lay_out, segments, validation
from benchmarks.beside.weights import NEEDED, shape_settings, to_script
from benchmarks.train_step import configuration
from golf.data.shards import read_shard, write_shard
from golf.model.weights import ModelSpec, build, save_model
from golf.params.base import from_dict, read_document
from golf.params.model import Model
from golf.runtime.errors import ConfigError, DataError, FairwayError, MissingInput
from golf.runtime.files import read_json

GIVEN = "FAIRWAY_RECORD_SCRIPT"
TINY = {"num_layers": 5, "dim": 32, "num_heads": 4, "num_kv_heads": 2, "mlp_ratio": 2.0, "xsa_layers": 5,
        "loop_first": 1, "loop_last": 2, "parallel_from": 3, "rope_dims": 8}  # fmt: skip
LOG = """\
gptq:reserving 0s, effective=120000ms
warmup_step: 1/20
1/20000 train_loss: 9.0132 train_time: 0.0m tok/s: 2157220
layer_loop:enabled step:489 frac:0.350 encoder:[0, 1, 2] decoder:[3]
500/20000 train_loss: 3.3910 train_time: 0.7m tok/s: 1131164
1099/20000 val_loss: 2.6702 val_bpb: 3.8522
stopping_early: wallclock_cap train_time: 120151ms step: 1099/20000
diagnostic pre-quantization post-ema val_loss:2.68867931 val_bpb:3.87894431 eval_time:6569ms
"""


def r1061(vocab_size: int, **changed: object) -> ModelSpec:
    """The profile's model, changed."""
    section = read_document(Path("params.yaml"))["model"] | read_document(Path("profiles/r1061.yaml"))["model"]
    return ModelSpec(from_dict(Model, section | changed), vocab_size)


def test_flash_attention_gives_outputs_alone_and_keeps_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    package = type(sys)(script.FLASH)
    package.flash_attn_func = lambda x: (x, "log-sum-exp")
    package.flash_attn_varlen_func, package.FlashAttnFunc = abs, object()
    monkeypatch.setitem(sys.modules, script.FLASH, package)
    found = script.outputs_alone()
    assert (found.flash_attn_func(3), found.flash_attn_varlen_func(-4)) == (3, 4)
    assert found.FlashAttnFunc is package.FlashAttnFunc, "torch.compile looks it up by the module's name"


def test_every_tensor_has_its_place_in_the_script() -> None:
    state = build(r1061(64, **TINY)).state_dict()
    state = {name: torch.randn_like(value) for name, value in state.items()}
    found = to_script(state)
    assert sum(value.numel() for value in found.values()) == sum(value.numel() for value in state.values())
    shapes = {name: tuple(value.shape) for name, value in found.items() if not name.startswith("blocks.")}
    assert shapes == {
        "tok_emb.weight": (64, 32),
        "qo_bank": (10, 32, 32), "kv_bank": (10, 16, 32), "mlp_up_bank": (5, 64, 32), "mlp_down_bank": (5, 32, 64),
        "smear_gate.weight": (1, 12), "smear_lambda": (1,),
        "skip_weights": tuple(state["skips.weights"].shape), "skip_gates": tuple(state["skips.gates"].shape),
        "parallel_resid_lambdas": tuple(state["lanes.keep"].shape),
        "parallel_post_lambdas": tuple(state["lanes.take"].shape),
    }  # fmt: skip
    for layer in range(5):
        block = f"blocks.{layer}."
        assert torch.equal(found["qo_bank"][layer], state[f"{block}attention.query.weight"])
        assert torch.equal(found["qo_bank"][5 + layer], state[f"{block}attention.output.weight"])
        assert torch.equal(found["kv_bank"][5 + layer], state[f"{block}attention.value.weight"])
        assert torch.equal(found["mlp_down_bank"][layer], state[f"{block}mlp.down.weight"])
        assert torch.equal(found[f"{block}attn.q_gain"], state[f"{block}attention.query_gain"])
        names = {name.removeprefix(block) for name in found if name.startswith(block)}
        assert names == {"attn_scale", "mlp_scale", "resid_mix", "attn.q_gain", "attn.attn_gate_w"}


def test_weights_that_do_not_fit_are_refused() -> None:
    state = build(r1061(64, **TINY)).state_dict()
    with pytest.raises(DataError, match=r"bigram\.weight, for which the script's model has no place"):
        to_script({**state, "bigram.weight": torch.zeros(2)})
    state.pop("blocks.3.mlp.up.weight")
    with pytest.raises(DataError, match=r"no blocks\.3\.mlp\.up\.weight"):
        to_script(state)


def test_a_model_that_the_script_has_no_form_of_is_refused() -> None:
    assert shape_settings(r1061(8192))["NUM_LOOPS"] == "2"
    with pytest.raises(ConfigError, match=r"found smear_kind 'channel', needed 'token'"):
        shape_settings(r1061(64, smear_kind="channel"))
    with pytest.raises(ConfigError, match=r"bos_id 0, needed 1"):
        shape_settings(replace(r1061(64), bos_id=0))
    assert set(NEEDED) <= set(Model.__dataclass_fields__)


def test_the_text_is_changed_or_refused() -> None:
    text = "".join(item.old * item.times for item in script.REPLACEMENTS)
    changed = script.patched(text)
    assert changed == "".join(item.new * item.times for item in script.REPLACEMENTS)
    for item in script.REPLACEMENTS:
        with pytest.raises(DataError, match=rf"found .* {item.times - 1} times, needed {item.times}"):
            script.patched(text.replace(item.old, "", 1))


def test_the_script_reads_nothing_that_was_set_for_another() -> None:
    text = 'a = os.environ.get("RANK", "0")\nb = os.environ.get(\n    "EMA_DECAY", 0.9)\n'
    found = script.environment(text, {"SEED": "1"}, {"RANK": "3", "EMA_DECAY": "0.5", "HOME": "/"})
    assert found == {"HOME": "/", "SEED": "1", **script.DOCUMENTED}


def test_what_the_log_tells() -> None:
    assert training.numbers(LOG) == {
        "steps": 1099, "clock_seconds": 120.151, "ms_before_loop": 85.89, "ms_with_loop": 128.12,
        "last_weights": 2.6702, "average": 2.68867931,
    }  # fmt: skip
    without = training.numbers("\n".join(line for line in LOG.splitlines() if "layer_loop" not in line))
    assert (without["ms_before_loop"], without["ms_with_loop"]) == (109.33, None)
    with pytest.raises(DataError, match="no line tells average, clock_ms"):
        training.numbers(LOG[: LOG.index("stopping")])


def test_milliseconds_before_and_with_the_loop() -> None:
    rows = [[50, 80.0], [100, 82.0], [150, 100.0], [200, 120.0], [210, 130.0]]
    assert ours.speeds(rows, turn=10.0) == (81.0, 121.67)
    assert ours.speeds(rows, turn=100.0) == (97.14, None)


def test_the_table_of_both_sides() -> None:
    theirs = {"side": "script", "seed": 42, **training.numbers(LOG), "process_seconds": 225.97}
    own = {**theirs, "side": "ours", "steps": 1237, "average": 2.6462, "last_weights": 2.6725, "ms_with_loop": None}
    rows = [theirs, own, {"side": "script", "seed": 314, "error": "no room"}]
    assert training.compared(rows) == [{"seed": 42, "average_lower": 0.0425, "best_lower": 0.024, "steps": 1.1256,
                                        "ms_before_loop": 1.0, "ms_with_loop": None}]  # fmt: skip
    lines = training.table(rows).splitlines()
    assert lines[2].split() == ["ours", "42", "1237", "85.89", "-", "2.6462", "2.6725", "226", "s"]
    assert lines[3].split() == ["script", "314", "failed"]
    assert "+0.0425 nats below theirs, +0.0240 below their better" in lines[4]


def test_the_table_of_evaluations() -> None:
    def part(bpb: float, seconds: float) -> dict[str, float]:
        return {"nats": 2 * bpb, "bpb": bpb, "seconds": seconds, "compile_seconds": 10.0}

    parts = {"ours-documents": part(1.1159, 2), "ours-lora": part(1.1109, 30), "script-windows": part(1.1161, 50),
             "script-ttt": part(1.1121, 90), "script-lora": {"error": "Traceback\nOutOfMemory: no room"}}  # fmt: skip
    found = evaluation.compared(parts)
    assert found == {"script-ttt": {"gain": pytest.approx(1.25), "seconds": 30 / 90, "all_seconds": 0.4}}
    text = evaluation.table(parts)
    assert "ours-lora beside script-ttt: 1.25 times the gain, 0.33 times the seconds, 0.40 with compiling" in text
    assert "script-lora       failed: OutOfMemory: no room" in text


def test_the_text_that_both_score(tmp_path: Path) -> None:
    tokens = np.arange(2, 102, dtype=np.uint16)
    tokens[[0, 30, 50]] = 1
    write_shard(tmp_path / "val_000000.bin", tokens)
    write_shard(tmp_path / "train_000000.bin", tokens)
    found = validation(tmp_path, 97, 32)
    (tmp_path / "theirs").mkdir()
    path = lay_out(tmp_path / "theirs", found, tmp_path)
    assert read_shard(path).tolist() == tokens[:97].tolist()
    assert read_shard(tmp_path / "theirs" / "fineweb_train_000000.bin").tolist() == tokens.tolist()
    assert segments(torch.tensor([5, 1, 6, 1])).starts.tolist() == [0, 1, 3, 4]
    assert segments(torch.full((4099,), 5)).starts.tolist() == [0, 2048, 4096, 4099]
    for count, error in ((96, ConfigError), (1, ConfigError), (129, DataError)):
        with pytest.raises(error):
            validation(tmp_path, count, 32)
    tokens[0] = 7
    write_shard(tmp_path / "val_000000.bin", tokens)
    with pytest.raises(DataError, match="begins with token 7"):
        validation(tmp_path, 97, 32)


def test_our_run_is_the_profile_by_the_clock(tmp_path: Path) -> None:
    (tmp_path / "shards.json").write_text('{"vocab_size": 8192, "bos_id": 1, "splits": {}}')
    config = ours.by_clock(tmp_path, 120.0, 314, tmp_path / "out")
    assert (config.train.steps, config.train.seconds, config.train.gpus, config.train.reserve_seconds) == (0, 120, 1, 0)
    assert config.train.batch_tokens == config.train.micro_batch_tokens == script.BATCH
    assert config.model == r1061(8192).config
    assert config.seed == 314


def test_our_run_and_its_losses(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(2, 64, 3_001).astype(np.uint16)
    tokens[::100] = 1
    write_shard(tmp_path / "train_000000.bin", tokens)
    config = configuration("r1061", ["train.batch_tokens=256", "train.micro_batch_tokens=256", "train.seq_len=64",
                                     "train.steps=4", "train.log_every=1", "hardware.threads=1"], tmp_path)  # fmt: skip
    model = r1061(64, **TINY).config
    found = ours.measure(replace(config, model=model, vocab_size=64, out=tmp_path / "out"), tokens[:1025], 256)
    assert found["steps"] == 4
    assert 3 < found["last_weights"] < 5
    assert 3 < found["average"] < 5
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"raw.safetensors", "ema-0.9965.safetensors"}


def test_a_process_is_logged_and_its_failure_told(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    assert training.logged([sys.executable, "-c", "print('one'); print('two')"], log, os.environ) > 0
    assert log.read_text() == "one\ntwo\n"
    with pytest.raises(FairwayError, match=r"a\.log: found exit code 3, needed 0: no memory"):
        training.logged([sys.executable, "-c", "print('no memory'); raise SystemExit(3)"], log, os.environ)


def test_a_run_that_fails_does_not_keep_the_others_from_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.full(script.BATCH + 1, 5, dtype=np.uint16)
    tokens[0] = 1
    write_shard(tmp_path / "val_000000.bin", tokens)
    (tmp_path / "shards.json").write_text('{"vocab_size": 64, "bos_id": 1, "splits": {}}')
    row = {**training.numbers(LOG), "process_seconds": 1.0}
    monkeypatch.setattr(training, "run_ours", lambda *_: row)
    monkeypatch.setattr(script, "require_flash", lambda: None)
    parsed = Namespace(only=None, shards=tmp_path, tokens=script.BATCH + 1, seconds=120.0, seeds=[42],
                       script=tmp_path / "none.py", out=tmp_path / "out", tokenizer=tmp_path)  # fmt: skip
    with pytest.raises(FairwayError, match="1 runs that failed, needed none: script of seed 42"):
        training.train(parsed)
    text = (tmp_path / "out" / "train.json").read_text()
    assert "none.py: no such file" in text
    assert '"side": "ours"' in text


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"no such file.*parameter-golf"):
        script.read(tmp_path / "train_gpt.py")


@pytest.mark.slow
def test_the_script_computes_what_our_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of both on the same random weights in fp32, two documents in a row; differences are those of rounding."""
    path = os.environ.get(GIVEN)
    if path is None:
        pytest.skip(f"{GIVEN} does not name the public script's file")
    script.patched(script.read(Path(path)), path)
    spec = r1061(8192)
    model = perturbed(spec)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        module = script.load(Path(path), shape_settings(spec), torch.device("cpu"))
    _, theirs = script.build(module, model.state_dict(), torch.device("cpu"))
    theirs.eval()
    tokens = torch.randint(2, 8192, (1, 700))
    tokens[0, [0, 300]] = 1
    starts, longest = module._build_cu_seqlens([0, 300], 700, tokens.device, 2048, 64)
    assert starts[:3].tolist() == segments(tokens[0]).starts.tolist()
    inputs = tokens[:, :600].view(2, 300)
    targets = inputs.roll(-1, 1)
    adapters = module.BatchedTTTLoRA(2, theirs, 80)
    own = F.rms_norm
    monkeypatch.setattr(F, "rms_norm", lambda x, shape, weight=None, eps=None: own(x, shape, weight, 1e-6))
    for looping in (True, False):
        theirs.looping_active = looping
        model.set_passes(3 if looping else 1)
        with torch.no_grad():
            found = theirs.forward_logits(tokens, cu_seqlens=starts, max_seqlen=longest)
            assert (found - model(tokens)).abs().max() < 1e-4
            assert (theirs.forward_ttt(inputs, targets, adapters) - model(inputs, targets)).abs().max() < 1e-4


@pytest.mark.slow
def test_without_learning_both_evaluations_are_the_same_score(tmp_path: Path) -> None:
    """The command on a CPU, documents shorter than a window: reading them is one thing, however they are cut."""
    path = os.environ.get(GIVEN)
    if path is None:
        pytest.skip(f"{GIVEN} does not name the public script's file")
    lines = [f"{word} of the {other}" for word in ("house", "river") for other in ("tree", "stone", "field")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20), model_prefix=str(tmp_path / "tokenizer"), vocab_size=300,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).vocab_size()
    spec = r1061(size, **TINY)
    save_model(tmp_path, "raw", perturbed(spec).state_dict(), spec.config, size, 1)
    tokens = np.random.default_rng(0).integers(4, size, 1025).astype(np.uint16)
    tokens[[0, 100, 350, 400, 700, 901]] = 1
    write_shard(tmp_path / "val_000000.bin", tokens)
    words = f"evaluate --script {path} --run {tmp_path} --shards {tmp_path} --tokenizer {tmp_path} --tokens 1025"
    sizes = "VAL_BATCH_TOKENS=8192 EVAL_SEQ_LEN=1024 TTT_EVAL_SEQ_LEN=1024 TTT_BATCH_SIZE=2"
    command = f"-m benchmarks.beside {words} --device cpu --out {tmp_path / 'out'} --set {sizes}"
    subprocess.run([sys.executable, *command.split()], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    parts = read_json(tmp_path / "out" / "evaluate.json")["parts"]
    assert list(parts) == list(evaluation.PARTS)
    for name in ("script-plain", "script-windows"):
        assert parts[name]["nats"] == pytest.approx(parts["ours-documents"]["nats"], abs=1e-4)
    for name, base in evaluation.BASES.items():
        assert abs(parts[name]["nats"] - parts[base]["nats"]) > 1e-4


def perturbed(spec: ModelSpec) -> torch.nn.Module:
    """A model of which every gain, gate, mix, lane and skip counts."""
    torch.manual_seed(5)
    model = build(spec).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name == "embed.weight":
                value.normal_(0, 0.3)
            elif name.endswith(("output.weight", "down.weight")):
                value.normal_(0, 0.04)
            elif name.startswith("skips.gates"):
                value.normal_(0, 1)
            elif value.ndim < 2 or any(part in name for part in ("skips", "lanes", "resid_mix", "gate", "scale")):
                value.add_(torch.randn_like(value), alpha=0.3)
    return model
