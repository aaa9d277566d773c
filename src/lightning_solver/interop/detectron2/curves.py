"""fvcore's schedulers of one formula."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD
from lightning_solver.interop.detectron2.levels import not_negative
from lightning_solver.interop.detectron2.run import mirrored
from lightning_solver.interop.detectron2.scheduler import ParamScheduler, say_after_last
from lightning_solver.interop.detectron2.view import View
from lightning_solver.schedules import Constant, Cosine, Exponential, Linear, Polynomial, Schedule


@dataclass(frozen=True)
class ConstantParam(ParamScheduler):
    """``ConstantParamScheduler``."""

    level: float

    def value(self, share: float) -> float:
        if share >= 1:
            raise self.fails("a ConstantParamScheduler has no value at the end of training, where it is asked for")
        return self.level

    def phases(self, view: View) -> list[Schedule]:
        if view.to_the_end:
            say_after_last(view, "ConstantParamScheduler raises RuntimeError")
        return [Constant(not_negative(self.level, self.where))]


@dataclass(frozen=True)
class CosineParam(ParamScheduler):
    """``CosineParamScheduler``."""

    start: float
    end: float

    def value(self, share: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * share))

    def phases(self, view: View) -> list[Schedule]:
        start, end = not_negative(self.start, self.where), not_negative(self.end, self.where)
        if start == end:
            return [Constant(start)]
        if view.first < view.begin:  # a cosine is even: it comes from where it goes to
            return self.with_early(view, Cosine(start, end))
        return view.laid(Cosine(start, end))

    def beyond(self, view: View, run: int) -> list[Schedule]:
        total = view.measure.total
        assert total is not None
        view.measure.notes.say(self.where, "the cosine turns back after its end, as in fvcore")
        return mirrored(self.start, self.end, (view.end - view.begin) * total, total, run)


@dataclass(frozen=True)
class ExponentialParam(ParamScheduler):
    """``ExponentialParamScheduler``."""

    start: float
    decay: float

    def value(self, share: float) -> float:
        try:
            return float(self.start * self.decay**share)
        except OverflowError:
            raise self.fails("grows beyond what a float holds") from None

    def phases(self, view: View) -> list[Schedule]:
        if self.decay <= 0:
            raise SolverError(f"{self.where}.decay", "must be > 0", got=repr(self.decay), do="correct it")
        start = not_negative(self.start, self.where)
        if view.first <= view.begin and (view.first, view.last) != (view.begin, view.end):
            every = view.measure.text(view.end - view.begin)
            return [
                Exponential(float(self.decay), every, not_negative(self.value(float(view.own(view.first))), self.where))
            ]
        return view.laid(Exponential(float(self.decay), start=start))

    def beyond(self, view: View, run: int) -> list[Schedule]:
        every = view.measure.text(view.end - view.begin)
        return [Exponential(float(self.decay), every, self.value(1.0))]


@dataclass(frozen=True)
class LinearParam(ParamScheduler):
    """``LinearParamScheduler``."""

    start: float
    end: float

    def value(self, share: float) -> float:
        return self.end * share + self.start * (1 - share)

    def phases(self, view: View) -> list[Schedule]:
        if self.start == self.end:
            return [Constant(not_negative(self.start, self.where))]
        before = exact(self.start) + (exact(self.end) - exact(self.start)) * view.own(view.first)
        if view.last > view.end or (view.first < view.begin and before < 0):
            line = Linear(not_negative(self.start, self.where), not_negative(self.end, self.where))
            return self.with_early(view, line) if view.first < view.begin else view.laid(line)
        return [self._line(view, view.first, view.last)]

    def _line(self, view: View, first: Fraction, last: Fraction) -> Schedule:
        """The part of the line between two points, which is a line."""
        start, end = (self._at(view.own(point)) for point in (first, last))
        return Constant(start) if start == end else Linear(start, end)

    def _at(self, share: Fraction) -> float:
        start, end = exact(self.start), exact(self.end)
        return not_negative(float(start + (end - start) * share), self.where)

    def beyond(self, view: View, run: int) -> list[Schedule]:
        assert view.measure.total is not None
        return [self._line(view, Fraction(1), Fraction(run, view.measure.total))]


@dataclass(frozen=True)
class PolynomialParam(ParamScheduler):
    """``PolynomialDecayParamScheduler``."""

    base: float
    power: float

    def value(self, share: float) -> float:
        if share > 1 and self.power % 1:
            raise self.fails("gives complex numbers beyond the end of training, where it is asked for")
        return float(self.base * (1 - share) ** self.power)

    def phases(self, view: View) -> list[Schedule]:
        if self.power < 0:
            what = "must be at least 0, or the factor grows without bound"
            raise SolverError(f"{self.where}.power", what, got=repr(self.power), do="correct it")
        base = not_negative(self.base, self.where)
        if self.power == 0:
            return [Constant(base)]
        if view.first < view.begin:
            base *= float(1 - view.own(view.first)) ** self.power
            view = dataclasses.replace(view, begin=view.first)
        return view.laid(Polynomial(float(self.power), base))

    def beyond(self, view: View, run: int) -> list[Schedule]:
        total = view.measure.total
        assert total is not None
        if self.power == 0 or run == total + 1:
            return [HOLD]
        if self.power % 2:
            raise self.fails(
                f"(1 - share) ** {self.power:g} is no factor beyond the end, while the run has {run} steps"
            )
        share = float((Fraction(run, total) - 1) / (view.end - view.begin))
        return [Polynomial(start=0.0, end=self.base * share**self.power, time_power=float(self.power))]
