"""Hidden units of the MLPs in the order that codes best: a symmetry of the model, so no order is stored.

A hidden unit is a row of ``mlp.up`` and the column of ``mlp.down`` that reads it; whatever happens between the two
happens to each unit alone, in every pass of a looped layer. Both matrices permuted together are the same function, up
to the order of a sum. What a unit has of its own are a step (its row of ``up``) and, where steps go by column, an
exponent (its column of ``down``). Units in order of them make runs of both, and columns that are alike in ``down``
neighbours, which the codecs that look for repetitions find.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

UP, DOWN = ".mlp.up.weight", ".mlp.down.weight"


def hidden_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """The matrices into and out of each MLP's hidden units, by the names of those whose both ends are there."""
    known = set(names)
    pairs = [(name, name.removesuffix(UP) + DOWN) for name in sorted(known) if name.endswith(UP)]
    return [(up, down) for up, down in pairs if down in known]


def unit_order(up: Tensor, exponents: Tensor | None = None) -> Tensor:
    """The units from first to last, (U,) int64, on the CPU: of equals the first stays first.

    By exponent, and within one by the row's standard deviation, which its step follows however fine the steps are.

    Args:
        up: (U, C), the weights into the units, C at least 2.
        exponents: (U,) int8 of the columns of ``down``; None: they have none.
    """
    order = torch.argsort(up.detach().float().std(dim=1).cpu(), stable=True)
    return order if exponents is None else order[torch.argsort(exponents.cpu()[order], stable=True)]
