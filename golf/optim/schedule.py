"""The multipliers of learning rate and weight decay over the run."""

from __future__ import annotations

from golf.params.optim import Optim
from golf.params.train import Train


def lr_scale(progress: float, step: int, config: Train) -> float:
    """The share of each peak learning rate that applies to a step, in (0, 1].

    Linear warm-up over ``warmup_steps``, constant, then on a line from 1 at ``1 - warmdown_share`` to 0 at the end,
    but not below ``min_lr``: ``max((1 - progress) / warmdown_share, min_lr)``, as in the records. Progress and not
    steps drives the warm-down, so that it ends with the budget, be that steps or a clock.

    Args:
        progress: share of the budget spent before this step; clipped to [0, 1].
        step: optimizer steps before this one.
        config: the schedule's parameters.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    left = 1.0 - min(max(progress, 0.0), 1.0)
    if left >= config.warmdown_share:
        return warmup
    return warmup * max(left / config.warmdown_share, config.min_lr)


def decay_scale(progress: float, config: Optim) -> float:
    """The share of Muon's weight decay that applies: 1, then linear to ``muon_wd_final`` over ``wd_taper_share``.

    Args:
        progress: share of the budget spent; clipped to [0, 1].
        config: the taper's parameters.
    """
    late = min(max(progress, 0.0), 1.0) - (1.0 - config.wd_taper_share)
    if late <= 0:
        return 1.0
    return 1.0 - (1.0 - config.muon_wd_final) * late / config.wd_taper_share
