"""A row read piece by piece is the row read at once."""

import dataclasses

import pytest
import torch

from golf.model.attention import Documents
from golf.model.past import FixedPast, Past
from golf.model.transformer import Transformer
from tests.golf.model.tiny import BOS, EVERYTHING, tiny, tokens

KINDS = {
    "plain": {},
    "everything": EVERYTHING,
    "smeared": {"smear_gate": True, "smear_kind": "channel"},
    "token smear": {"smear_gate": True, "smear_kind": "token", "gate_inputs": 6},
    "no masks": {"smear_gate": True, "bos_mask": True, "document_mask": False},
    "unmasked": {"smear_gate": True, "bos_mask": False, "document_mask": False},
    "looped": {"loop_first": 1, "loop_last": 2, "loop_passes": 3, "unet_skips": "gated"},
    "lanes": {"parallel": "two_lane", "parallel_from": 2, "attention_gate": "sparse", "gate_inputs": 8},
    "stretched": {"rope_train_len": 8},
}


def rows() -> torch.Tensor:
    """(3, 40): a document a row."""
    ids = tokens(3, 40)
    ids[:, 20] = 7
    ids[:, 0] = BOS
    return ids


@torch.no_grad()
def pieces(model: Transformer, ids: torch.Tensor, lengths: list[int], limit: int) -> torch.Tensor:
    past, found, start = Past(limit), [], 0
    for length in lengths:
        found.append(model(ids[:, start : start + length], past=past))
        start += length
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[40], [1, 1, 38], [13, 27], [8, 8, 8, 8, 8], [39, 1]])
def test_pieces_give_the_logits_of_the_whole(kind: str, lengths: list[int]) -> None:
    model, ids = tiny(**KINDS[kind]).eval(), rows()
    with torch.no_grad():
        whole = model(ids)
    torch.testing.assert_close(pieces(model, ids, lengths, 40), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unmasked"])
@pytest.mark.parametrize("window", [40, 17, 8])
def test_pieces_in_fixed_memory_give_the_same(kind: str, window: int) -> None:
    """Twice, with other rows the second time; what stands behind the piece is none."""
    model, ids = tiny(**KINDS[kind]).eval(), rows()
    ids[1, 0] = 5  # a document without a BOS
    fixed = FixedPast(window, 3, ids.device)
    with torch.no_grad():
        for some in (slice(0, 3), slice(1, 3)):
            fixed.forget()
            past = Past(window)
            for start in range(0, 40, 8):
                fixed.make_room(8)
                found = model(ids[some, start : start + 8], past=fixed)
                fixed.advance()
                expected = model(ids[some, start : start + 8], past=past)
                torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
            for room in fixed._pairs[0]:
                room.fill_(torch.nan)  # as of a document that learnt too much


def test_gradients_in_fixed_memory_are_the_piece_s() -> None:
    model, ids = tiny(num_layers=2).eval(), rows()
    past, fixed = Past(40), FixedPast(40, 3, ids.device)
    for own in (past, fixed):
        fixed.make_room(16)
        with torch.no_grad():
            model(ids[:, :16], past=own)
    fixed.advance()
    fixed.make_room(8)
    found = [torch.autograd.grad(model(ids[:, 16:24], past=own).sum(), [*model.parameters()]) for own in (fixed, past)]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[40], [13, 27], [8, 8, 8, 8, 8], [1] * 40])
def test_a_query_sees_so_many_keys_in_each_layer(kind: str, lengths: list[int]) -> None:
    """However the row is cut, the logits are those of the whole row in one segment with that window."""
    model, ids = tiny(**KINDS[kind]).eval(), rows()
    model.config = dataclasses.replace(model.config, document_mask=True)  # so that it is told of the window
    segment = Documents(torch.tensor([0, 40], dtype=torch.int32), 40, 9)
    changed = ids.clone()
    changed[:, 2] = 9
    with torch.no_grad():
        whole, other = (torch.cat([model(row[None], documents=segment) for row in each]) for each in (ids, changed))
    torch.testing.assert_close(pieces(model, ids, lengths, 9), whole, rtol=0, atol=2e-5)
    assert not torch.equal(other, whole)


def test_every_piece_sees_the_row_s_first_tokens() -> None:
    model, ids = tiny(num_layers=1, xsa_layers=1, value_embed_layers=1, smear_gate=False).eval(), rows()
    changed = ids.clone()
    changed[:, 3] = 9
    apart = (pieces(model, ids, [10] * 4, 40) != pieces(model, changed, [10] * 4, 40)).any(2).any(0)
    assert not apart[:3].any()
    assert apart[[3, 15, 25, 39]].all()


def test_rows_that_ended_are_left_out() -> None:
    model, ids = tiny(**EVERYTHING).eval(), rows()
    whole, past = pieces(model, ids, [20, 20], 40), Past(40)
    with torch.no_grad():
        model(ids[:, :20], past=past)
        past.keep(2)
        rest = model(ids[:2, 20:], past=past)
    torch.testing.assert_close(rest, whole[:2, 20:], rtol=0, atol=2e-5)


def test_gradients_end_at_what_is_remembered() -> None:
    model, past = tiny(num_layers=1, xsa_layers=1, value_embed_layers=1).eval(), Past(40)
    ids = torch.full((1, 40), 9)
    ids[:, 0], ids[:, 18:] = BOS, 5
    assert model.bigram is not None
    pair = model.bigram.bucket(ids, torch.ones_like(ids, dtype=torch.bool))
    model(ids[:, :20], past=past)
    model(ids[:, 20:39], ids[:, 21:40], past=past).sum().backward()
    grad = model.bigram.table.weight.grad
    assert grad is not None
    assert bool(grad[pair[0, 25]].any())
    assert not bool(grad[pair[0, 10]].any()), "a token of the first piece, read as a key of the second"
