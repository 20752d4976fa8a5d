"""Every switch against the formulas of tests/golf/model/reference.py."""

import pytest
import torch

from tests.golf.model.reference import Reference
from tests.golf.model.test_transformer import SWITCHES
from tests.golf.model.tiny import EVERYTHING, tiny, tokens

LOOP = {"num_layers": 5, "loop_first": 1, "loop_last": 2, "loop_passes": 3}
COMBINED = [
    EVERYTHING | LOOP,
    EVERYTHING | LOOP | {"skip_binding": "position"},
    LOOP | {"unet_skips": "additive", "parallel": "two_lane", "parallel_from": 3},
    LOOP | {"unet_skips": "additive", "skip_binding": "position", "parallel": "one_lane", "parallel_from": 2},
    LOOP | {"unet_skips": "gated", "parallel": "two_lane", "parallel_from": 1, "attention_gate": "sparse"},
    {"smear_kind": "token", "bos_mask": False},
    {"document_mask": True, "bos_mask": False, "attention_gate": "dense", "value_residual": True},
]


@pytest.mark.parametrize("switches", SWITCHES + COMBINED, ids=str)
def test_the_logits_are_those_of_the_formulas(switches):
    if "value_embed_layers" not in switches:
        switches = switches | {"value_embed_layers": min(2, switches.get("num_layers", 4))}
    model, ids = tiny(**switches), tokens(length=14)
    ids[1, 3] = ids[1, 0] = model.bos_id
    with torch.no_grad():
        assert torch.allclose(model(ids).double(), Reference(model).logits(ids), atol=2e-4)


def test_every_number_of_passes_is_that_of_the_formulas():
    model, ids = tiny(**LOOP, unet_skips="gated"), tokens(length=9)
    for passes in (1, 2, 3):
        model.set_passes(passes)
        assert torch.allclose(model(ids).double(), Reference(model).logits(ids), atol=2e-4), passes
