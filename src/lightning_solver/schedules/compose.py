"""How schedules combine: joined one after another, multiplied onto each other, and with their position changed."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from lightning_solver.durations import Duration, exact
from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import Curve, Floats, Integers, Schedule, Window, affine, integers


@dataclass(frozen=True)
class Join(Schedule):
    """Phases one after another. A list of schedules is a join; this class is needed only inside another schedule.

    Args:
        phases: The phases in order. Each but the last says with ``until`` where it ends, a point of the run.
        until: Where the join itself ends as a phase.
    """

    phases: Sequence[Schedule]
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if not self.phases:
            raise self._error("phases", "is empty", got=[], do="give at least one schedule")

    def lay(self, window: Window) -> Curve:
        return _joined(self.phases, window, f"{window.where}.phases")


@dataclass(frozen=True)
class Product(Schedule):
    """Schedules multiplied onto each other: the first gives the value, every other one a factor.

    A warm-up that is multiplied onto a curve which is already decaying, as in MMCV, detectron2 and Pet.

    Args:
        factors: A schedule or a list of phases each. ``start`` and ``end`` of all but the first are plain factors.
        until: Where the product ends as a phase.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> from lightning_solver.schedules import Constant, Linear
        >>> warmup = [Linear(start=0.5, until=2), Constant()]
        >>> spec = SolverSpec(schedules={"lr": Product([Linear(end=0.0), warmup])})
        >>> spec.curve("lr", [1.0], total_steps=4)[:, 0].tolist()
        [0.5, 0.5625, 0.5, 0.25]
    """

    factors: Sequence[Schedule | Sequence[Schedule]]
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if len(self.factors) < 2:
            raise self._error("factors", "needs at least two", got=len(self.factors), do="give the schedule by itself")

    def lay(self, window: Window) -> Curve:
        curves = []
        for i, factor in enumerate(self.factors):
            where = f"{window.where}.factors[{i}]"
            inner = window.inside(where=where)
            if i > 0:
                _refuse_levels(factor, where)
                inner = inner.inside(bases=(1.0,), own=None, before=None)
            curves.append(lay(factor, inner))
        return Multiplied(curves[0], tuple(curves[1:]))


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

    def check(self) -> None:
        super().check()
        if Duration.parse(self.every, "Staircase.every").value == 0:
            raise self._error("every", "must be longer than nothing", got=self.every, do="give a length > 0")

    def lay(self, window: Window) -> Curve:
        every, d = Duration.parse(self.every), window.denominator
        run, where = window.run, f"{window.where}.every"
        if every.unit == "ep" and run.epoch_ends is not None:
            return self._by_uneven_epochs(every, window)
        stair = every.resolve(run, where)

        # floor(n / d / stair) * stair, in units of 1 / stair.denominator
        def place(n: Any) -> Any:
            return affine(affine(n, stair.denominator) // (d * stair.numerator), stair.numerator)

        return Moved(lay(self.of, window.inside(denominator=stair.denominator, where=f"{window.where}.of")), place)

    def _by_uneven_epochs(self, every: Duration, window: Window) -> Curve:
        run, d = window.run, window.denominator
        last = window.known_end()
        starts = [Fraction(0)]
        while starts[-1] <= last:
            starts.append(run.steps_at_epoch(every.value * len(starts)))
        unit = math.lcm(*(start.denominator for start in starts))
        thresholds = [math.ceil(start * d) for start in starts]
        values = [int(start * unit) for start in starts]

        def place(n: Any) -> Any:
            if isinstance(n, np.ndarray):
                return integers(values)[np.searchsorted(integers(thresholds), n, side="right") - 1]
            return values[bisect_right(thresholds, n) - 1]

        return Moved(lay(self.of, window.inside(denominator=unit, where=f"{window.where}.of")), place)


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
            return _not_negative(affine(n, by.denominator, by.numerator * d))

        inner = window.inside(denominator=d * by.denominator, where=f"{window.where}.of")
        return Moved(lay(self.of, inner), place)


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
        run = window.run.scaled(by)
        inner = window.inside(begin=begin, end=end, run=run, denominator=d, where=f"{window.where}.of")
        return Moved(lay(self.of, inner), lambda n: affine(n, by.numerator))


def lay(schedule: Schedule | Sequence[Schedule], window: Window) -> Curve:
    """The curve of a schedule, or of a list of phases, over all of ``window``.

    Raises:
        SolverError: Phases that do not cover the window, or what the schedules themselves refuse.
    """
    phases = (schedule,) if isinstance(schedule, Schedule) else schedule
    curve = _joined(phases, window.inside(whole=False), window.where)
    if not window.whole or window.end is None:
        return curve
    return Moved(curve, Hold(math.ceil(window.end * window.denominator)))


# ------------------------------------------------------------------ the curves of the above


@dataclass(frozen=True)
class Joined(Curve):
    """Curves one after another: ``curves[i]`` from position ``starts[i]`` on."""

    starts: tuple[int, ...]
    curves: tuple[Curve, ...]

    def at(self, position: int) -> list[float]:
        return self.curves[max(bisect_right(self.starts, position) - 1, 0)].at(position)

    def over(self, positions: Integers) -> Floats:
        which = np.maximum(np.searchsorted(integers(self.starts), positions, side="right") - 1, 0)
        parts = [
            (mask, curve.over(positions[mask])) for i, curve in enumerate(self.curves) if (mask := which == i).any()
        ]
        values = np.empty((len(positions), parts[0][1].shape[1] if parts else 0))
        for mask, part in parts:
            values[mask] = part
        return values


@dataclass(frozen=True)
class Multiplied(Curve):
    """A curve times factors, each of which is the same for every group."""

    first: Curve
    factors: tuple[Curve, ...]

    def at(self, position: int) -> list[float]:
        values = self.first.at(position)
        for factor in self.factors:
            (by,) = factor.at(position)
            values = [value * by for value in values]
        return values

    def over(self, positions: Integers) -> Floats:
        values = self.first.over(positions)
        for factor in self.factors:
            values = values * factor.over(positions)
        return values


@dataclass(frozen=True)
class Moved(Curve):
    """A curve read at another position."""

    curve: Curve
    place: Callable[[Any], Any]

    def at(self, position: int) -> list[float]:
        return self.curve.at(self.place(position))

    def over(self, positions: Integers) -> Floats:
        return self.curve.over(self.place(positions))


@dataclass(frozen=True)
class Hold:
    """Positions beyond the last one count as the last one."""

    last: int

    def __call__(self, position: Any) -> Any:
        """The position to look at."""
        return np.minimum(position, self.last) if isinstance(position, np.ndarray) else min(position, self.last)


def _not_negative(n: Any) -> Any:
    return np.maximum(n, 0) if isinstance(n, np.ndarray) else max(n, 0)


def _joined(phases: Sequence[Schedule], window: Window, where: str) -> Curve:
    """Lay phases over a window, each from where the one before it ends; the last to the window's end."""
    starts: list[int] = []
    curves: list[Curve] = []
    begin, before, name = window.begin, window.before, where
    for i, phase in enumerate(phases):
        name = where if len(phases) == 1 else f"{where}[{i}]"
        if curves and window.end is not None and begin >= window.end:
            window.notes.append(f"{name}: never begins, as the run ends before step {float(begin):g}")
            break
        end = _phase_end(phase, i == len(phases) - 1, begin, window, name)
        if end is not None and _empty(begin, end, window.denominator):
            if end == begin:
                window.notes.append(f"{name}.until ({phase.until}): the phase is empty and is left out")
                continue
            window.notes.append(f"{name}: no step falls into the phase")
        curve = phase.lay(window.inside(begin=begin, end=end, before=before, where=name))
        position = math.ceil(begin * window.denominator)
        if curves:
            _note_jump(curves[-1], curve, begin, window, name)
        starts.append(position)
        curves.append(curve)
        if end is not None:
            before = tuple(curve.at(math.ceil(end * window.denominator)))
            begin = end
    if not curves:
        raise SolverError(name, "all phases are empty", do="give one of them a length")
    return curves[0] if len(curves) == 1 else Joined(tuple(starts), tuple(curves))


def _phase_end(phase: Schedule, last: bool, begin: Fraction, window: Window, where: str) -> Fraction | None:
    if phase.until is None:
        if not last:
            do = "say with until where it ends and the next one begins"
            raise SolverError(f"{where}.until", "a phase that is not the last has no end", do=do)
        return window.end
    end = Duration.parse(phase.until, f"{where}.until").resolve(window.run, f"{where}.until")
    got = f"{phase.until!r}, which is step {float(end):g}"
    if end < begin:
        what = f"ends before it begins, at step {float(begin):g}"
        raise SolverError(
            f"{where}.until", what, got=got, do="until is a point of the run, not a length: let them grow"
        )
    if window.end is not None and end > window.end:
        what = f"reaches beyond the run, which ends at step {float(window.end):g}"
        if window.beyond == "error":
            do = "shorten it, train longer, or set beyond_run: allow"
            raise SolverError(f"{where}.until", what, got=got, do=do)
        window.notes.append(f"{where}.until ({phase.until}) {what}")
    elif last and end != window.end:
        to = "the end of the run" if window.end is None else f"step {float(window.end):g}"
        do = "leave out until of the last phase, or add a phase (Constant holds a value)"
        raise SolverError(f"{where}.until", f"leaves the run undefined from there to {to}", got=got, do=do)
    return end


def _empty(begin: Fraction, end: Fraction, denominator: int) -> bool:
    return math.ceil(end * denominator) == math.ceil(begin * denominator)


def _note_jump(left: Curve, right: Curve, at: Fraction, window: Window, where: str) -> None:
    """Note a jump at a join: curves are clamped, so that the positions around a join give the values at it."""
    exactly = at * window.denominator
    for base, a, b in zip(window.bases, left.at(math.ceil(exactly)), right.at(math.floor(exactly))):
        if not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15):
            window.notes.append(f"{where}: jumps from {a:.4g} to {b:.4g} at step {float(at):g} (base value {base:g})")
            return


def _refuse_levels(schedule: Any, where: str) -> None:
    """All but the first of a product are factors: they cannot reach an absolute value."""
    if isinstance(schedule, Schedule):
        for name in ("start", "end", "value"):
            level = getattr(schedule, name, None)
            if isinstance(level, dict):
                do = "only the first schedule of a product has values; give the others plain factors"
                raise SolverError(f"{where}.{name}", "must be a plain factor", got=repr(level), do=do)
        for name in ("phases", "factors", "of"):
            _refuse_levels(getattr(schedule, name, None), f"{where}.{name}")
    elif isinstance(schedule, Sequence):
        for i, inner in enumerate(schedule):
            _refuse_levels(inner, f"{where}[{i}]")
