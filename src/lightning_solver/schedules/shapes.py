"""The shapes: constant, linear, cosine, polynomial, exponential, inverse, hyperbolic tangent and REX.

In the formulas ``a`` and ``b`` are the values of ``start`` and ``end`` for the group, ``x`` is the part of the phase
that has passed (0 at its first step, 1 at the step after its last) and ``t`` the steps since it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import Curve, Level, Schedule, Window
from lightning_solver.schedules.curves import Blend, Fixed, Geometric, Growth


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
    """Half a cosine: ``b + (a - b) * (1 + cos(pi * x ** time_power)) / 2`` (Loshchilov and Hutter, 2017).

    Args:
        start: Value at the first step.
        end: Value at the step after the last.
        time_power: Exponent > 0 of the time that has passed; above 1 it decays later ("k-decay", Zhang and Li, 2020).
        until: Where the phase ends.
    """

    start: Level = 1.0
    end: Level = 0.0
    time_power: float = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        _check_power(self, "time_power")

    def lay(self, window: Window) -> Curve:
        power = self.time_power

        def weight(x: float) -> float:
            return _half_cosine(x if power == 1 else math.pow(x, power))

        return Blend(window.levels(self.start, "start"), window.levels(self.end, "end"), window.axis(), weight)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of what is left: ``b + (a - b) * (1 - x ** time_power) ** power``.

    Args:
        power: Exponent > 0; 1 is a straight line, 0.9 the "poly" policy of segmentation (Chen et al., 2016), 0.5 the
            "1-sqrt" warm-up.
        start: Value at the first step.
        end: Value at the step after the last.
        time_power: Exponent > 0 of the time that has passed ("k-decay", Zhang and Li, 2020); 0.5 with ``power`` 1 is
            the "1-sqrt" cool-down (Hägele et al., 2024).
        until: Where the phase ends.
    """

    power: float = 1.0
    start: Level = 1.0
    end: Level = 0.0
    time_power: float = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        _check_power(self, "power")
        _check_power(self, "time_power")

    def lay(self, window: Window) -> Curve:
        power, time_power = self.power, self.time_power

        def weight(x: float) -> float:
            return 1.0 - math.pow(1.0 - (x if time_power == 1 else math.pow(x, time_power)), power)

        return Blend(window.levels(self.start, "start"), window.levels(self.end, "end"), window.axis(), weight)


@dataclass(frozen=True)
class Exponential(Schedule):
    """A constant rate of decay: ``a * gamma ** (t / every)``, or ``a * (b / a) ** x`` where ``end`` is given.

    Args:
        gamma: Factor > 0 that is applied each ``every``. Either this or ``end`` is given.
        every: The length over which ``gamma`` is applied once; by default the phase, whose end is then ``gamma * a``.
        start: Value at the first step.
        end: Value > 0 at the step after the last, in place of ``gamma``.
        until: Where the phase ends.
    """

    gamma: float | None = None
    every: int | str | None = None
    start: Level = 1.0
    end: Level | None = None
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if (self.gamma is None) == (self.end is None):
            raise self._error("gamma", "needs one of gamma and end", got=(self.gamma, self.end), do="give one of them")
        if self.end is not None and self.every is not None:
            raise self._error("every", "says how often gamma is applied, and there is none", got=self.every)

    def lay(self, window: Window) -> Curve:
        first = window.levels(self.start, "start")
        if self.end is not None:
            last = window.levels(self.end, "end")
            for base, a, b in zip(window.bases, first, last):
                if a != b and not (a * b > 0 and math.isfinite(b / a) and math.isfinite(a / b)):
                    got = f"from {a:g} to {b:g} (base value {base:g})"
                    do = "give values > 0, or use Linear"
                    raise SolverError(f"{window.where}.end", "no constant rate leads there", got=got, do=do)
            return Geometric(first, last, window.axis())
        assert self.gamma is not None
        gamma, every = self.gamma, self.every
        if every is None:
            axis: Callable[[Any], Any] = window.axis()
        else:
            axis = window.counter(every)
        finite_growth(gamma, axis, window)
        return Growth(first, axis, lambda periods: math.pow(gamma, periods))


@dataclass(frozen=True)
class Inverse(Schedule):
    """A decay that slows down: ``a / (1 + t / every) ** power``.

    Args:
        every: The time scale: after this long the value is ``a / 2 ** power``.
        power: Exponent > 0; 0.5 is the inverse square root (Vaswani et al., 2017; Raffel et al., 2020).
        start: Value at the first step.
        until: Where the phase ends.

    Example:
        The schedule of Vaswani et al. ("Noam") with a warm-up of 4 steps, up to its constant factor:

        >>> from lightning_solver import SolverSpec
        >>> noam = [Linear(start=0.0, until=4), Inverse(every=4, power=0.5)]
        >>> spec = SolverSpec(schedules={"lr": noam})
        >>> spec.curve("lr", [1.0], total_steps=17)[[0, 2, 4, 16], 0].tolist()
        [0.0, 0.5, 1.0, 0.5]
    """

    every: int | str
    power: float = 1.0
    start: Level = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        _check_power(self, "power")

    def lay(self, window: Window) -> Curve:
        power = self.power
        axis = window.counter(self.every)
        return Growth(window.levels(self.start, "start"), axis, lambda periods: math.pow(1.0 + periods, -power))


@dataclass(frozen=True)
class Tanh(Schedule):
    """A hyperbolic tangent: ``b + (a - b) * (1 - tanh(lower * (1 - x) + upper * x)) / 2`` (Hsueh et al., 2019).

    Args:
        lower: Argument of the tangent at the first step; the start is missed by ``(1 + tanh(lower)) / 2``.
        upper: Argument at the step after the last, > ``lower``; the end is missed by ``(1 - tanh(upper)) / 2``.
        start: Value that the curve comes from.
        end: Value that it goes to.
        until: Where the phase ends.
    """

    lower: float = -7.0
    upper: float = 3.0
    start: Level = 1.0
    end: Level = 0.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if self.lower >= self.upper:
            raise self._error("lower", "must be below upper", got=(self.lower, self.upper), do="correct them")

    def lay(self, window: Window) -> Curve:
        lower, upper = self.lower, self.upper

        def weight(x: float) -> float:
            return (1.0 + math.tanh(lower * (1.0 - x) + upper * x)) / 2.0

        return Blend(window.levels(self.start, "start"), window.levels(self.end, "end"), window.axis(), weight)


@dataclass(frozen=True)
class Rex(Schedule):
    """The reflected exponential: ``b + (a - b) * (1 - x) / (1 - x / 2)`` (Chen, Wolfe and Kyrillidis, 2022).

    Args:
        start: Value at the first step.
        end: Value at the step after the last.
        until: Where the phase ends.
    """

    start: Level = 1.0
    end: Level = 0.0
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        return Blend(window.levels(self.start, "start"), window.levels(self.end, "end"), window.axis(), _reflected)


def _same(x: float) -> float:
    return x


def _half_cosine(x: float) -> float:
    return (1.0 - math.cos(math.pi * x)) / 2.0


def _reflected(x: float) -> float:
    return x / (2.0 - x)


def _check_power(schedule: Schedule, name: str) -> None:
    power = getattr(schedule, name)
    if power <= 0:
        where = f"{type(schedule).__name__}.{name}"
        raise SolverError(where, "must be > 0", got=repr(power), do="correct it")


def finite_growth(gamma: float, axis: Callable[[Any], Any], window: Window) -> None:
    """Refuse a factor above 1 that is applied for so long that no float holds the result."""
    if gamma <= 1:
        return
    end = math.ceil(window.known_end() * window.denominator)
    if axis(end) * math.log(gamma) > 700:
        what = f"grows beyond what a float holds within {axis(end):g} periods"
        raise SolverError(f"{window.where}.gamma", what, got=repr(gamma), do="give a factor <= 1, or an end")
