"""Where to look when a run diverged."""

from __future__ import annotations

from golf.train.checkpoint import not_finite
from golf.train.log import Diverged
from golf.train.run import Run

NAMED = 3  # tensors of each kind


def diagnosis(run: Run, error: Diverged) -> str:
    """The batch of the bad step, the largest gradients in it, the weights that are no numbers now, the checkpoint.

    The gradients are this rank's own, before they were averaged; the weights are those ``log_every`` steps later at
    most.
    """
    names = {id(param): name for name, param in run.state.model.named_parameters()}
    params = run.state.optimizer.params
    norms = dict(zip((names[id(param)] for param in params), error.norms, strict=False))
    # NaN compares with nothing: it goes first by hand
    largest = sorted(norms, key=lambda name: (norms[name] != norms[name], norms[name]), reverse=True)[:NAMED]
    bad = not_finite(run.state.model.state_dict())
    facts = [f"batch of seed {run.config.seed}, step {error.step - 1}, from token {error.begins:,} of its order"]
    facts += ["largest gradients " + ", ".join(f"{name} {norms[name]:.3g}" for name in largest)] if largest else []
    facts += [f"{len(bad)} of {len(params)} weights not finite: {', '.join(bad[:NAMED])}"] if bad else []
    last = run.store.last_step if run.store else None
    facts += ["no checkpoint" if last is None or run.store is None else f"{run.store.folder} has step {last}"]
    return "; ".join(facts)
