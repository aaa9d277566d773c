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
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from lightning_solver.durations import Duration, RunLength
from lightning_solver.errors import SolverError
from lightning_solver.plain import Plain, field_hints

if TYPE_CHECKING:
    from lightning_solver.schedules.plateau import Feed

Level: TypeAlias = float | str | dict[str, float]
"""A value that a schedule reaches.

A number is a factor of the group's own base value. A mapping adds up what it names: ``base``, a factor of that value;
``absolute``, a value as it is; ``scaled``, a value times the group's own scale (``lr_scale`` of its rules);
``optimizer``, a factor of the optimiser's own value of the option. ``"previous"`` is the value that the phase before
left, ``"next"`` the one with which the phase after begins.
"""

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[Any]  # int64, or object where whole numbers outgrow it
N = TypeVar("N", float, Floats)
S = TypeVar("S", bound="Schedule")


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
        after: Gives the values with which the phase after begins; ``None`` where there is none.
        signed: Whether values may be negative, as in a sum that is not.
        scales: How much the rules have scaled each group; 1 where it is left out.
        feed: Where a schedule that follows a metric puts its tracker; ``None`` where none can stand.
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
    after: Callable[[], tuple[float, ...] | None] | None = None
    signed: bool = False
    scales: tuple[float, ...] | None = None
    feed: Feed | None = None
    notes: list[str] = field(default_factory=list)
    whole: bool = False

    def inside(self, **changes: Any) -> Window:
        """A window like this one with some of its fields changed."""
        return replace(self, **changes)

    def only(self, groups: Sequence[int]) -> Window:
        """The same window for some of the groups, by index."""

        def chosen(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
            return None if values is None else tuple(values[i] for i in groups)

        after = self.after
        return self.inside(
            bases=chosen(self.bases),
            before=chosen(self.before),
            scales=chosen(self.scales),
            after=None if after is None else lambda: chosen(after()),
        )

    def point(self, text: int | str, name: str) -> Fraction:
        """The point of the run that ``text`` names, as an exact step.

        Raises:
            SolverError: It lies beyond the run, where that is not allowed.
        """
        where = f"{self.where}.{name}"
        point = Duration.parse(text, where).resolve(self.run, where)
        total = self.run.total_steps
        if total is not None and point > total:
            what = f"reaches beyond the run, which ends at step {float(total):g}"
            if self.beyond == "error":
                do = "shorten it, train longer, or set beyond_run: allow"
                raise SolverError(where, what, got=f"{text!r}, which is step {float(point):g}", do=do)
            self.notes.append(f"{where} ({text}) {what}")
        return point

    def known_end(self) -> Fraction:
        """``end``, or an error that says what to do where the run's length is not known."""
        return Fraction(self.run.known_total(self.where)) if self.end is None else self.end

    def levels(self, level: Level, name: str) -> tuple[float, ...]:
        """The value of ``level`` for each group.

        Raises:
            SolverError: ``previous`` without a phase before, or a factor of an optimiser that is not there.
        """
        where = f"{self.where}.{name}"
        if level in ("previous", "next"):
            return self._neighbour(str(level), where)
        if isinstance(level, dict):
            values = self._sum(level, where)
            if not self.signed and any(value < 0 for value in values):
                raise SolverError(where, "is negative", got=f"{level!r}, which is {min(values):g}", do="correct it")
            return values
        assert not isinstance(level, str)
        return tuple(level * base for base in self.bases)

    def _neighbour(self, level: str, where: str) -> tuple[float, ...]:
        if level == "previous" and self.before is not None:
            return self.before
        after = None if level == "previous" or self.after is None else self.after()
        if after is not None:
            return after
        do = (
            "give a number; only a phase beside another one can take its value, not both from each other, and not "
            "that of a Plateau, which nobody knows beforehand"
        )
        which = "before" if level == "previous" else "after"
        raise SolverError(where, f"there is no phase {which} this one", got=repr(level), do=do)

    def _sum(self, level: dict[str, float], where: str) -> tuple[float, ...]:
        if "optimizer" in level and self.own is None:
            do = "give the optimiser and its arguments, or an absolute value"
            raise SolverError(where, "needs the optimiser's own value, which is not known", got=repr(level), do=do)
        scales = self.scales or (1.0,) * len(self.bases)
        values = [0.0] * len(self.bases)
        for kind, number in level.items():
            units: dict[str, Sequence[float]] = {
                "base": self.bases,
                "absolute": (1.0,) * len(values),
                "scaled": scales,
                "optimizer": (self.own or 0.0,) * len(values),
            }
            values = [value + number * unit for value, unit in zip(values, units[kind])]
        return tuple(values)

    def axis(self, name: str = "until") -> Axis:
        """The part of the window that has passed, as a fraction from 0 to 1."""
        end = self.known_end()
        if end <= self.begin:
            raise SolverError(f"{self.where}.{name}", "the phase has no length", got=str(end), do="give it one")
        return Axis.between(self.begin, end - self.begin, self.denominator)

    def counter(self, every: int | str, name: str = "every") -> Callable[[Any], Any]:
        """Counts how many ``every`` have passed since the window began, also in epochs that differ in length.

        Raises:
            SolverError: The run does not know what the unit needs, or ``every`` is nothing.
        """
        duration, where = Duration.parse(every), f"{self.where}.{name}"
        if duration.epochs is None or self.run.epoch_ends is None:
            return self.count(duration.length(self.run, where))
        first, last = self.run.epochs_at_step(self.begin), self.known_end()
        ends = [self.begin]
        while ends[-1] < last:
            ends.append(self.run.steps_at_epoch(first + duration.epochs * len(ends)))
        return UnevenAxis(tuple(ends), last, self.denominator)

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
        largest = (int(positions.max(initial=0)) + 1) * self.scale + abs(self.shift) + self.span
        if largest >= 2**53:  # floats would no longer hold these whole numbers: let Python divide them
            return np.array([self(int(position)) for position in positions.tolist()], dtype=np.float64)
        limit = self.limit if self.limit is None or self.limit < 2**53 else None
        passed = np.clip(positions * self.scale - self.shift, 0, limit)
        return np.asarray(passed / self.span, dtype=np.float64)


@dataclass(frozen=True)
class UnevenAxis:
    """Counts lengths that differ: how many of the ``ends`` have been reached, and the part of the next one."""

    ends: tuple[Fraction, ...]
    last: Fraction
    denominator: int

    def __call__(self, position: Any) -> Any:
        if isinstance(position, np.ndarray):
            return np.array([self(int(one)) for one in position.tolist()], dtype=np.float64)
        step = min(max(Fraction(position, self.denominator), self.ends[0]), self.last)
        index = min(bisect_right(self.ends, step) - 1, len(self.ends) - 2)
        begin, end = self.ends[index], self.ends[index + 1]
        return float(index + (step - begin) / (end - begin))


def affine(position: Any, scale: int, offset: int = 0) -> Any:
    """``position * scale + offset`` in whole numbers, for one position or an array; never wraps around."""
    if isinstance(position, np.ndarray) and int(position.max(initial=0)) * scale + abs(offset) >= 2**62:
        position = position.astype(object)
    return position * scale + offset


def wide(positions: Any, *bounds: int | None) -> Any:
    """``positions``, as Python's own whole numbers where a bound that they are held against outgrows int64."""
    if isinstance(positions, np.ndarray) and any(bound is not None and abs(bound) >= 2**62 for bound in bounds):
        return positions.astype(object)
    return positions


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


class Schedule(Plain, ABC):
    """Plain data that says how a hyper-parameter moves. To make your own, derive a frozen dataclass and give ``lay``.

    Every schedule has a field ``until``: the point of the run at which it ends as a phase of a list or of a
    :class:`Join`, where the next phase takes over. The last phase has none, as it lasts to the end of the run.
    """

    until: int | str | None

    def ending(self: S, until: int | str | None) -> S:
        """The same schedule as a phase that ends at ``until``."""
        return replace(self, until=until)  # type: ignore[call-arg]

    @abstractmethod
    def lay(self, window: Window) -> Curve:
        """The curve of this schedule over ``window``, which the caller has cut to this phase."""

    def check(self) -> None:
        name = type(self).__name__
        if self.until is not None:
            Duration.parse(self.until, f"{name}.until")
        for level in level_fields(type(self)):
            if getattr(self, level) is not None:
                check_level(getattr(self, level), f"{name}.{level}")
        if getattr(self, "of", None) == ():
            raise self._error("of", "is empty", got=[], do="give at least one schedule")
        gamma = getattr(self, "gamma", None)
        if isinstance(gamma, float) and gamma <= 0:
            raise self._error("gamma", "must be a factor > 0", got=gamma, do="correct it")
        length = getattr(self, "every", None)
        if length is not None and all(value == 0 for value, _ in Duration.parse(length, f"{name}.every").terms):
            raise self._error("every", "must be longer than nothing", got=length, do="give a length > 0")


def level_fields(cls: type[Schedule]) -> list[str]:
    """The fields of a schedule that hold a :data:`Level`."""
    return [name for name, hint in field_hints(cls).items() if hint in (Level, Level | None)]


def check_level(level: Level, where: str) -> None:
    """Refuse what is not a :data:`Level`.

    Raises:
        SolverError: It is not one, or a factor below 0.
    """
    forms = (
        "give a factor of the group's base value, {absolute: VALUE}, {scaled: VALUE}, {optimizer: FACTOR}, a sum "
        "such as {base: FACTOR, absolute: VALUE}, previous or next"
    )
    if isinstance(level, str):
        if level not in ("previous", "next"):
            raise SolverError(where, "is not a value", got=repr(level), do=forms)
        return
    if isinstance(level, dict) and (not level or level.keys() - {"base", "absolute", "scaled", "optimizer"}):
        raise SolverError(where, "is not a value", got=repr(level), do=forms)
    if not isinstance(level, dict) and level < 0:
        raise SolverError(where, "must not be negative", got=repr(level), do="give a value >= 0")


def run_window(
    bases: Sequence[float],
    run: RunLength,
    where: str,
    *,
    own: float | None = None,
    beyond: Literal["error", "allow"] = "error",
    scales: Sequence[float] | None = None,
    feed: Feed | None = None,
) -> Window:
    """The window that is the whole run."""
    end = None if run.total_steps is None else Fraction(run.total_steps)
    given = None if scales is None else tuple(scales)
    return Window(Fraction(0), end, tuple(bases), own, run, where, beyond, scales=given, feed=feed, whole=True)
