"""The text of calibration and its passes: shared by ranks, cut by documents, written by the model, ended by a clock."""

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from golf.data.loader import Rows
from golf.data.shards import read_split
from golf.model.attention import Documents
from golf.model.weights import ModelSpec, build
from golf.params.quant import Quant
from golf.quant.calibration import ROW_SEGMENTS, Passes, calibration_text, generate, training_text
from golf.quant.curvature import calibrate, curvature
from golf.quant.hessian import collect
from golf.runtime.errors import DataError
from tests.golf.quant import tiny
from tests.ranks import run_ranks

WINDOWS = torch.from_numpy(tiny.tokens(11 * 21).astype("int64")).view(11, 21)
MASKED = ModelSpec(dataclasses.replace(tiny.CONFIG, document_mask=True, bos_mask=True), tiny.VOCAB)
CPU = torch.device("cpu")
PROGRAM = """
import sys, torch
from pathlib import Path
from golf.model.weights import build
from golf.params.hardware import Hardware
from golf.quant.calibration import generate, training_text
from golf.quant.curvature import calibrate, curvature
from golf.train.distributed import join
from tests.golf.quant import test_calibration as made, tiny
shards, out = map(Path, sys.argv[1:])
with join(Hardware(device="cpu")) as ranks:
    found = made.everything(shards, ranks)
    torch.save(found, out / f"{ranks.count}-{ranks.index}.pt")
"""


class Rank:
    """One of ``count`` that sum what they have in common; here in turn, so the sums are the test's to make."""

    def __init__(self, index: int, count: int) -> None:
        self.index, self.count = index, count

    def sum_(self, tensor: torch.Tensor) -> "Rank":
        return self

    def wait(self) -> None:
        pass


def everything(shards: Path, ranks: object = None) -> dict[str, torch.Tensor]:
    """What calibration gives: on windows and on documents, with and without the backward pass, and on own text."""
    text = training_text(shards, tokens=800, seq_len=20, seed=3, spec=MASKED)
    own = generate(tiny.model(), 5, 12, 3, ranks)
    masked = build(MASKED, tiny.state())
    found = {
        "windows": calibrate(tiny.model(), WINDOWS, "row", ranks, batch=2, progress=False),
        "documents": calibrate(masked, text, "curvature", ranks, batch=3, progress=False),
        "few": calibrate(masked, text, "curvature", ranks, batch=100, progress=False),  # one pass for all ranks
        "own": calibrate(tiny.model(), own, "row", ranks, batch=1, progress=False),
    }
    numbers = {f"{key} {name}": value for key, part in found.items() for name, value in part.hessians.items()}
    numbers |= {f"{key} outputs {name}": value for key, part in found.items() for name, value in part.outputs.items()}
    numbers |= {
        f"{key} gain {name}": torch.tensor(value) for key, part in found.items() for name, value in part.gains.items()
    }
    return numbers | {f"{key} tokens": torch.tensor(part.tokens) for key, part in found.items()} | {"text": own}


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_finds_the_same_hessians(tmp_path: Path, count: int) -> None:
    shards = tiny.write_data(tmp_path)
    run_ranks(count, shards, tmp_path, program=PROGRAM)
    alone = everything(shards)
    for rank in range(count):
        found = torch.load(tmp_path / f"{count}-{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.parametrize("rows", range(1, 10))
@pytest.mark.parametrize("batch", range(1, 5))
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_row_is_in_one_pass_of_one_rank(rows: int, batch: int, count: int) -> None:
    text = torch.arange(rows)[:, None].expand(rows, 4).contiguous()
    seen, whole = [], 0
    for index in range(count):
        passes = Passes(text, batch, CPU, Rank(index, count))
        came = [tokens for tokens, _ in passes]
        assert came, "a rank without a pass learns the shapes from another's"
        assert len(came) == len(passes)
        seen += [] if passes.idle else torch.cat(came)[:, 0].tolist()
        whole += passes.done
    assert sorted(seen) == list(range(rows))
    assert whole == 3 * rows


def test_one_process_sums_nothing() -> None:
    class Nobody(Rank):
        def sum_(self, tensor: torch.Tensor) -> "Rank":
            raise AssertionError("summed over one")

    found = calibrate(tiny.model(), WINDOWS, "curvature", Nobody(0, 1), batch=2, progress=False)
    alone = curvature(tiny.model(), WINDOWS, 2)
    assert torch.equal(found.hessians["blocks.0.mlp.up.weight"], alone.hessians["blocks.0.mlp.up.weight"])
    assert found.tokens == 11 * 20


def test_documents_are_kept_apart_as_in_training(tmp_path: Path) -> None:
    shards = tiny.write_data(tmp_path)
    model = build(MASKED, tiny.state())
    text = training_text(shards, tokens=1600, seq_len=20, seed=3, spec=MASKED)
    assert text.tokens.shape == (1600 // (20 * ROW_SEGMENTS), 20 * ROW_SEGMENTS + 1)
    found, inputs = collect(model, text, 3), []
    hook = model.blocks[1].attention.output.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    with torch.no_grad():
        for row, starts in zip(text.tokens.long(), text.starts, strict=True):  # as training's feed gives them
            model(row[None, :-1], documents=Documents(starts, text.longest))
    x = torch.cat(inputs).double()
    hook.remove()
    hessian = found["blocks.1.attention.output.weight"]
    torch.testing.assert_close(hessian, x.T @ x / x.shape[0], rtol=1e-4, atol=1e-6)
    across = collect(model, text.tokens.long(), 3)["blocks.1.attention.output.weight"]
    assert not torch.allclose(hessian, across, rtol=1e-2), "segments that are cut at seq_len count"
    begins = [
        row[start]
        for row, starts in zip(text.tokens, text.starts.tolist(), strict=True)
        for start in starts[:-1]
        if start < 80
    ]
    assert sum(int(token) == 1 for token in begins) > 10, "documents, from their BOS on"


def test_without_the_mask_the_text_is_what_it_was(tmp_path: Path) -> None:
    shards = tiny.write_data(tmp_path)
    text = training_text(shards, tokens=320, seq_len=32, seed=3, spec=tiny.SPEC)
    assert text.starts is None
    assert text.tokens.shape == (10, 33)


def test_all_of_a_short_text_is_taken_and_said(tmp_path: Path) -> None:
    shards, said = tiny.write_data(tmp_path, train=500), []
    text = training_text(shards, tokens=5000, seq_len=32, seed=3, spec=MASKED, say=said.append)
    assert 0 < text.tokens.numel() <= 500
    assert "of the 5,000 tokens asked for: taking all" in said[0]
    tiny_text = training_text(shards, tokens=5000, seq_len=4000, seed=3, spec=MASKED)
    assert tiny_text.tokens.shape[0] == 1


def test_the_model_writes_the_same_text_from_bos_on(tmp_path: Path) -> None:
    model, config = tiny.model(), Quant(calibration="self", calibration_tokens=256, seq_len=16)
    text = calibration_text(model, tmp_path / "nowhere", config, tiny.SPEC, 5, print)
    again = calibration_text(model, tmp_path / "nowhere", config, tiny.SPEC, 5, print)
    other = calibration_text(model, tmp_path / "nowhere", config, tiny.SPEC, 6, print)
    assert text.tokens.shape == (16, 17)
    assert torch.equal(text.tokens, again.tokens)
    assert not torch.equal(text.tokens, other.tokens)
    assert bool((text.tokens[:, 0] == 1).all())
    assert len({tuple(row.tolist()) for row in text.tokens}) > 8
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_model_writes_by_its_own_chances() -> None:
    model = tiny.model()
    with torch.no_grad():
        chances = model(torch.ones(1, 1, dtype=torch.int64))[0, -1].softmax(-1)
    drawn = torch.bincount(generate(model, 4000, 1, seed=0)[:, 1], minlength=tiny.VOCAB) / 4000
    assert float((drawn - chances).abs().max()) < 0.03


def test_it_writes_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf.quant.calibration.MOST_GENERATED", 64)
    said: list[str] = []
    config = Quant(calibration="self", calibration_tokens=256, seq_len=16)
    text = calibration_text(tiny.model(), "", config, tiny.SPEC, 5, said.append)
    assert text.tokens.shape == (4, 17)
    assert said == ["64 tokens of the model's own instead of 256: each is a forward pass"]


@pytest.mark.parametrize(
    ("step", "limit", "read"), [(1.0, 100.0, 11), (1.0, 4.5, 4), (1.0, 0.5, 1), (0.0, 0.0, 11), (1.0, -3.0, 1)]
)
def test_no_pass_begins_that_would_end_after_its_time(
    monkeypatch: pytest.MonkeyPatch, step: float, limit: float, read: int
) -> None:
    now = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    passes = Passes(WINDOWS, 1, CPU, None, limit)
    for _ in passes:
        now[0] += step
    assert passes.done == read * 20
    assert now[0] - 50.0 <= max(limit, step), "never over, but for the one pass that must be"


def test_a_short_time_gives_the_hessians_of_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(time, "perf_counter", tick)
    found = calibrate(tiny.model(), WINDOWS, "row", None, 3.5, batch=1, progress=False)
    assert 0 < found.tokens < 11 * 20
    expected = collect(tiny.model(), WINDOWS[: found.tokens // 20], 1)
    assert all(torch.equal(found.hessians[name], value) for name, value in expected.items())


@pytest.mark.parametrize("shape", [(0, 9), (3, 1)])
def test_rows_without_text_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="calibration: found windows"):
        Passes(Rows(torch.zeros(shape, dtype=torch.int32), None, 3), 1, CPU)


def test_text_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    shards = tiny.write_data(tmp_path)
    small = ModelSpec(MASKED.config, 20)
    with pytest.raises(DataError, match=r"train split: found token \d+, needed 0 to 19"):
        training_text(shards, tokens=800, seq_len=20, seed=3, spec=small)
    assert int(read_split(shards, "train").max()) >= 20
