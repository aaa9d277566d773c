"""Stairs: a drop at regular intervals, and drops at given points."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lightning_solver.durations import Duration
from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import Curve, Integers, Level, Schedule, Window, integers
from lightning_solver.schedules.curves import Growth
from lightning_solver.schedules.shapes import finite_growth


@dataclass(frozen=True)
class Step(Schedule):
    """A drop at regular intervals: ``a * gamma ** floor(t / every)``.

    Args:
        every: Length of a stair; the first drop is at the step that begins the second stair.
        gamma: Factor > 0 of a drop.
        start: Value of the first stair.
        until: Where the phase ends.
    """

    every: int | str
    gamma: float = 0.1
    start: Level = 1.0
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        gamma, count = self.gamma, window.counter(self.every)
        finite_growth(gamma, count, window)
        return Growth(window.levels(self.start, "start"), count, lambda stairs: math.pow(gamma, math.floor(stairs)))


@dataclass(frozen=True)
class MultiStep(Schedule):
    """A drop at given points: ``a * gamma ** (number of points reached)``.

    Args:
        at: Points of the run, growing; the step at a point already has the new value. Counted from the start of the
            run, not of the phase.
        gamma: Factor > 0 of a drop.
        start: Value before the first drop.
        until: Where the phase ends.
    """

    at: Sequence[int | str]
    gamma: float = 0.1
    start: Level = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if not self.at:
            raise self._error("at", "has no points", got=list(self.at), do="give at least one, or use Constant")
        for i, point in enumerate(self.at):
            Duration.parse(point, f"MultiStep.at[{i}]")

    def lay(self, window: Window) -> Curve:
        points: list[Fraction] = []
        for i, text in enumerate(self.at):
            where = f"{window.where}.at[{i}]"
            point = Duration.parse(text).resolve(window.run, where)
            if points and point <= points[-1]:
                raise SolverError(where, "does not come after the point before it", got=repr(text), do="sort the list")
            if window.end is not None and point >= window.end:
                what = f"lies at step {float(point):g}, beyond step {float(window.end):g} where its phase ends"
                if window.beyond == "error":
                    do = "move it, or set beyond_run: allow"
                    raise SolverError(where, what, got=repr(text), do=do)
                window.notes.append(f"{where} ({text}) {what}")
            points.append(point)
        return _drops(window.levels(self.start, "start"), points, self.gamma, window)


def _drops(first: tuple[float, ...], points: Sequence[Fraction], gamma: float, window: Window) -> Curve:
    """``first`` times ``gamma`` to the number of ``points`` reached; held where the window ends."""
    end = window.end
    reached = [math.ceil(point * window.denominator) for point in points if end is None or point <= end]

    def count(position: int | Integers) -> float | Integers:
        if isinstance(position, np.ndarray):
            return np.searchsorted(integers(reached), position, side="right").astype(np.float64)
        return float(bisect_right(reached, position))

    return Growth(first, count, lambda drops: math.pow(gamma, drops))
