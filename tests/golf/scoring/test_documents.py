"""How a stream becomes documents, groups and pieces."""

import pytest
import torch

from golf.scoring.documents import Document, Pieces, deal, group, phases, split

BOS = 1


def stream(seed: int) -> list[int]:
    """2 to 59 tokens, a third of them BOS."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(BOS, BOS + 3, (2 + seed % 58,), generator=generator).tolist()


@pytest.mark.parametrize("seed", range(60))
def test_every_target_is_one_document_s(seed: int) -> None:
    ids = stream(seed)
    documents = split(torch.tensor(ids), BOS)
    covered = [target for start, stop in documents for target in range(start + 1, stop + 1)]
    assert covered == list(range(1, len(ids)))
    assert all(ids[start] == BOS for start, _ in documents[1:])
    assert not any(BOS in ids[start + 1 : stop] for start, stop in documents)


@pytest.mark.parametrize("size", [0, 1, 7, 30])
@pytest.mark.parametrize("seed", range(20, 60))
def test_phases_of_a_stream_that_ends_early_are_those_of_the_whole(seed: int, size: int) -> None:
    ids, cut = stream(seed), 2 + seed // 2
    whole = phases(split(torch.tensor(ids), BOS), size)
    assert [document for run in whole for document in run] == split(torch.tensor(ids), BOS)
    assert len(whole) == 1 or size > 0
    assert all(sum(stop - start for start, stop in run) >= size for run in whole[:-1])
    early = phases(split(torch.tensor(ids[:cut]), BOS), size)
    assert early[:-1] == whole[: len(early) - 1]


def test_groups_hold_documents_of_like_length_and_hands_are_even() -> None:
    documents, start = [], 0
    for length in torch.randint(1, 900, (500,), generator=torch.Generator().manual_seed(0)).tolist():
        documents.append(Document(start, start + length))
        start += length
    groups = group(documents, 16)
    assert sorted(document for members in groups for document in members) == documents
    lengths = [document.length for members in groups for document in members]
    assert lengths == sorted(lengths, reverse=True)
    hands = deal(groups, 4, Pieces(32, 0.0, 256))
    assert sorted(document for hand in hands for members in hand for document in members) == documents
    loads = [sum(document.length for members in hand for document in members) for hand in hands]
    assert max(loads) - min(loads) <= 0.05 * max(loads)


def test_a_long_document_is_a_hand_of_its_own_as_its_pieces_come_one_after_the_other() -> None:
    groups = [[Document(0, 20_000)], *([Document(20_000 + i * 990, 20_990 + i * 990)] * 16 for i in range(14))]
    cut = Pieces(100, 0.0, 1000)
    hands = deal(groups, 3, cut)
    assert hands[0] == groups[:1], "200 pieces of one row, fewer targets than two of the others"
    assert [sum(len(list(cut(members[0].length))) for members in hand) for hand in hands] == [200, 70, 70]


@pytest.mark.parametrize("growth", [0.0, 0.125, 1.0])
@pytest.mark.parametrize(("first", "window"), [(32, 1024), (8, 16), (3, 7), (1, 2)])
def test_pieces_cover_a_row(first: int, window: int, growth: float) -> None:
    cut = Pieces(first, growth, window)
    whole = list(cut(5000))
    expected = 0
    for start, stop in whole:
        assert start == expected
        assert stop > start
        assert (stop - start) % first == 0
        assert stop - start <= max(first, window // 4)
        expected = stop
    assert expected >= 5000
    for length in (1, first, first + 1, 999):
        assert list(cut(length)) == [piece for piece in whole if piece[0] < length]


def test_later_pieces_are_longer() -> None:
    lengths = [stop - start for start, stop in Pieces(32, 0.125, 1024)(100_000)]
    assert lengths[0] == 32
    assert max(lengths) == 256
    assert lengths == sorted(lengths)
    assert len(lengths) < 430
