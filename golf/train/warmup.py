"""Steps before the clock starts: every kernel compiled, nothing of the run's state changed."""

from __future__ import annotations

from collections.abc import Iterable

from golf.train.flops import count_work
from golf.train.phases import Phase
from golf.train.run import Run
from golf.train.step import enter, take_step

WARM_UP_STEPS = 2  # the second one finds every kernel compiled and every buffer in the allocator's cache


def warm_up(run: Run) -> None:
    """Take steps in every phase that computes something new, then restore all that they changed."""
    before = run.state.copy()
    for phase in distinct(run):
        enter(run, phase, 0)
        for _ in range(WARM_UP_STEPS):
            take_step(run, 0, 1.0, 0.0)
    rewind(run)
    run.state.load(before)


def distinct(run: Run) -> Iterable[Phase]:
    """The phases that differ in the shape of a micro-batch, the passes or quantisation; not in their number alone."""
    shapes = {
        (phase.seq_len, phase.passes, phase.quantized, run.plan.divisions[phase.batch_tokens].micro_rows): phase
        for phase in reversed(run.plan.phases)
    }
    return reversed(shapes.values())


def rewind(run: Run) -> None:
    """Forget the phase and what was noted of steps."""
    assert run.phase is not None
    enter(run, run.phase._replace(quantized=False), 0)
    run.phase = None
    run.curve.forget()


def measure_work(run: Run) -> None:
    """Count the FLOPs of a step, by the loop's passes, where the device's peak is known to set them against."""
    if not run.meter.counts_work:
        return
    for passes in {phase.passes for phase in run.plan.phases}:
        if run.config.model.loop_passes > 1:
            run.state.model.set_passes(passes)
        run.meter.work[passes] = count_work(run.state.model)
