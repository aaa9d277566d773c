"""The length that a schedule is made for, and that of the run."""

from __future__ import annotations

from fractions import Fraction

from lightning_solver.interop.base import Notes, length
from lightning_solver.schedules import Constant, Cosine, MultiStep, Schedule, Step


def say_length(notes: Notes, where: str, total: int, run: int | None) -> None:
    """Note for which length a schedule is made."""
    if run is None or run == total:
        notes.say(where, f"the schedule is made for a run of {total} steps: Trainer(max_steps={total})")
    else:
        notes.say(where, f"the schedule is made for {total} steps, while the run has {run}")


def until(phases: list[Schedule], total: int, run: int | None) -> list[Schedule]:
    """Phases whose last one ends at ``total``, where the run ends elsewhere."""
    last = phases[-1]
    if run is None or run == total or (run < total and isinstance(last, (Constant, MultiStep, Step))):
        return phases
    return [*phases[:-1], last.ending(total)]


def mirrored(start: float, end: float, span: Fraction | int, total: int, run: int) -> list[Schedule]:
    """What a cosine does after its end: it goes back and forth."""
    phases: list[Schedule] = []
    point = Fraction(total)
    while point < run:
        start, end, point = end, start, point + span
        phases.append(Cosine(start, end, until=length(point)))
    return phases
