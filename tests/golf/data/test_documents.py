"""Documents share out the targets of a stream."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from golf.data import documents as module
from golf.data.documents import SCORES, costs, edges, exponents, gains, write_csv, write_parquet

BOS = 1


@pytest.mark.parametrize(
    ("tokens", "starts"),
    [
        ([1, 5, 6, 1, 7], [0, 3]),
        ([5, 6, 1, 7, 8], [0, 2]),  # what stands before the first BOS is a document too
        ([1, 1, 1, 5], [0, 1, 2]),  # empty documents
        ([1, 5, 1], [0]),  # a BOS at the end is the last target of the one before
        ([4, 5], [0]),
    ],
)
def test_edges(tokens: list[int], starts: list[int]) -> None:
    assert edges(np.array(tokens), BOS).tolist() == starts


def made(seed: int, size: int = 3000) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 50, size)
    tokens[rng.random(size) < 0.02] = BOS
    tokens[0] = BOS
    tokens[1:][(tokens[1:] == BOS) & (tokens[:-1] == BOS)] = 2  # a bin of empty documents alone has no bpb
    counts = np.where(tokens[1:] == BOS, 0, rng.integers(1, 6, size - 1))
    nll = {name: rng.exponential(3.0, size - 1) for name in SCORES}
    return edges(tokens, BOS), counts, nll


@pytest.mark.parametrize("seed", range(5))
def test_documents_and_bins_sum_to_the_whole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 700)
    starts, counts, nll = made(seed)
    columns = costs(starts, counts, nll)
    assert columns["tokens"].sum() == counts.size
    assert columns["bytes"].sum() == counts.sum()
    rows = gains(starts, counts, nll)
    for name in SCORES:
        whole = math.fsum(nll[name])
        assert math.fsum(columns[f"{name}_nats"]) == pytest.approx(whole, rel=1e-14)
        for by in ("length", "position"):
            mine = [row for row in rows if row["by"] == by]
            bits = sum(row[f"{name}_bpb"] * row["bytes"] for row in mine)
            assert bits == pytest.approx(whole / math.log(2), rel=1e-6)


def test_bins_hold_what_their_names_say() -> None:
    starts, counts = np.array([0, 4]), np.array([1, 1, 1, 0, 1, 1, 1])  # documents of 4 and 3 targets
    nll = {name: np.full(7, cost) for name, cost in zip(SCORES, (3.0, 2.0, 1.0), strict=True)}
    rows = {(row["by"], row["tokens"]): row for row in gains(starts, counts, nll)}
    assert list(rows) == [("length", 2), ("length", 4), ("position", 1), ("position", 2)]
    assert rows["length", 4]["targets"] == 4
    assert rows["position", 1]["targets"] == 2  # the first after each BOS
    assert rows["position", 2]["targets"] == 4
    assert rows["position", 2]["documents"] == 2
    assert rows["length", 2]["gain_bpb"] == pytest.approx(2 / math.log(2), abs=1e-6)
    assert rows["length", 2]["sliding_gain_bpb"] == pytest.approx(1 / math.log(2), abs=1e-6)


def test_exponents() -> None:
    assert exponents(np.array([1, 2, 3, 4, 1023, 1024, 2**40])).tolist() == [0, 1, 1, 2, 9, 10, 40]


def test_files(tmp_path: Path) -> None:
    starts, counts, nll = np.array([0, 1]), np.array([0, 3, 2]), {name: np.ones(3) for name in SCORES}
    write_parquet(tmp_path / "a.parquet", costs(starts, counts, nll))
    read = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert read["final_bpb"] == [None, 2 / math.log(2) / 5]  # no bytes, no bits per byte
    assert read["start"] == [0, 1]
    rows = gains(starts, counts, nll)
    write_csv(tmp_path / "a.csv", rows)
    assert [row["tokens"] for row in csv.DictReader((tmp_path / "a.csv").open())] == [
        str(row["tokens"]) for row in rows
    ]
