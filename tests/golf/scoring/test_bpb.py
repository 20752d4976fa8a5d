"""Bits per byte, held against the worked vectors of the challenge."""

import math

import numpy as np
import pytest
import torch

from golf.data.bytecount import ByteTable
from golf.runtime.errors import DataError
from golf.scoring.bpb import SidecarBytes, Total, total


def table(*pieces: str) -> ByteTable:
    """BOS is id 0; a leading underscore marks a space, <XX> a byte."""
    text = [piece.removeprefix("_") for piece in pieces]
    base = [0, *(1 if piece.startswith("<") else len(piece.encode()) for piece in text)]
    space = [False, *(piece.startswith("_") for piece in pieces)]
    boundary = [True, *(False for _ in pieces)]
    return ByteTable(torch.tensor(base, dtype=torch.int16), torch.tensor(space), torch.tensor(boundary))


def test_hello_world() -> None:
    counts = table("H", "ello", "_world").count(torch.tensor([0, 1, 2, 3]))
    found = total(torch.tensor([2.0, 1.0, 3.0]), counts)
    assert found == Total(6.0, 3, 11)
    assert found.bits_per_byte == pytest.approx(0.786925, abs=1e-6)
    assert found.nats_per_token == 2.0
    assert found.bits_per_byte == pytest.approx(found.nats_per_token / math.log(2) / found.bytes_per_token)
    assert total(np.array([2.0, 1.0, 3.0]), counts + torch.tensor([0, 0, 1])).bits_per_byte == pytest.approx(
        0.721348, abs=1e-6
    )


@pytest.mark.parametrize(
    ("pieces", "needed"),
    [
        (("c", "af", "<C3>", "<A9>", "_costs", "_", "5", "<E2>", "<82>", "<AC>"), 16),
        (("<F0>", "<9F>", "<98>", "<80>", "_ok"), 7),
        (("H", "ello"), 5),
        (("_world",), 5),
    ],
)
def test_bytes_of_the_vectors(pieces: tuple[str, ...], needed: int) -> None:
    assert int(table(*pieces).count(torch.arange(len(pieces) + 1)).sum()) == needed


def test_a_document_start_costs_nats_and_counts_no_bytes() -> None:
    counts = table("a").count(torch.tensor([0, 1, 0, 1]))
    assert total(torch.tensor([1.0, 5.0, 1.0]), counts) == Total(7.0, 3, 2)


def test_totals_add_up_and_sum_in_double_precision() -> None:
    nll = torch.full((3_000_001,), 0.1, dtype=torch.float64)
    ones = torch.ones_like(nll, dtype=torch.int64)
    whole = total(nll, ones)
    assert whole.nats == pytest.approx(math.fsum([0.1] * 3_000_001), rel=1e-14)
    one, other = total(nll[:1000], ones[:1000]), total(nll[1000:], ones[1000:])
    assert (one.tokens + other.tokens, one.bytes + other.bytes) == (whole.tokens, whole.bytes)
    assert one.nats + other.nats == pytest.approx(whole.nats, rel=1e-14)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_makes_no_total(bad: float) -> None:
    with pytest.raises(DataError, match="1 of 3 targets have no finite score, the first at position 2"):
        total(torch.tensor([1.0, bad, 1.0]), torch.ones(3))


@pytest.mark.parametrize(("scores", "counts"), [(3, 2), (0, 0)])
def test_scores_and_bytes_must_match(scores: int, counts: int) -> None:
    with pytest.raises(DataError, match="needed one each a target"):
        total(torch.ones(scores), torch.ones(counts))


def test_no_bytes_no_value() -> None:
    with pytest.raises(DataError, match="stand for 0 bytes"):
        _ = total(torch.ones(2), torch.zeros(2)).bits_per_byte


def test_sidecar_counts_targets() -> None:
    sidecar = SidecarBytes(torch.tensor([0, 3, 1, 4]))
    assert sidecar.count(torch.zeros(4)).tolist() == [3, 1, 4]
    assert sidecar.count(torch.zeros(2)).tolist() == [3]
    with pytest.raises(DataError, match="4 counts for 5 tokens"):
        sidecar.count(torch.zeros(5))
