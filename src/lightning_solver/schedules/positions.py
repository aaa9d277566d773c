"""Schedules with their position changed: stairs, shifts, other counts, other stretches, and cycles."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from lightning_solver.durations import Duration, exact
from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import Curve, Floats, Integers, Schedule, Window, affine, integers, wide
from lightning_solver.schedules.curves import Hold, Moved, not_negative
from lightning_solver.schedules.join import lay


@dataclass(frozen=True)
class Staircase(Schedule):
    """A schedule that is looked up only at every so many steps or epochs, and held in between.

    Args:
        of: The schedule, or a list of phases.
        every: Length of a stair, counted from the start of the run; ``1ep`` makes an epoch-wise schedule.
        until: Where it ends as a phase.
    """

    of: Schedule | Sequence[Schedule]
    every: int | str = "1ep"
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        every, d = Duration.parse(self.every), window.denominator
        run, where = window.run, f"{window.where}.every"
        if every.epochs is not None and run.epoch_ends is not None:
            return self._by_uneven_epochs(every.epochs, window)
        stair = every.length(run, where)

        # floor(n / d / stair) * stair, in units of 1 / stair.denominator
        def place(n: Any) -> Any:
            return affine(affine(n, stair.denominator) // (d * stair.numerator), stair.numerator)

        return Moved(lay(self.of, _within(window, denominator=stair.denominator)), place)

    def _by_uneven_epochs(self, every: Fraction, window: Window) -> Curve:
        run, d = window.run, window.denominator
        last = window.known_end()
        starts = [Fraction(0)]
        while starts[-1] <= last:
            starts.append(run.steps_at_epoch(every * len(starts)))
        unit = math.lcm(*(start.denominator for start in starts))
        thresholds = [math.ceil(start * d) for start in starts]
        values = [int(start * unit) for start in starts]

        def place(n: Any) -> Any:
            if isinstance(n, np.ndarray):
                return integers(values)[np.searchsorted(integers(thresholds), n, side="right") - 1]
            return values[bisect_right(thresholds, n) - 1]

        return Moved(lay(self.of, _within(window, denominator=unit)), place)


@dataclass(frozen=True)
class Shift(Schedule):
    """A schedule read at an earlier or a later point than the present one; held at its first value before its start.

    Args:
        of: The schedule, or a list of phases.
        later: The schedule runs this much late: step ``i`` has its value of step ``i - later``.
        earlier: The schedule runs this much early. One of the two is given.
        until: Where it ends as a phase.
    """

    of: Schedule | Sequence[Schedule]
    later: int | str | None = None
    earlier: int | str | None = None
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if (self.later is None) == (self.earlier is None):
            raise self._error("later", "needs one of later and earlier", got=(self.later, self.earlier), do="give one")
        for name in ("later", "earlier"):
            if getattr(self, name) is not None:
                Duration.parse(getattr(self, name), f"Shift.{name}")

    def lay(self, window: Window) -> Curve:
        name = "later" if self.later is not None else "earlier"
        by = Duration.parse(getattr(self, name)).resolve(window.run, f"{window.where}.{name}")
        by = -by if name == "later" else by
        d = window.denominator

        def place(n: Any) -> Any:
            return not_negative(affine(n, by.denominator, by.numerator * d))

        return Moved(lay(self.of, _within(window, denominator=d * by.denominator)), place)


@dataclass(frozen=True)
class Scale(Schedule):
    """A schedule run through faster or slower.

    Args:
        of: The schedule, or a list of phases; every duration in it is in its own count.
        by: How many of its positions pass in one step, > 0; ``4`` or ``"1/3"``. The schedule of a peer that counts
            batches runs ``by`` batches a step.
        until: Where it ends as a phase.
    """

    of: Schedule | Sequence[Schedule]
    by: int | float | str = 1
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if self._factor() <= 0:
            raise self._error("by", "must be > 0", got=self.by, do="correct it")

    def _factor(self) -> Fraction:
        try:
            return Fraction(self.by) if isinstance(self.by, str) else exact(self.by)
        except (ValueError, ZeroDivisionError):
            raise self._error("by", "is not a number", got=self.by, do="write 4, 2.5 or '1/3'") from None

    def lay(self, window: Window) -> Curve:
        by = self._factor()
        begin = window.begin * by
        end = None if window.end is None else window.end * by
        d = window.denominator * by.denominator
        inner = _within(window, begin=begin, end=end, run=window.run.scaled(by), denominator=d)
        return Moved(lay(self.of, inner), lambda n: affine(n, by.numerator))


@dataclass(frozen=True)
class Over(Schedule):
    """A schedule laid over a stretch of the run that need not be its phase: begun before it, or not done at its end.

    Args:
        of: The schedule, or a list of phases.
        begin: Point of the run at which the schedule begins; by default where its phase does.
        end: Point of the run at which it ends; by default where its phase does. Its last value is held from there on.
        until: Where it ends as a phase.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> from lightning_solver.schedules import Constant, Linear
        >>> spec = SolverSpec(schedules={"lr": [Constant(until=2), Over(Linear(end=0.0), begin=0)]})
        >>> spec.curve("lr", [1.0], total_steps=4)[:, 0].tolist()
        [1.0, 1.0, 0.5, 0.25]
    """

    of: Schedule | Sequence[Schedule]
    begin: int | str | None = None
    end: int | str | None = None
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if self.begin is None and self.end is None:
            raise self._error("begin", "needs one of begin and end", do="give a point, or the schedule by itself")
        for name in ("begin", "end"):
            if getattr(self, name) is not None:
                Duration.parse(getattr(self, name), f"Over.{name}")

    def lay(self, window: Window) -> Curve:
        begin = window.begin if self.begin is None else window.point(self.begin, "begin")
        end = window.end if self.end is None else window.point(self.end, "end")
        if end is not None and end <= begin:
            got = f"step {float(begin):g} to step {float(end):g}"
            raise SolverError(f"{window.where}.end", "does not come after begin", got=got, do="correct it")
        inside = window.inside(begin=begin, end=end, where=f"{window.where}.of")
        first, d = math.floor(begin * window.denominator), window.denominator
        last = None if end is None else math.ceil(end * d)

        def place(n: Any) -> Any:
            n = wide(n, first)
            inner = np.maximum(n, first) if isinstance(n, np.ndarray) else max(n, first)
            return inner if last is None else Hold(last)(inner)

        return Moved(lay(self.of, inside), place)


@dataclass(frozen=True)
class Cycle(Schedule):
    """A schedule again and again (Loshchilov and Hutter, 2017; Smith, 2017). Each cycle is a run of its own.

    Args:
        of: The schedule of one cycle, or a list of phases; ``until`` and ``%`` in it count within the cycle.
        every: Length of the first cycle.
        grow: How many times as long each cycle is as the one before it, >= 1.
        decay: Factor > 0 of the groups' base values from each cycle to the next.
        times: How many cycles there are; what the last one ends at is held. By default they go on.
        until: Where it ends as a phase.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> from lightning_solver.schedules import Linear
        >>> spec = SolverSpec(schedules={"lr": Cycle(Linear(end=0.0), every=2, decay=0.5)})
        >>> spec.curve("lr", [1.0], total_steps=6)[:, 0].tolist()
        [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]
    """

    of: Schedule | Sequence[Schedule]
    every: int | str
    grow: int | float = 1
    decay: float = 1.0
    times: int | None = None
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if not 1 <= self.grow < math.inf:
            raise self._error("grow", "must be a number >= 1", got=self.grow, do="correct it")
        if self.decay <= 0:
            raise self._error("decay", "must be > 0", got=self.decay, do="correct it")
        if self.times is not None and self.times < 1:
            raise self._error("times", "must be at least 1", got=self.times, do="leave it out for endless cycles")

    def lay(self, window: Window) -> Curve:
        where = f"{window.where}.every"
        every, grow = Duration.parse(self.every), exact(self.grow)
        length = every.length(window.run, where)
        end = window.end
        if grow > 1 and end is None:
            end = window.begin + _LONGEST if grow.denominator == 1 else window.known_end()
        starts = [Fraction(0), length]  # of the cycles, counted from the beginning of the phase
        while grow > 1 and end is not None and starts[-1] < end - window.begin and len(starts) != self.times:
            starts.append(starts[-1] + length * grow ** (len(starts) - 1))
        fine = math.lcm(window.begin.denominator, *(start.denominator for start in starts))
        unit = window.denominator * fine
        last = None if self.times is None else self.times - 1
        if end is not None:
            passed = end - window.begin
            count = math.ceil(passed / length) if grow == 1 else sum(start < passed for start in starts)
            last = max(count - 1, 0) if last is None else min(last, max(count - 1, 0))
        cycles = _Cycles(
            cycle=self,
            window=window.inside(denominator=unit),
            fine=fine,
            offset=int(window.begin * unit),
            end=None if end is None else math.ceil((end - window.begin) * unit),
            last=last,
            starts=tuple(int(start * unit) for start in starts),
            period=int(length * unit) if grow == 1 else 0,
            shared="every cycle" if grow == 1 and self.decay == 1 else "",
            length=length,
        )
        for index in range(last + 1 if grow > 1 and last is not None else 1):
            cycles._curve(index)  # what does not fit into a cycle is found now
        return cycles


_LONGEST = 10**12  # steps, for a run whose end is not known


@dataclass(frozen=True)
class _Cycles(Curve):
    """The curve of a :class:`Cycle`. Positions are made finer by ``fine``, so that every cycle begins on one.

    ``period`` is the length of cycles that are equally long, else 0; ``shared`` the key of the curve that equal cycles
    share in ``known``, else nothing.
    """

    cycle: Cycle
    window: Window
    fine: int
    offset: int
    end: int | None
    last: int | None
    starts: tuple[int, ...]
    period: int
    shared: str
    length: Fraction
    known: dict[int | str, Curve] = field(default_factory=dict)

    def at(self, position: int) -> list[float]:
        passed = position * self.fine - self.offset
        if passed < 0:
            passed = 0
        elif self.end is not None and passed > self.end:
            passed = self.end
        index = passed // self.period if self.period else bisect_right(self.starts, passed) - 1
        if self.last is not None and index > self.last:
            index = self.last
        within = passed - (index * self.period if self.period else self.starts[index])
        return (self.known.get(self.shared or index) or self._curve(index)).at(within)

    def over(self, positions: Integers) -> Floats:
        passed = not_negative(affine(positions, self.fine, -self.offset))
        passed = wide(passed, self.end, self.period, self.starts[-1])
        passed = passed if self.end is None else np.minimum(passed, self.end)
        starts = integers(self.starts)
        index = passed // self.period if self.period else np.searchsorted(starts, passed, side="right") - 1
        index = index if self.last is None else np.minimum(index, self.last)
        within = passed - (index * self.period if self.period else starts[index])
        if self.shared:
            return self._curve(0).over(within)
        values = np.empty((len(positions), len(self.window.bases)))
        for i in np.unique(index).tolist():
            values[index == i] = self._curve(i).over(within[index == i])
        return values

    def _curve(self, index: int) -> Curve:
        """The curve of one cycle, a run of its own; equal cycles share it."""
        key = self.shared or index
        if key not in self.known:
            index = 0 if self.shared else index
            window, length = self.window, self.length * exact(self.cycle.grow) ** index
            inner = _within(
                window,
                begin=Fraction(0),
                end=length,
                run=replace(window.run, total_steps=length, epoch_ends=None),
                bases=tuple(base * self.cycle.decay**index for base in window.bases),
                before=None,
                after=None,
                notes=window.notes if index == 0 else [],
            )
            self.known[key] = lay(self.cycle.of, inner)  # clamped at its end, as every curve is
        return self.known[key]


def _within(window: Window, **changes: Any) -> Window:
    """A window for a schedule whose positions are no longer those of the run, where no metric can be followed."""
    return window.inside(where=f"{window.where}.of", feed=None, **changes)
