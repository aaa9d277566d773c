"""What a schedule is: a pure, total function from (position, base value) to value.

A :class:`Schedule` is plain data. Laid over a :class:`Window` of a run it becomes a :class:`Curve`, which gives the
value of every group for one step in microseconds, or for a whole run as an array, by the same formula and so bit for
bit the same.

Positions are exact. They travel as whole numbers counted in fractions of a step (``Window.denominator``), so that a
third of a step or a step and a quarter is never rounded; only the part of the phase that has passed becomes a float.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from lightning_solver.durations import Duration, RunLength
from lightning_solver.errors import SolverError
from lightning_solver.plain import Plain

Level: TypeAlias = float | str | dict[str, float]
"""A value that a schedule reaches.

A number is a factor of the group's own base value. ``{"absolute": 1e-6}`` is a value as it is, ``{"optimizer": 0.01}``
a factor of the optimiser's own value of the option. ``"previous"`` is the value that the phase before left.
"""

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[Any]  # int64, or object where whole numbers outgrow it
N = TypeVar("N", float, Floats)


class Curve(ABC):
    """A schedule laid over a run: the value of every group at every position.

    Positions are whole numbers >= 0 in units of the window's ``1 / denominator`` steps.
    """

    @abstractmethod
    def at(self, position: int) -> list[float]:
        """The value of each group at one position."""

    @abstractmethod
    def over(self, positions: Integers) -> Floats:
        """The values at many positions; shape (positions, groups)."""


@dataclass(frozen=True)
class Window:
    """The stretch of a run that a schedule fills.

    Args:
        begin: First step of the stretch (0-based, exact).
        end: Step that the stretch ends before; ``None`` where the end of the run is not known.
        bases: Base value of each group.
        own: The optimiser's own value of the option; ``None`` where there is no optimiser.
        run: The length of the run, for durations.
        where: Path for error messages, such as ``schedules.lr[1]``.
        beyond: Whether a phase may reach beyond the run.
        denominator: Positions are counted in units of 1/denominator steps.
        before: The values that the phase before left, one for each group.
        notes: What is odd but clear is added here.
        whole: Whether this is the whole run, after which the last value is held.
    """

    begin: Fraction
    end: Fraction | None
    bases: tuple[float, ...]
    own: float | None
    run: RunLength
    where: str
    beyond: Literal["error", "allow"] = "error"
    denominator: int = 1
    before: tuple[float, ...] | None = None
    notes: list[str] = field(default_factory=list)
    whole: bool = False

    def inside(self, **changes: Any) -> Window:
        """A window like this one with some of its fields changed."""
        return replace(self, **changes)

    def known_end(self) -> Fraction:
        """``end``, or an error that says what to do where the run's length is not known."""
        return Fraction(self.run.known_total(self.where)) if self.end is None else self.end

    def levels(self, level: Level, name: str) -> tuple[float, ...]:
        """The value of ``level`` for each group.

        Raises:
            SolverError: ``previous`` without a phase before, or a factor of an optimiser that is not there.
        """
        where = f"{self.where}.{name}"
        if level == "previous":
            if self.before is None:
                do = "give a number; only a phase after another one can start from what was left"
                raise SolverError(where, "there is no phase before this one", got="'previous'", do=do)
            return self.before
        if isinstance(level, dict):
            ((kind, number),) = level.items()
            if kind == "absolute":
                return (number,) * len(self.bases)
            if self.own is None:
                do = "give the optimiser and its arguments, or an absolute value"
                raise SolverError(where, "needs the optimiser's own value, which is not known", got=repr(level), do=do)
            return (number * self.own,) * len(self.bases)
        assert not isinstance(level, str)
        return tuple(level * base for base in self.bases)

    def axis(self, name: str = "until") -> Axis:
        """The part of the window that has passed, as a fraction from 0 to 1."""
        end = self.known_end()
        if end <= self.begin:
            raise SolverError(f"{self.where}.{name}", "the phase has no length", got=str(end), do="give it one")
        return Axis.between(self.begin, end - self.begin, self.denominator)

    def count(self, every: Fraction) -> Axis:
        """How many times ``every`` steps have passed since the window began, fractions included."""
        most = None if self.end is None else (self.end - self.begin) / every
        return Axis.between(self.begin, every, self.denominator, most)


@dataclass(frozen=True)
class Axis:
    """A position as a float: ``clamp(position * scale - shift, 0, limit) / span`` in whole numbers, then divided.

    The division of whole numbers is correctly rounded, for one position and for an array alike.
    """

    scale: int
    shift: int
    span: int
    limit: int | None

    @classmethod
    def between(cls, begin: Fraction, length: Fraction, denominator: int, most: Fraction | None = Fraction(1)) -> Axis:
        """(position / denominator - begin) / length, held at 0 below and at ``most`` above."""
        scale = begin.denominator * length.denominator
        shift = begin.numerator * denominator * length.denominator
        span = denominator * begin.denominator * length.numerator
        factor = 1 if most is None else most.denominator
        limit = 0 if most is None else span * most.numerator
        divisor = math.gcd(scale * factor, shift * factor, span * factor, limit)
        whole = (scale * factor // divisor, shift * factor // divisor, span * factor // divisor)
        return cls(*whole, None if most is None else limit // divisor)

    @overload
    def __call__(self, position: int) -> float: ...
    @overload
    def __call__(self, position: Integers) -> Floats: ...
    def __call__(self, position: int | Integers) -> float | Floats:
        if isinstance(position, np.ndarray):
            return self._over(position)
        passed = max(position * self.scale - self.shift, 0)
        if self.limit is not None:
            passed = min(passed, self.limit)
        return passed / self.span

    def _over(self, positions: Integers) -> Floats:
        largest = int(positions.max(initial=0)) * self.scale + self.shift + self.span
        if largest >= 2**53:  # floats would no longer hold these whole numbers: let Python divide them
            return np.array([self(int(position)) for position in positions.tolist()], dtype=np.float64)
        limit = self.limit if self.limit is None or self.limit < 2**53 else None
        passed = np.clip(positions * self.scale - self.shift, 0, limit)
        return np.asarray(passed / self.span, dtype=np.float64)


def affine(position: Any, scale: int, offset: int = 0) -> Any:
    """``position * scale + offset`` in whole numbers, for one position or an array; never wraps around."""
    if isinstance(position, np.ndarray) and int(position.max(initial=0)) * scale + abs(offset) >= 2**62:
        position = position.astype(object)
    return position * scale + offset


def integers(values: Sequence[int]) -> Integers:
    """Whole numbers as an array that holds them exactly."""
    return np.array(values, dtype=np.int64 if max(values, default=0) < 2**62 else object)


def each(function: Callable[[float], float], x: N) -> N:
    """``function`` of a float, or of every entry of an array.

    An array is worked off by Python's own ``math``, not by numpy's vector loops, whose last bit may differ: what a plan
    shows is then what the scheduler writes.
    """
    if isinstance(x, np.ndarray):
        return np.array([function(value) for value in x.tolist()], dtype=np.float64)
    return function(x)


@dataclass(frozen=True)
class Blend(Curve):
    """From one value per group to another, by a weight that goes from 0 to 1 along the axis."""

    first: tuple[float, ...]
    last: tuple[float, ...]
    axis: Axis
    weight: Callable[[float], float]

    def at(self, position: int) -> list[float]:
        w = self.weight(self.axis(position))
        # Measured from the nearer end, so that both ends are exact and equal ends stay equal.
        if w < 0.5:
            return [a + (b - a) * w for a, b in zip(self.first, self.last)]
        return [b - (b - a) * (1.0 - w) for a, b in zip(self.first, self.last)]

    def over(self, positions: Integers) -> Floats:
        w = each(self.weight, self.axis(positions))[:, None]
        a, b = np.array(self.first), np.array(self.last)
        return np.asarray(np.where(w < 0.5, a + (b - a) * w, b - (b - a) * (1.0 - w)), dtype=np.float64)


@dataclass(frozen=True)
class Growth(Curve):
    """One value per group, times a factor of what the axis counts."""

    first: tuple[float, ...]
    axis: Callable[[Any], Any]
    factor: Callable[[float], float]

    def at(self, position: int) -> list[float]:
        factor = self.factor(self.axis(position))
        return [value * factor for value in self.first]

    def over(self, positions: Integers) -> Floats:
        factors: Floats = each(self.factor, self.axis(positions))
        return np.array(self.first) * factors[:, None]


@dataclass(frozen=True)
class Fixed(Curve):
    """The same value at every position."""

    values: tuple[float, ...]

    def at(self, position: int) -> list[float]:
        return list(self.values)

    def over(self, positions: Integers) -> Floats:
        return np.tile(np.array(self.values, dtype=np.float64), (len(positions), 1))


class Schedule(Plain, ABC):
    """Plain data that says how a hyper-parameter moves. To make your own, derive a frozen dataclass and give ``lay``.

    Every schedule has a field ``until``: the point of the run at which it ends as a phase of a list or of a
    :class:`Join`, where the next phase takes over. The last phase has none, as it lasts to the end of the run.
    """

    until: int | str | None

    @abstractmethod
    def lay(self, window: Window) -> Curve:
        """The curve of this schedule over ``window``, which the caller has cut to this phase."""

    def check(self) -> None:
        if self.until is not None:
            Duration.parse(self.until, f"{type(self).__name__}.until")
        for name in ("start", "end", "value"):
            if hasattr(self, name):
                _check_level(getattr(self, name), f"{type(self).__name__}.{name}")
        gamma = getattr(self, "gamma", None)
        if isinstance(gamma, float) and gamma <= 0:
            raise self._error("gamma", "must be a factor > 0", got=gamma, do="correct it")


def _check_level(level: Level, where: str) -> None:
    forms = "give a factor of the group's base value, {absolute: VALUE}, {optimizer: FACTOR} or previous"
    if isinstance(level, str):
        if level != "previous":
            raise SolverError(where, "is not a value", got=repr(level), do=forms)
        return
    number = level
    if isinstance(level, dict):
        if len(level) != 1 or next(iter(level)) not in ("absolute", "optimizer"):
            raise SolverError(where, "is not a value", got=repr(level), do=forms)
        (number,) = level.values()
    assert isinstance(number, float)
    if number < 0:
        raise SolverError(where, "must not be negative", got=repr(level), do="give a value >= 0")


def run_window(
    bases: Sequence[float],
    run: RunLength,
    where: str,
    *,
    own: float | None = None,
    beyond: Literal["error", "allow"] = "error",
) -> Window:
    """The window that is the whole run."""
    end = None if run.total_steps is None else Fraction(run.total_steps)
    return Window(Fraction(0), end, tuple(bases), own, run, where, beyond, whole=True)
