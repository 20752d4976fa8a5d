"""Runs whose length, batch, passes and data change on the way: in what order, restored, resumed, on any ranks."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.model.weights import load_state
from golf.train import loop
from golf.train.checkpoint import Store
from golf.train.distributed import join
from golf.train.feed import Batch, Feed, Request
from golf.train.loop import train
from golf.train.plan import make_plan
from golf.train.run import Run, set_up
from golf.train.warmup import distinct, warm_up
from tests.golf.train.test_checkpoint import interrupt
from tests.golf.train.test_distributed import PROGRAM
from tests.golf.train.tiny import GROWING, PACKED, files, make_config
from tests.ranks import run_ranks

KINDS = pytest.mark.parametrize("kind", [GROWING, PACKED], ids=["windows", "documents"])


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each step was given."""
    seen: list[dict[str, Any]] = []
    original, read = loop.take_step, Feed.micro_batches

    def take_step(run: Run, step: int, scale: float, progress: float) -> None:
        seen.append({"scale": scale, "passes": run.state.model.passes, "phase": run.phase})
        original(run, step, scale, progress)

    def micro_batches(self: Feed, request: Request, rows: int) -> list[Batch]:
        batches = read(self, request, rows)
        seen[-1] |= {"request": request, "batches": batches}
        return batches

    monkeypatch.setattr(loop, "take_step", take_step)
    monkeypatch.setattr(Feed, "micro_batches", micro_batches)
    return seen


@KINDS
def test_each_change_comes_at_its_step_and_no_token_is_lost_or_read_twice(
    tmp_path: Path, steps: list[dict[str, Any]], kind: dict[str, Any]
) -> None:
    result = train(make_config(tmp_path, **kind, warmup_steps=0, warmdown_share=0.0))
    tokens = [sum(batch.tokens.numel() for batch in step["batches"]) for step in steps]
    assert tokens == [128] * 6 + [256] * 14
    assert result.tokens == result.curve[-1][1] == sum(tokens)
    assert [step["passes"] for step in steps] == [1] * 8 + [2] * 6 + [3] * 6
    assert [step["phase"].quantized for step in steps] == [False] * 15 + [True] * 5
    lengths = [step["request"].seq_len for step in steps]
    assert lengths == [16] * 4 + [32] * 8 + [64] * 8
    assert [step["request"].first * 64 for step in steps] == [sum(tokens[:i]) for i in range(20)]
    if kind is PACKED:
        batches = [batch for step in steps for batch in step["batches"]]
        shapes = {(batch.tokens.shape, batch.documents.starts.shape) for batch in batches}
        assert len(shapes) == 1, "nothing to recompile but for the longest segment"
        assert [step["batches"][0].documents.longest for step in steps] == lengths
    else:
        assert [step["batches"][0].tokens.shape[1] for step in steps] == lengths
    ramp = [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    assert [step["scale"] for step in steps] == [1.0] * 4 + ramp + [1.0] * 5 + ramp + [1.0] * 5


@KINDS
def test_warm_up_sees_every_shape_of_the_run_and_leaves_no_trace(tmp_path: Path, kind: dict[str, Any]) -> None:
    config = make_config(tmp_path, **kind)
    with join(config.hardware) as ranks:
        run = set_up(config, make_plan(config.train, config.hardware, 1, 3), ranks)
        seen: set[tuple[Any, ...]] = set()
        forward = run.forward

        def spy(tokens: torch.Tensor, targets: torch.Tensor, **kept: Any) -> torch.Tensor:
            longest = kept["documents"].longest if kept else None
            quantized = run.state.model.embed.fake_quant is not None
            seen.add((tokens.shape, longest, run.state.model.passes, quantized))
            return forward(tokens, targets, **kept)

        run.forward = spy
        before = run.state.copy()
        warm_up(run)
        after = run.state.copy()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert run.phase is None
        assert len(list(distinct(run))) < len(run.plan.phases), "a longer step of the same shape is not new"
        warmed = set(seen)
        seen.clear()
        run.clock.begin(0.0)
        loop.optimize(run)
        assert seen == warmed


# Within both ramps; and a step after a larger batch, either pass of the loop, late QAT and SWA began.
INTERRUPTED = [5, 13, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 7, 9, 15, 16, 17, 19))]


@KINDS
@pytest.mark.parametrize("at", INTERRUPTED)
def test_a_run_interrupted_in_any_phase_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], at: int
) -> None:
    optim = {"muon_momentum_steps": 10, "wd_taper_share": 0.5, "muon_wd_final": 0.1, "newton_schulz": "polar_express"}
    config = make_config(tmp_path, optim=optim, **{**kind, "log_every": 1}, checkpoint_seconds=1e-9)
    expected = train(dataclasses.replace(config, checkpoints=None))
    whole = files(tmp_path / "out")
    monkeypatch.setattr(Store, "due", lambda _: True)  # also where the disk has not finished the one before
    interrupt(config, at, monkeypatch)
    result = train(dataclasses.replace(config, out=tmp_path / "resumed"))
    assert result.resumed
    assert files(tmp_path / "resumed") == whole
    assert (result.curve, result.tokens) == (expected.curve, expected.tokens)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_computes_the_same_over_documents(tmp_path: Path, count: int) -> None:
    """One rank finds the documents, all of them pack the same rows; the batch of 4 rows grows to 8."""
    kind = {**PACKED, "steps": 5, "micro_batch_tokens": 32, "seq_len": 32, "seq_growth": ((0.4, 16),)}
    config = make_config(tmp_path, **kind)
    train(dataclasses.replace(config, checkpoints=None))
    printed = run_ranks(count, tmp_path, tmp_path / "ranks", kind, program=PROGRAM)
    assert printed.count(" 5 steps") == count
    assert len(list((tmp_path / "checkpoints" / "documents").iterdir())) == 1
    for name in ("raw", "ema-0.98", "swa"):
        found, expected = load_state(tmp_path / "ranks", name), load_state(config.out, name)
        for tensor, value in expected.items():
            torch.testing.assert_close(found[tensor], value, rtol=0, atol=1e-6, msg=f"{name} {tensor}")


def test_packed_documents_train_a_model_that_keeps_them_apart(tmp_path: Path) -> None:
    result = train(make_config(tmp_path, model={"document_mask": True}, pack="documents", steps=40, qat_share=0.0))
    assert result.final_loss < 2.5


@pytest.mark.slow
@KINDS
def test_a_compiled_run_compiles_nothing_after_the_warm_up(
    tmp_path: Path, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graphs are what counts: the code that inductor makes of them for a CPU takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    config = dataclasses.replace(make_config(tmp_path, **kind), checkpoints=None)
    eager = train(config)
    compiled = train(dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, compile="on")))
    assert compiled.timing["recompiles"] == 0
    torch.testing.assert_close(torch.tensor(compiled.curve), torch.tensor(eager.curve), rtol=1e-3, atol=1e-4)
