from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from golf.model.weights import build, load_state, tensor_groups
from golf.quant import candidates
from golf.quant.candidates import Choice, Score, choose, names, soup
from golf.quant.fast import quantize_fast
from golf.quant.heldout import HeldOut, bits_per_byte, read_heldout
from golf.quant.quantized import dequantize_model
from golf.runtime.errors import DataError, MissingInput
from tests.golf.quant import tiny

KINDS = ("raw", "ema", "swa", "soup")
GRIDS = {"bits": 6, "clip_sigma": 12.85, "embed_bits": 7, "embed_clip_sigma": 12.85}


@pytest.fixture
def heldout(tmp_path: Path) -> HeldOut:
    return read_heldout(tiny.write_data(tmp_path), tiny.byte_table(), tokens=512, seq_len=32, spec=tiny.SPEC)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tiny.write_run(
        tmp_path / "run", raw=tiny.state(1), ema_0_98=tiny.state(2), ema_0_9=tiny.state(3), swa=tiny.state(4)
    )


def test_all_kinds_are_found_in_order(run: Path) -> None:
    assert names(run, KINDS) == (["raw", "ema-0.9", "ema-0.98", "swa", "soup"], [])
    assert names(run, ("soup", "raw")) == (["raw", "soup"], [])


def test_what_training_did_not_keep_is_left_out(tmp_path: Path, heldout: HeldOut) -> None:
    run = tiny.write_run(tmp_path / "run", raw=tiny.state(1), ema_0_98=tiny.state(2))
    assert names(run, KINDS) == (["raw", "ema-0.98"], ["swa", "soup"]), "a soup of one average is that average"
    said: list[str] = []
    choice = choose(run, KINDS, heldout, **GRIDS, say=said.append)
    assert [score.name for score in choice.scores] == ["raw", "ema-0.98"]
    assert said == ["training kept nothing for swa, soup: left out"]
    with pytest.raises(MissingInput, match=r"needed weights for swa, found ema-0.98, raw"):
        names(run, ("swa",))
    with pytest.raises(MissingInput, match="found nothing"):
        names(tmp_path / "absent", KINDS)


def test_a_soup_is_the_mean_of_the_averages_without_raw(run: Path) -> None:
    mixed = soup(run)
    parts = [load_state(run, name) for name in ("ema-0.9", "ema-0.98", "swa")]
    for name, value in mixed.items():
        expected = torch.stack([part[name].double() for part in parts]).mean(0)
        assert value.dtype == torch.float32
        assert torch.allclose(value.double(), expected, atol=1e-7)


def test_a_soup_of_two_models_is_refused(run: Path) -> None:
    from safetensors.torch import save_file

    save_file({"embed.weight": torch.zeros(2, 2)}, run / "swa.safetensors")
    with pytest.raises(DataError, match=r"swa and ema-0.9 are not of one model"):
        soup(run)


def test_every_candidate_is_scored_before_and_after_and_the_best_after_wins(run: Path, heldout: HeldOut) -> None:
    choice = choose(run, KINDS, heldout, bits=4, clip_sigma=3.0, embed_bits=5, embed_clip_sigma=3.0)
    assert [score.name for score in choice.scores] == ["raw", "ema-0.9", "ema-0.98", "swa", "soup"]
    for score in choice.scores:
        state = soup(run) if score.name == "soup" else load_state(run, score.name)
        model = build(tiny.SPEC, state)
        rounded = quantize_fast(state, tensor_groups(model), 4, 3.0, 5, 3.0, spec=tiny.SPEC)
        assert score.pre_bpb == bits_per_byte(model, heldout)
        assert score.post_bpb == bits_per_byte(build(tiny.SPEC, dequantize_model(rounded)), heldout)
        assert score.pre_bpb != score.post_bpb
    assert choice.name == min(choice.scores, key=lambda score: score.post_bpb).name
    expected = soup(run) if choice.name == "soup" else load_state(run, choice.name)
    assert all(torch.equal(choice.state[name], value) for name, value in expected.items())


def test_embeddings_are_judged_at_their_own_width(run: Path, heldout: HeldOut) -> None:
    choice = choose(run, ("raw",), heldout, bits=4, clip_sigma=3.0, embed_bits=7, embed_clip_sigma=5.0)
    state = load_state(run, "raw")
    rounded = quantize_fast(state, tensor_groups(build(tiny.SPEC, state)), 4, 3.0, 7, 5.0, spec=tiny.SPEC)
    assert choice.scores[0].post_bpb == bits_per_byte(build(tiny.SPEC, dequantize_model(rounded)), heldout)


def test_an_average_that_wins_before_quantisation_and_loses_after_it_is_not_chosen(
    tmp_path: Path, heldout: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are made up by name: raw 2.00 -> 2.05, the average 1.99 -> 2.10."""
    run = tiny.write_run(tmp_path / "run", raw=tiny.state(1), ema_0_98=tiny.state(2))
    scores = iter([2.00, 2.05, 1.99, 2.10])
    monkeypatch.setattr(candidates, "bits_per_byte", lambda model, text: next(scores))
    choice = choose(run, KINDS, heldout, **GRIDS)
    assert choice.name == "raw"
    assert torch.equal(choice.state["embed.weight"], tiny.state(1)["embed.weight"])
    assert choice.report() == {
        "chosen": "raw",
        "post_bpb": {"raw": 2.05, "ema-0.98": 2.10},
        "pre_bpb": {"raw": 2.00, "ema-0.98": 1.99},
    }


def test_quantisation_itself_can_turn_the_choice(tmp_path: Path, heldout: HeldOut) -> None:
    """No made-up scores: equal before quantisation, but one candidate's rows have outliers that the grid clips."""
    plain = tiny.state(1)
    spiky = {name: value.clone() for name, value in plain.items()}
    up, down = "blocks.1.mlp.up.weight", "blocks.1.mlp.down.weight"
    spiky[up][0] *= 16  # a hidden unit 16 times larger and squared ...
    spiky[down][:, 0] /= 256  # ... read 256 times smaller: the same function, a ruined grid for `down`
    spiky[down][:, 1] *= 256
    spiky[up][1] /= 16
    run = tiny.write_run(tmp_path / "run", raw=spiky, ema_0_98=plain)
    choice = choose(run, ("raw", "ema"), heldout, bits=4, clip_sigma=4.0, embed_bits=5, embed_clip_sigma=4.0)
    raw, average = choice.scores
    assert raw.pre_bpb == pytest.approx(average.pre_bpb, abs=1e-4)
    assert raw.post_bpb > average.post_bpb
    assert choice.name == "ema-0.98"


def test_of_equals_the_first_is_taken(tmp_path: Path, heldout: HeldOut) -> None:
    same = tiny.state(1)
    run = tiny.write_run(tmp_path / "run", raw=same, ema_0_9=same, swa=same)
    assert choose(run, KINDS, heldout, **GRIDS).name == "raw"
    assert choose(run, ("swa", "ema"), heldout, **GRIDS).name == "ema-0.9"


def test_the_report_stays_small_and_the_table_whole(tmp_path: Path) -> None:
    scores = tuple(Score(f"ema-0.{i}", 2.0, 2.2 - 0.01 * i) for i in range(1, 10))
    choice = Choice("ema-0.9", {}, scores)
    report = choice.report()
    assert list(report["post_bpb"]) == ["ema-0.5", "ema-0.6", "ema-0.7", "ema-0.8", "ema-0.9"]
    choice.write_table(tmp_path / "candidates.csv")
    lines = (tmp_path / "candidates.csv").read_text().splitlines()
    assert lines[0] == "name,pre_bpb,post_bpb,chosen"
    assert len(lines) == 10
    assert [line.endswith(",1") for line in lines[1:]] == [False] * 8 + [True]


def _nan(state: dict[str, Tensor]) -> None:
    state["blocks.0.mlp.up.weight"][3, 1] = float("nan")


def _huge(state: dict[str, Tensor]) -> None:
    state["smear.gate"][0] = 1e6


def _lost(state: dict[str, Tensor]) -> None:
    del state["smear.gate"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan, r"candidate swa: blocks.0.mlp.up.weight: 1 values NaN or infinite, the first at \(3, 1\)"),
        (_huge, r"candidate swa: smear.gate: found a value of magnitude 1e\+06"),
        (_lost, r"candidate swa: .*smear.gate missing"),
    ],
)
def test_a_broken_candidate_is_named(
    tmp_path: Path, heldout: HeldOut, damage: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    broken = tiny.state(2)
    damage(broken)
    run = tiny.write_run(tmp_path / "run", raw=tiny.state(1), swa=broken)
    with pytest.raises(DataError, match=message):
        choose(run, ("raw", "swa"), heldout, **GRIDS)
