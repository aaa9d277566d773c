"""What every scheduler of fvcore has in common."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from lightning_solver.errors import SolverError
from lightning_solver.interop.detectron2.view import View
from lightning_solver.schedules import Constant, Schedule

EARLY = 1e-6
"""What fvcore adds to the share of training done before it looks whether a switch or a drop has come."""


@dataclass(frozen=True)
class ParamScheduler(ABC):
    """A scheduler of fvcore; ``where`` is its path in the config."""

    where: str

    @abstractmethod
    def value(self, share: float) -> float:
        """The factor when ``share`` of training is done."""

    @abstractmethod
    def phases(self, view: View) -> list[Schedule]:
        """The scheduler as phases over what is seen of it; the last one has no end."""

    def beyond(self, view: View, run: int) -> list[Schedule]:
        """What it does from its end to step ``run``."""
        raise self.fails(f"fails at the end of training, while the run has {run} steps")

    def with_early(self, view: View, curve: Schedule) -> list[Schedule]:
        """The curve, after the steps before its own begin, where fvcore's margin makes the scheduler come early."""
        measure = view.measure
        first, begin = measure.step(view.first), measure.step(min(view.begin, view.last))
        if first >= begin:
            return view.laid(curve)
        start, values = self.value(0.0), [self.value(view.at(step)) for step in range(first, begin)]
        if min(values) < 0:
            what = f"fvcore gives {min(values):g}, below 0, as the scheduler comes before its begin: it is 0 here"
            measure.notes.say(self.where, what)
            values = [max(0.0, value) for value in values]
        if all(math.isclose(value, start, rel_tol=1e-10, abs_tol=1e-13) for value in values):
            values = [start]
        early: list[Schedule] = [Constant(value, until=first + i) for i, value in enumerate(values, 1)]
        if view.last <= view.begin:
            return [*early[:-1], Constant(values[-1])]
        early[-1] = Constant(values[-1], until=measure.text(view.begin))
        return early + dataclasses.replace(view, first=view.begin).laid(curve)

    def fails(self, what: str) -> SolverError:
        """The error of a scheduler that fails where the run is."""
        return SolverError(self.where, what, do="make the run as long as the schedule, or choose another one")


def say_after_last(view: View, what: str) -> None:
    """Note what happens once the run is over."""
    measure = view.measure
    measure.notes.say(measure.where, f"{what} in the scheduler's step after the last update; here nothing does")
