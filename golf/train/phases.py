"""What changes while a run goes on: the context's length, the tokens of a step, the loop's passes, quantisation.

The share of the budget that is spent decides, so that every change comes at its place on any machine.
"""

from __future__ import annotations

from typing import NamedTuple

from golf.params.model import Model
from golf.params.train import Train
from golf.runtime.errors import ConfigError


class Phase(NamedTuple):
    """How a step is computed, from one change to the next."""

    seq_len: int  # tokens of context
    batch_tokens: int  # of a step, over all ranks
    passes: int  # runs of the looped layers; 1: no loop
    quantized: bool  # the forward pass sees rounded weights


def phase_at(progress: float, train: Train, passes: int) -> Phase:
    """The phase of a step that begins at ``progress``; ``passes`` are the loop's in the end, ``model.loop_passes``."""
    shares = _loop_shares(train, passes)
    return Phase(
        seq_len=_grown(progress, train.seq_growth, train.seq_len),
        batch_tokens=_grown(progress, train.batch_growth, train.batch_tokens),
        passes=passes - sum(progress < share for share in shares),
        quantized=train.qat_share > 0 and progress >= 1.0 - train.qat_share,
    )


def all_phases(train: Train, passes: int) -> list[Phase]:
    """Every phase of a run, in order."""
    growth = (train.seq_growth or ()) + (train.batch_growth or ())
    changes = {0.0, 1.0 - train.qat_share, *_loop_shares(train, passes), *(share for share, _ in growth)}
    return list(dict.fromkeys(phase_at(share, train, passes) for share in sorted(changes)))


def check_loop(train: Train, model: Model) -> None:
    """Hold ``train.loop_shares`` against the model's loop.

    Raises:
        ConfigError: more or fewer shares than there are extra passes, one for all of them excepted.
    """
    shares, extra = train.loop_shares or (), model.loop_passes - 1
    if (len(shares) > 1 and len(shares) != extra) or (shares and not extra):
        raise ConfigError(
            f"train.loop_shares: found {len(shares)} for the {extra} extra passes of model.loop_passes = "
            f"{model.loop_passes}, needed one for all or one each",
            hint="dvc exp run -S train.loop_shares=null" if not extra else "dvc exp run -S train.loop_shares=[0.35]",
        )


def _loop_shares(train: Train, passes: int) -> tuple[float, ...]:
    """When each extra pass begins; nothing where it is there from the start."""
    shares = train.loop_shares or ()
    return shares * (passes - 1) if len(shares) == 1 else shares


def _grown(progress: float, steps: tuple[tuple[float, int], ...] | None, final: int) -> int:
    return next((size for until, size in steps or () if progress < until), final)
