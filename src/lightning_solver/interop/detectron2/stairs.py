"""fvcore's schedulers of values one after another."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD
from lightning_solver.interop.detectron2.levels import common_ratio, not_negative, stairs
from lightning_solver.interop.detectron2.scheduler import EARLY, ParamScheduler, say_after_last
from lightning_solver.interop.detectron2.view import View
from lightning_solver.schedules import Schedule, Step


@dataclass(frozen=True)
class StairsParam(ParamScheduler):
    """Values one after another: ``MultiStep``, ``Step`` and ``StepWithFixedGamma``.

    Value ``i`` holds from where ``int((share + 1e-6) * count)`` is ``points[i - 1]``.
    """

    values: tuple[float, ...]
    points: tuple[float, ...]
    count: float
    even: bool
    """Whether they are equally long, and there is no value at the end itself."""

    def value(self, share: float) -> float:
        reached = int((share + EARLY) * self.count)
        if share > 1 or (self.even and reached >= self.count):
            raise self.fails("has no value at the end of training, where it is asked for")
        return self.values[bisect_right(self.points, reached)]

    def phases(self, view: View) -> list[Schedule]:
        total = view.measure.total
        if self.even and total is not None:
            step = view.measure.step(view.last) - 1
            if int((view.at(step) + EARLY) * self.count) >= self.count:
                raise self.fails(f"raises IndexError before the end, as of step {step} at the latest")
        if self.even and view.to_the_end:
            say_after_last(view, "it raises IndexError")
        value, drops = self.values[0], list[tuple[Fraction, float]]()
        regular = view.first == view.begin
        for point, new in zip(self.points, self.values[1:]):
            share = exact(point) / exact(self.count)
            found = view.when(share, functools.partial(self._reached, point))
            regular &= found == view.point(share) or found >= view.last
            if found >= view.last:
                break
            if found <= view.first:
                value, regular = new, False
            elif drops and view.measure.same(found, drops[-1][0]):
                drops[-1], regular = (found, new), False
            else:
                drops.append((found, new))
        gamma = common_ratio([value, *(new for _, new in drops)])
        if self.even and regular and drops and gamma not in (None, 1.0):
            every = view.measure.text((view.end - view.begin) / exact(self.count))
            return [Step(every, gamma or 1.0, not_negative(value, self.where))]
        in_steps = view.measure.total == self.count
        texts = view.measure.texts([share for share, _ in drops], in_steps)
        if not self.even and total is not None and self.count != total and drops and view.at(1) == 1 / total:
            what = f"counts {self.count:g} updates, while training has {total} steps: the milestones are scaled"
            view.measure.notes.say(self.where, what)
        return stairs(value, list(zip(texts, (new for _, new in drops))), self.where)

    def _reached(self, point: float, share: float) -> bool:
        return int((share + EARLY) * self.count) >= point

    def beyond(self, view: View, run: int) -> list[Schedule]:
        if self.even or view.measure.total is None or run > view.measure.total + 1:
            return super().beyond(view, run)
        return [HOLD]


def even_stairs(values: Sequence[float], where: str) -> StairsParam:
    """``StepParamScheduler``: equally long steps.

    Raises:
        SolverError: There are no values.
    """
    if not values:
        raise SolverError(where, "needs at least one value", got="none", do="give the values")
    count = len(values)
    return StairsParam(where, tuple(values), tuple(range(1, count)), count, even=True)


def fixed_gamma(base: float, decays: int, gamma: float, where: str) -> ParamScheduler:
    """``StepWithFixedGammaParamScheduler``: equally long steps, each ``gamma`` times the one before it.

    Raises:
        SolverError: ``gamma`` is not above 0.
    """
    if gamma <= 0:
        raise SolverError(where, "must be > 0", got=repr(gamma), do="correct it")
    return even_stairs([float(exact(base) * exact(gamma) ** k) for k in range(decays + 1)], where)


def multi_step(
    values: Sequence[float],
    updates: float,
    milestones: Sequence[float],
    path: Callable[[str], str],
    names: tuple[str, str, str],
) -> StairsParam:
    """``MultiStepParamScheduler``; ``names`` are the keys of values, updates and milestones.

    Raises:
        SolverError: Milestones that are out of order or beyond the end, or too few updates.
    """
    of_values, of_updates, of_milestones = names
    if updates < len(values):
        got = f"{updates} for {len(values)} values"
        raise SolverError(path(of_updates), "is less than the number of values", got=got, do="correct it")
    for i, (before, milestone) in enumerate(itertools.pairwise((0, *milestones))):
        where = f"{path(of_milestones)}[{i}]"
        if milestone >= updates:
            do = "take it out, or lengthen the run"
            raise SolverError(where, f"must lie before the end at {updates:g}", got=repr(milestone), do=do)
        if milestone <= before:
            raise SolverError(where, f"must be more than {before:g}", got=repr(milestone), do="sort the list")
    return StairsParam(path(of_values), tuple(values), tuple(milestones), updates, even=False)
