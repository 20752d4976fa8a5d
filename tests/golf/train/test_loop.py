import dataclasses
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golf.model.linear import Linear, QuantizableWeight
from golf.model.weights import ModelSpec, load_spec, load_state, tensor_groups
from golf.params.hardware import Hardware
from golf.quant.fast import quantize_fast
from golf.quant.gptq import gptq
from golf.quant.grid import fake_quantize
from golf.quant.quantized import dequantize_model, load, save
from golf.runtime.errors import ConfigError, FairwayError
from golf.train import loop
from golf.train import step as stepping
from golf.train.distributed import Ranks, join
from golf.train.feed import Batch
from golf.train.log import COLUMNS, Curve, Diverged, write_curve
from golf.train.loop import train
from golf.train.phases import phase_at
from golf.train.plan import make_plan
from golf.train.run import Forward, set_up
from golf.train.step import accumulate, enter, take_step
from golf.train.warmup import warm_up
from tests.golf.train.tiny import MODEL, VOCAB, files, make_config

HERE = Path(__file__).resolve().parents[3]
ALONE = Ranks(0, 1, torch.device("cpu"))


def test_a_run_writes_the_weights_their_averages_and_a_curve(tmp_path: Path) -> None:
    result = train(make_config(tmp_path, steps=40, optim={"matrix_lr": 0.02, "embed_lr": 0.1}))
    names = {"raw.safetensors", "ema-0.98.safetensors", "ema-0.99.safetensors", "swa.safetensors", "model.json"}
    assert set(files(tmp_path / "out")) == names
    spec = load_spec(tmp_path / "out")
    assert (spec.config, spec.vocab_size, spec.bos_id) == (MODEL, VOCAB, 1)
    assert (result.steps, result.tokens, result.clock, result.resumed) == (40, 40 * 256, "steps", False)
    raw = load_state(tmp_path / "out", "raw")
    assert result.parameters == sum(value.numel() for value in raw.values())
    assert [row[0] for row in result.curve] == [1, *range(4, 41, 4)]
    assert result.curve[0][2] == pytest.approx(math.log(VOCAB), abs=0.2)
    assert result.final_loss < 2.5
    lines = write_curve(result.curve).decode().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[-1].startswith("40,10240,")
    assert {"device", "attention", "tokens_per_second", "ms_per_step", "peak_memory_bytes"} <= set(result.timing)


def test_one_seed_gives_the_same_bytes_in_any_process_and_another_seed_others(tmp_path: Path) -> None:
    config = make_config(tmp_path, checkpoint_seconds=1e-9)
    train(dataclasses.replace(config, checkpoints=None))
    first = files(tmp_path / "out")
    train(config)
    assert files(tmp_path / "out") == first
    code = "import sys; from pathlib import Path; from tests.golf.train.tiny import make_config\n"
    code += "from golf.train.loop import train; train(make_config(Path(sys.argv[1])))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=HERE, check=True, capture_output=True)
    assert files(tmp_path / "out") == first
    train(dataclasses.replace(config, seed=8))
    assert files(tmp_path / "out")["raw.safetensors"] != first["raw.safetensors"]


def test_accumulation_equals_one_big_batch(tmp_path: Path) -> None:
    whole = train(make_config(tmp_path / "whole"))
    parts = train(make_config(tmp_path / "parts", micro_batch_tokens=64))
    assert parts.timing["accumulation"] == 4
    torch.testing.assert_close(torch.tensor(parts.curve), torch.tensor(whole.curve), rtol=1e-4, atol=1e-6)
    for name in ("raw", "ema-0.98", "swa"):
        found, expected = (load_state(tmp_path / part / "out", name) for part in ("parts", "whole"))
        # Newton-Schulz multiplies the rounding of the smallest singular values by some hundreds, each step.
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)


def test_the_gradient_of_micro_batches_is_that_of_their_union() -> None:
    weight = torch.randn(5, requires_grad=True)
    tokens, targets = torch.randn(6, 5), torch.randn(6, 5)

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return (x * weight - y).square()

    batches = [Batch(*pair, None) for pair in zip(tokens.split(2), targets.split(2), strict=True)]
    loss = accumulate(forward, batches)
    assert weight.grad is not None
    found, weight.grad = weight.grad, None
    forward(tokens, targets).mean().backward()
    torch.testing.assert_close(found, weight.grad)
    torch.testing.assert_close(loss, forward(tokens, targets).mean().detach())
    assert not loss.requires_grad


def test_the_forward_pass_sees_rounded_weights_from_the_right_step_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a matrix product is really given, step by step; the weights and averages themselves stay unrounded."""
    config = make_config(tmp_path, qat_bits=4)
    seen: list[bool] = []
    linear = torch.nn.functional.linear
    latent: dict[int, Tensor] = {}

    def remember(self: Linear, x: Tensor, adapters: object = None) -> Tensor:
        latent[0] = self.weight
        return original(self, x, adapters)

    def spy(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
        if 0 in latent:
            of_module = latent.pop(0)
            rounded = torch.equal(weight, fake_quantize(of_module, 4, config.train.qat_clip_sigma))
            assert rounded or torch.equal(weight, of_module)
            seen.append(rounded)
        return linear(x, weight, *rest)

    original = Linear.forward
    monkeypatch.setattr(Linear, "forward", remember)
    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    train(config)
    a_step = len(seen) // 12
    matrices = a_step  # zero matrices are equal to their rounding: only the pattern over steps counts
    steps = [sum(seen[i * matrices : (i + 1) * matrices]) for i in range(12)]
    assert all(count < matrices for count in steps[1:9])
    assert steps[9:] == [matrices] * 3, "12 steps with a share of 0.25: the last 3"
    for name in ("raw", "ema-0.98", "swa"):
        weight = load_state(tmp_path / "out", name)["blocks.0.mlp.up.weight"]
        assert len(weight[0].unique()) > 2**4, f"{name} holds latent weights"


@pytest.mark.parametrize("bits", [4, 6])
def test_late_qat_multiplies_by_the_weights_that_would_ship(tmp_path: Path, bits: int) -> None:
    """Bit for bit what is read back from the files, where ``quant`` has the bits and the clips of ``train``."""
    config = make_config(tmp_path, qat_bits=bits, qat_clip_sigma=6.0, qat_embed_bits=bits + 2, qat_embed_clip_sigma=9.0)
    with join(config.hardware) as ranks:
        run = set_up(config, make_plan(config.train, config.hardware, 1), ranks)
        enter(run, phase_at(0.9, config.train, 1), 0)
        for step in range(3):
            take_step(run, step, 1.0, 0.9)
    model = run.state.model
    spec = ModelSpec(config.model, VOCAB)
    rounded = quantize_fast(model.state_dict(), tensor_groups(model), bits, 6.0, bits + 2, 9.0, spec=spec)
    save(rounded, tmp_path / "q")
    shipped = dequantize_model(load(tmp_path / "q"))
    seen = {f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, QuantizableWeight)}
    assert len(seen) == sum(group != "control" for group in tensor_groups(model).values())
    for name, module in seen.items():
        assert torch.equal(module.seen_weight(), shipped[name]), name
        assert not torch.equal(module.weight, shipped[name]), f"{name} itself is not rounded"
        assert module.fake_quant is not None
        weight, grid = module.weight.detach(), module.fake_quant
        by_gptq = gptq(weight, torch.eye(weight.shape[1]), *grid, damping=0.01, block_size=128)
        assert torch.equal(by_gptq.dequantize(), shipped[name]), f"{name}: another grid in GPTQ"


def test_without_a_share_nothing_is_ever_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(stepping, "set_fake_quant", lambda *arguments: calls.append(arguments))
    train(make_config(tmp_path, qat_share=0.0))
    assert not calls


def break_at(broken_step: int, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Multiply the loss that step ``broken_step`` (from 1) reports, and its gradients."""
    step = 0

    def broken(forward: Forward, batches: list[Batch]) -> Tensor:
        nonlocal step
        step += 1
        loss = accumulate(forward, batches)
        if step == broken_step:
            model: torch.nn.Module = forward  # type: ignore[assignment]
            torch._foreach_mul_([p.grad for p in model.parameters() if p.grad is not None], factor)
            loss *= factor
        return loss

    monkeypatch.setattr(stepping, "accumulate", broken)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(7, monkeypatch, math.nan)
    # Step 4, or 1 when its file was still being written then.
    with pytest.raises(
        Diverged, match=r"step 7: loss nan.*checkpoints/\w+ has step [14]\..*Try: .*matrix_lr"
    ) as caught:
        train(make_config(tmp_path, checkpoint_seconds=1e-9))
    assert caught.value.step == 7
    assert not (tmp_path / "out").exists()


def test_an_infinite_gradient_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(forward: Forward, batches: list[Batch]) -> Tensor:
        loss = accumulate(forward, batches)
        model: torch.nn.Module = forward  # type: ignore[assignment]
        next(model.parameters()).grad.fill_(math.inf)  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(stepping, "accumulate", broken)
    with pytest.raises(Diverged, match=r"step 1: loss 4.*gradient norm inf.*no checkpoint"):
        train(make_config(tmp_path))


def test_warm_up_leaves_no_trace(tmp_path: Path) -> None:
    config = make_config(tmp_path, steps=0, seconds=1.0)
    with join(config.hardware) as ranks:
        run = set_up(config, make_plan(config.train, config.hardware, 1), ranks)
        before = run.state.copy()
        assert {name.split("/")[0] for name in before} == {"model", "optimizer", "averages", "rng", "run"}
        torch.rand(3)
        run.state.load(before)
        warm_up(run)
        after = run.state.copy()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(param.grad is None for param in run.state.optimizer.params)
        run.curve.flush(0, 0, 1.0)
        assert not run.curve.rows
        assert run.phase is None
        assert not any(module.fake_quant for module in run.state.model.modules() if isinstance(module, Linear))


def test_the_clock_ends_a_run_in_time_and_the_schedule_with_it(tmp_path: Path) -> None:
    started = time.perf_counter()
    result = train(make_config(tmp_path, steps=0, seconds=0.5, log_every=1, min_lr=0.0, warmdown_share=0.5))
    assert time.perf_counter() - started < 5
    assert result.clock == "wall"
    assert 0.2 < result.timing["clock_seconds"] < 0.6
    assert result.steps > 3
    assert result.curve[-1][3] < 0.35, "the learning rate has come down with the clock"
    assert (tmp_path / "out" / "swa.safetensors").exists()


def test_a_bad_run_is_refused_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "set_up", lambda *_: pytest.fail("computed"))
    config = make_config(tmp_path, micro_batch_tokens=256 // 4, batch_tokens=256)
    strict = dataclasses.replace(config.hardware, strict_clock=True)
    clocked = dataclasses.replace(config.train, steps=0, seconds=5.0, gpus=8)
    with pytest.raises(ConfigError, match=r"strict_clock: found 1 process, needed train.gpus = 8"):
        train(dataclasses.replace(config, hardware=strict, train=clocked))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("tokens", r"6,000 tokens of the split 'train', a step needs 16,385\. Try: .*batch_tokens=5888"),
        ("ranks", r"batch_tokens: 256 = 16 windows of 16 are fewer than 32 processes\. Try: dvc exp run -S "),
        ("gpu", r"found Tesla T4 of compute capability 7\.5, which has no bf16, needed 8\.0 .*\. Try: .*device=cpu"),
    ],
)
def test_bad_input_is_one_line_before_a_rank_meets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, message: str
) -> None:
    config = make_config(tmp_path, **({"batch_tokens": 16384} if bad == "tokens" else {}))
    if bad == "ranks":
        monkeypatch.setenv("WORLD_SIZE", "32")
    if bad == "gpu":
        config = dataclasses.replace(config, hardware=Hardware(device="cuda"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr(loop, "connect", lambda *_: pytest.fail("connected"))
    with pytest.raises(FairwayError, match=message) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not config.out.exists()


def test_a_row_is_the_mean_since_the_last_one() -> None:
    curve = Curve(ALONE)
    for loss, norm in ((4.0, torch.tensor(1.0)), (2.0, None)):
        curve.add(torch.tensor(loss), norm, torch.zeros(1), 0)
    curve.flush(2, 20, 0.5)
    curve.flush(2, 20, 0.5)
    assert curve.rows == [[2, 20, 3.0, 0.5, 1.0]], "the mean of the norms that were computed"
    assert curve.last_loss == 3.0
    assert math.isnan(Curve(ALONE).last_loss)


def test_train_leaves_the_process_group_alone_without_torchrun(tmp_path: Path) -> None:
    with join(make_config(tmp_path).hardware) as ranks:
        assert (ranks.index, ranks.count, ranks.first) == (0, 1, True)
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_compiled_run_switches_to_late_qat_without_compiling_and_equals_the_eager_one(tmp_path: Path) -> None:
    one_layer = {"num_layers": 1, "value_embed_layers": 1}  # the C++ of a second one takes as long again
    config = dataclasses.replace(make_config(tmp_path, model=one_layer, steps=20, qat_share=0.3), checkpoints=None)
    eager = train(config)
    compiled = train(dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, compile="on")))
    assert compiled.timing["compiled"] is True
    assert compiled.timing["recompiles"] == 0
    torch.testing.assert_close(torch.tensor(compiled.curve), torch.tensor(eager.curve), rtol=1e-4, atol=1e-5)


class Hand:
    """A clock that the test moves: a step takes 0.75 s."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("given", "measured", "steps"), [(None, 0.0, 13), (None, 4.0, 8), (2.5, 4.0, 10)])
def test_what_reads_after_the_last_step_need_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: float | None, measured: float, steps: int
) -> None:
    hand = Hand()
    monkeypatch.setattr(time, "perf_counter", hand)
    real = loop.take_step

    def take_step(*arguments: object) -> None:
        real(*arguments)
        hand.now += 0.75

    monkeypatch.setattr(loop, "take_step", take_step)
    config = make_config(tmp_path, steps=0, seconds=10.0, reserve_seconds=given)
    result = train(config, reserve=lambda ranks: measured)
    reserved = measured if given is None else given
    assert result.steps == steps
    assert result.timing["reserve_seconds"] == reserved
    assert result.left_seconds == pytest.approx(10.0 - 0.75 * steps)
    assert result.left_seconds >= reserved, "never over the budget, whatever was measured"


def test_a_clock_that_reads_alone_would_spend_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, steps=0, seconds=3.0, reserve_seconds=None)
    with pytest.raises(ConfigError, match=r"found a clock of 3 s, needed more than the 3.5 s that reading training"):
        train(config, reserve=lambda ranks: 3.5)
    assert not config.out.exists()


def test_a_budget_of_steps_sets_nothing_aside(tmp_path: Path) -> None:
    def never(ranks: object) -> float:
        raise AssertionError("measured")

    result = train(make_config(tmp_path, steps=2, reserve_seconds=None), reserve=never)
    assert result.left_seconds is None
    assert "reserve_seconds" not in result.timing
