"""The learning-rate multiplier over the run."""

from __future__ import annotations

from golf.params.train import Train


def lr_scale(progress: float, step: int, config: Train) -> float:
    """The share of each peak learning rate that applies to a step, in (0, 1].

    Linear warm-up over ``warmup_steps``, constant, then linear from 1 at ``1 - warmdown_share`` to ``min_lr`` at the
    end. Progress and not steps drives the warm-down, so that it ends with the budget, be that steps or a clock.

    Args:
        progress: share of the budget spent before this step; clipped to [0, 1].
        step: optimizer steps before this one.
        config: the schedule's parameters.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    left = 1.0 - min(max(progress, 0.0), 1.0)
    if left >= config.warmdown_share:
        return warmup
    return warmup * (config.min_lr + (1.0 - config.min_lr) * left / config.warmdown_share)
