"""Which weights go on: each candidate's bits per byte before and after quantisation, on held-out training text.

An average can win before quantisation and lose after it, so the choice is made after.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from golf.model.weights import ModelSpec, build, load_spec, load_state, tensor_groups
from golf.optim import averaging
from golf.quant.fast import quantize_fast
from golf.quant.heldout import HeldOut, bits_per_byte
from golf.quant.quantized import dequantize_model
from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import whole_file
from golf.runtime.progress import Progress

REPORTED = 5  # candidates in the report; all are in candidates.csv


@dataclass(frozen=True)
class Score:
    """Bits per byte of one candidate on the held-out text."""

    name: str
    pre_bpb: float
    post_bpb: float


@dataclass(frozen=True)
class Choice:
    """The candidate with the smallest ``post_bpb``; of equals the first."""

    name: str
    state: dict[str, Tensor]
    scores: tuple[Score, ...]  # in the order of scoring

    def report(self) -> dict[str, object]:
        """The choice and the scores of the best few, in the order of scoring."""
        best = sorted(self.scores, key=lambda score: score.post_bpb)[:REPORTED]
        shown = [score for score in self.scores if score in best]
        return {
            "chosen": self.name,
            "post_bpb": {score.name: round(score.post_bpb, 6) for score in shown},
            "pre_bpb": {score.name: round(score.pre_bpb, 6) for score in shown},
        }

    def write_table(self, path: Path | str) -> None:
        """All scores as CSV: name, pre_bpb, post_bpb, chosen (0 or 1)."""
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["name", "pre_bpb", "post_bpb", "chosen"])
            for score in self.scores:
                rows.writerow(
                    [score.name, f"{score.pre_bpb:.8f}", f"{score.post_bpb:.8f}", int(score.name == self.name)]
                )


def names(folder: Path | str, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The candidates that training left in ``folder``, and those asked for that it did not keep.

    ``ema`` stands for every decay; the order is raw, the decays, swa, soup. A soup takes two averages or more.

    Raises:
        MissingInput: there is none.
    """
    kept = {path.stem for path in Path(folder).glob("*.safetensors")}
    decays = sorted(name for name in kept if name.startswith("ema-"))
    averages = decays + ["swa"] * ("swa" in kept)
    offers = {
        "raw": ["raw"] * ("raw" in kept),
        "ema": decays,
        "swa": ["swa"] * ("swa" in kept),
        "soup": ["soup"] * (len(averages) >= 2),
    }
    found = [name for kind, offer in offers.items() if kind in wanted for name in offer]
    if not found:
        asked = ", ".join(wanted)
        present = ", ".join(sorted(kept)) or "nothing"
        raise MissingInput(f"{folder}: needed weights for {asked}, found {present}", hint="dvc repro train")
    return found, [kind for kind in wanted if not offers[kind]]


def states(folder: Path | str, chosen: Sequence[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each candidate's weights, one at a time."""
    for name in chosen:
        yield name, soup(folder) if name == "soup" else load_state(folder, name)


def soup(folder: Path | str) -> dict[str, Tensor]:
    """The mean of all averages in ``folder``; see :func:`golf.optim.averaging.soup`.

    Raises:
        MissingInput: there is no average.
        DataError: they are not averages of one model.
    """
    averages = sorted(path.stem for path in Path(folder).glob("*.safetensors") if path.stem != "raw")
    if not averages:
        raise MissingInput(f"{folder}: no average to mix", hint="dvc repro train")
    try:
        return averaging.soup(states(folder, averages))
    except DataError as error:
        raise DataError(f"{folder}: {error}", hint="dvc repro --force train") from None


def choose(
    folder: Path | str,
    wanted: Sequence[str],
    heldout: HeldOut,
    *,
    bits: int,
    clip_sigma: float,
    embed_bits: int,
    embed_clip_sigma: float,
    attention: str = "sdpa",
    device: torch.device | str = "cpu",
    say: Callable[[str], None] | None = None,
) -> Choice:
    """Score every candidate in ``folder`` before and after fast quantisation and take the best one after.

    Args:
        folder: what training kept: ``NAME.safetensors`` and model.json.
        wanted: kinds of candidates: raw, ema, swa, soup.
        heldout: text that they are scored on.
        bits: width of the matrices.
        clip_sigma: clip of the grid, in standard deviations of a row.
        embed_bits: width of the embeddings.
        embed_clip_sigma: their clip.
        attention: see :func:`golf.model.attention.choose_backend`.
        device: where they are scored.
        say: called with a line for a candidate that training did not keep.

    Raises:
        MissingInput: no candidate.
        DataError: weights are NaN or infinite, or do not fit model.json.
    """
    spec = load_spec(folder)
    found, absent = names(folder, wanted)
    if absent and say is not None:
        say(f"training kept nothing for {', '.join(absent)}: left out")
    grids = (bits, clip_sigma, embed_bits, embed_clip_sigma)
    scores: list[Score] = []
    best: tuple[float, str, dict[str, Tensor]] | None = None
    with Progress("select", total=len(found)) as bar:
        for name, state in states(folder, found):
            result = score(name, state, spec, heldout, grids, attention, device)
            scores.append(result)
            if best is None or result.post_bpb < best[0]:
                best = (result.post_bpb, name, state)
            bar.advance(1, f"{name} {result.post_bpb:.4f} bpb")
    assert best is not None
    return Choice(best[1], best[2], tuple(scores))


def score(
    name: str,
    state: dict[str, Tensor],
    spec: ModelSpec,
    heldout: HeldOut,
    grids: tuple[int, float, int, float],
    attention: str,
    device: torch.device | str,
) -> Score:
    """The candidate ``name`` with the weights ``state``; ``grids`` are width and clip of the matrices and embeddings.

    Raises:
        DataError: weights are NaN or infinite, or do not fit ``spec``.
    """
    try:
        model = build(spec, state, attention, device)
        groups = tensor_groups(model)
        quantised = quantize_fast(state, groups, *grids, spec=spec)
        pre = bits_per_byte(model, heldout)
        model = build(spec, dequantize_model(quantised), attention, device)
        return Score(name, pre, bits_per_byte(model, heldout))
    except DataError as error:
        raise DataError(f"candidate {name}: {error}") from None
