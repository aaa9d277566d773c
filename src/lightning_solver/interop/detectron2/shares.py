"""A scheduler of the share of training done, laid over a run."""

from __future__ import annotations

from fractions import Fraction

from lightning_solver.interop.base import Notes
from lightning_solver.interop.detectron2.run import say_length, until
from lightning_solver.interop.detectron2.scheduler import ParamScheduler
from lightning_solver.interop.detectron2.view import Measure, View
from lightning_solver.schedules import Schedule


def phases_of(
    scheduler: ParamScheduler, total: int | None, run: int | None, notes: Notes, where: str, percent: bool = True
) -> list[Schedule]:
    """The phases of a scheduler that counts shares of ``total`` steps, in a run of ``run`` steps if that is known."""
    other = run is not None and run != total
    measure = Measure(total, run, percent and not other, notes, where)
    if total is None:
        what = "fvcore adds 1e-6 to the share of training done, which moves switches in runs of a million steps"
        notes.say(where, f"{what}: give facts={{'total_iters': ...}} for such a run")
    elif percent is False or where.endswith("max_iter"):
        say_length(notes, where, total, run)
    at = (lambda step: step / total) if total else float
    view = View(Fraction(0), Fraction(1), Fraction(0), Fraction(1), at, measure)
    phases = scheduler.phases(view)
    if total is None or run is None or not other:
        return phases
    phases = until(phases, total, run)
    return phases + scheduler.beyond(view, run) if run > total else phases
