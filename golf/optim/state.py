"""What is restored must be of the same run: one check for all that training keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from golf.runtime.errors import DataError


def check_state(what: str, own: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    """Refuse a ``state`` that is not of the names and shapes of ``own``.

    Raises:
        DataError: it is another's; ``what`` it should have been.
    """
    for name in [*own, *state]:
        if name not in own or name not in state or own[name] != state[name].shape:
            raise DataError(f"{what}: {name} is missing, unknown or of another shape in the checkpoint")
