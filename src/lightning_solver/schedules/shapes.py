"""The shapes: constant, linear, cosine, polynomial, exponential, step and multi-step.

In the formulas ``a`` and ``b`` are the values of ``start`` and ``end`` for the group, ``x`` is the part of the phase
that has passed (0 at its first step, 1 at the step after its last) and ``t`` the steps since it began.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lightning_solver.durations import Duration
from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import (
    Axis,
    Blend,
    Curve,
    Fixed,
    Growth,
    Integers,
    Level,
    Schedule,
    Window,
    integers,
)


@dataclass(frozen=True)
class Constant(Schedule):
    """Holds one value.

    Args:
        value: The value; by default the group's own base value. ``previous`` holds what the phase before left.
        until: Where the phase ends.
    """

    value: Level = 1.0
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        return Fixed(window.levels(self.value, "value"))


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line: ``a + (b - a) * x``.

    Args:
        start: Value at the first step.
        end: Value at the step after the last.
        until: Where the phase ends.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> spec = SolverSpec(schedules={"lr": [Linear(start=0.0, until=4), Constant()]})
        >>> spec.curve("lr", [0.1], total_steps=6)[:, 0].tolist()
        [0.0, 0.025, 0.05, 0.07500000000000001, 0.1, 0.1]
    """

    start: Level = 1.0
    end: Level = 1.0
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        return Blend(window.levels(self.start, "start"), window.levels(self.end, "end"), window.axis(), _same)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine: ``b + (a - b) * (1 + cos(pi * x)) / 2`` (Loshchilov and Hutter, 2017, without restarts).

    Args:
        start: Value at the first step.
        end: Value at the step after the last.
        until: Where the phase ends.
    """

    start: Level = 1.0
    end: Level = 0.0
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        return Blend(window.levels(self.start, "start"), window.levels(self.end, "end"), window.axis(), _half_cosine)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of what is left: ``b + (a - b) * (1 - x) ** power``.

    Args:
        power: Exponent > 0; 1 is a straight line, 0.9 the "poly" policy of segmentation (Chen et al., 2016).
        start: Value at the first step.
        end: Value at the step after the last.
        until: Where the phase ends.
    """

    power: float = 1.0
    start: Level = 1.0
    end: Level = 0.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if self.power <= 0:
            raise self._error("power", "must be > 0", got=self.power, do="correct it")

    def lay(self, window: Window) -> Curve:
        power = self.power

        def weight(x: float) -> float:
            return 1.0 - math.pow(1.0 - x, power)

        return Blend(window.levels(self.start, "start"), window.levels(self.end, "end"), window.axis(), weight)


@dataclass(frozen=True)
class Exponential(Schedule):
    """A constant rate of decay: ``a * gamma ** (t / every)``.

    Args:
        gamma: Factor > 0 that is applied each ``every``.
        every: The length over which ``gamma`` is applied once; by default the phase, whose end is then ``gamma * a``.
        start: Value at the first step.
        until: Where the phase ends.
    """

    gamma: float
    every: int | str | None = None
    start: Level = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if self.every is not None:
            _positive(self.every, "Exponential.every")

    def lay(self, window: Window) -> Curve:
        gamma = self.gamma
        if self.every is None:
            axis = window.axis()
        else:
            axis = window.count(Duration.parse(self.every).resolve(window.run, f"{window.where}.every"))
        _finite_growth(gamma, axis, window)
        return Growth(window.levels(self.start, "start"), axis, lambda periods: math.pow(gamma, periods))


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

    def check(self) -> None:
        super().check()
        _positive(self.every, "Step.every")

    def lay(self, window: Window) -> Curve:
        gamma, run = self.gamma, window.run
        duration = Duration.parse(self.every)
        first = window.levels(self.start, "start")
        if duration.unit != "ep" or run.epoch_ends is None:
            count = window.count(duration.resolve(run, f"{window.where}.every"))
            _finite_growth(gamma, count, window)
            return Growth(first, count, lambda stairs: math.pow(gamma, math.floor(stairs)))
        # Epochs that differ in length: the stairs are as uneven as they are.
        stairs: list[Fraction] = []
        last = _epochs_until(window)
        offset = _epoch_position(window, window.begin)
        while offset + duration.value * (len(stairs) + 1) <= last:
            stairs.append(run.steps_at_epoch(offset + duration.value * (len(stairs) + 1)))
        return _drops(first, stairs, gamma, window)


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


def _same(x: float) -> float:
    return x


def _half_cosine(x: float) -> float:
    return (1.0 - math.cos(math.pi * x)) / 2.0


def _positive(every: int | str, where: str) -> None:
    if Duration.parse(every, where).value == 0:
        raise SolverError(where, "must be longer than nothing", got=repr(every), do="give a length > 0")


def _finite_growth(gamma: float, axis: Axis, window: Window) -> None:
    """Refuse a factor above 1 that is applied for so long that no float holds the result."""
    if gamma <= 1:
        return
    end = math.ceil(window.known_end() * window.denominator)
    if axis(end) * math.log(gamma) > 700:
        what = f"grows beyond what a float holds within {axis(end):g} periods"
        raise SolverError(f"{window.where}.gamma", what, got=repr(gamma), do="give a factor <= 1, or an end")


def _drops(first: tuple[float, ...], points: Sequence[Fraction], gamma: float, window: Window) -> Curve:
    """``first`` times ``gamma`` to the number of ``points`` reached; held where the window ends."""
    end = window.end
    reached = [math.ceil(point * window.denominator) for point in points if end is None or point <= end]

    def count(position: int | Integers) -> float | Integers:
        if isinstance(position, np.ndarray):
            return np.searchsorted(integers(reached), position, side="right").astype(np.float64)
        return float(bisect_right(reached, position))

    return Growth(first, count, lambda drops: math.pow(gamma, drops))


def _epoch_position(window: Window, step: Fraction) -> Fraction:
    """``step`` in epochs, exact, where epochs differ in length."""
    run = window.run
    epoch = run.epoch_at_step(step, window.where)
    begin = run.steps_at_epoch(Fraction(epoch))
    return epoch + (step - begin) / (run.steps_at_epoch(Fraction(epoch + 1)) - begin)


def _epochs_until(window: Window) -> Fraction:
    assert window.run.epoch_ends is not None
    return _epoch_position(window, window.known_end())
