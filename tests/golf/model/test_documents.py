"""Attention within documents, as the whole model sees it."""

import pytest
import torch

from golf.model.attention import Documents
from golf.model.transformer import document_ids
from tests.golf.model.tiny import BOS, EVERYTHING, tiny, tokens

LENGTHS = (5, 9, 1, 7)
SWITCHES = [{}, EVERYTHING, {"smear_kind": "token", "rope_train_len": 9, "loop_last": 1, "loop_passes": 2}]


def packed():
    """Documents one behind the other in one row, and where they lie, padded as a loader pads."""
    parts = [tokens(batch=1, length=length, seed=length) for length in LENGTHS]
    for part in parts:
        part[part == BOS] = 2
        part[0, 0] = BOS
    total = sum(LENGTHS)
    starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS))] + [total] * 4
    return parts, torch.cat(parts, dim=1), Documents(torch.tensor(starts, dtype=torch.int32), max(LENGTHS))


def test_documents_are_numbered_by_their_bos():
    ids = torch.tensor([[5, BOS, 6, BOS, BOS], [BOS, 5, 6, 7, 8]])
    assert document_ids(ids, BOS).tolist() == [[0, 1, 1, 2, 3], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_packed_row_scores_as_its_documents_alone(switches):
    model = tiny(**switches, document_mask=True)
    parts, row, documents = packed()
    with torch.no_grad():
        alone = torch.cat([model(part) for part in parts], dim=1)
        found = model(row, documents=documents)
        assert torch.allclose(found, alone, atol=1e-4)
        assert not torch.allclose(tiny(**switches)(row), alone, atol=1e-2)
    if not switches.get("rope_train_len"):
        assert torch.allclose(model(row), found, atol=1e-5)  # each BOS begins a document


def test_a_segment_may_end_inside_a_document():
    """A document longer than the longest segment goes on in the next, whose first token still has its predecessor."""
    model = tiny(document_mask=True)
    ids = tokens(batch=2, length=12)
    starts = torch.tensor([0, 4, 6, 12, 16, 18, 24], dtype=torch.int32)
    changed = ids.clone()
    changed[:, :2] = (changed[:, :2] + 9) % 50 + 2  # token 2 is within reach: by the bigram of token 3
    with torch.no_grad():
        one, two = (model(t, documents=Documents(starts, 6)) for t in (ids, changed))
    assert torch.equal(one[:, 4:], two[:, 4:])
    assert not torch.allclose(one[:, 3], two[:, 3], atol=1e-3)
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 9) % 50 + 2
    with torch.no_grad():
        assert not torch.allclose(model(changed, documents=Documents(starts, 6))[:, 4], one[:, 4], atol=1e-3)


def test_without_the_mask_documents_change_nothing():
    model = tiny()
    _, row, documents = packed()
    assert torch.equal(model(row, documents=documents), model(row))


def test_a_packed_row_does_not_stretch_the_rope():
    _, row, documents = packed()
    with torch.no_grad():
        plain, stretching = (tiny(document_mask=True, rope_train_len=length) for length in (0, 9))
        assert torch.equal(stretching(row, documents=documents), plain(row, documents=documents))
        assert not torch.allclose(stretching(row), plain(row), atol=1e-3)


def test_documents_trace_into_one_graph():
    torch.compiler.reset()
    model = tiny(num_layers=2, document_mask=True)
    _, row, documents = packed()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    assert torch.allclose(compiled(row, documents=documents), model(row, documents=documents), atol=1e-5)
    assert torch.allclose(compiled(row), model(row), atol=1e-5)
