"""A scheduler of a config as it is read, and what several kinds do with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Settings, absolute
from lightning_solver.interop.mmengine.move import Found, Move, unknown
from lightning_solver.interop.mmengine.point import END, Point, point_of
from lightning_solver.interop.mmengine.run import Run
from lightning_solver.schedules import Over, Schedule
from lightning_solver.schedules.base import Level


@dataclass(frozen=True)
class Reader:
    """A scheduler of a config as it is read.

    Args:
        kind: Its class without what it moves: ``Linear`` of ``LinearLR``.
        option: What it moves.
        data: Its settings.
        run: The run.
        facts: What the config leaves open.
        by_epoch: Whether it moves once per epoch.
        one: What its lengths count: an epoch, an iteration, or some other number of them.
        begin: Where it begins.
        end: Where it ends.
        keep_zero: Whether groups whose value is 0 keep it.
        order: Its place among those that move after the same iteration.
        initial: What it takes for the base value of each group; empty for that value itself.
    """

    kind: str
    option: str
    data: Settings
    run: Run
    facts: Facts
    by_epoch: bool
    one: Point
    begin: Point
    end: Point
    keep_zero: bool
    order: tuple[bool, int]
    initial: tuple[float, ...] = ()

    @property
    def tick(self) -> Point:
        """From one move to the next."""
        return point_of(Fraction(1), "ep" if self.by_epoch else "st")

    @property
    def idle(self) -> bool:
        """Whether it moves with epochs in a loop that has only one: it begins, and that is all."""
        return self.by_epoch and not self.run.by_epochs

    @property
    def once(self) -> bool:
        """Whether it makes one move only."""
        return self.idle or self.run.sign(self.end - self.tick - self.begin) == 0

    @property
    def endless(self) -> bool:
        """Whether it lasts to the end of the run, or longer."""
        return self.run.sign(self.end - END) in (0, 1)

    @property
    def visible(self) -> Point:
        """Where it ends, or the run before that."""
        return END if self.endless else self.end

    def compared(self, point: Point, other: Point, key: str) -> int:
        """Which of two points is later; an error where that cannot be known."""
        sign = self.run.sign(point - other)
        if sign is None:
            self.facts.need(
                "iters_per_epoch", self.data.path(key), "counts iterations beside epochs, whose length counts"
            )
            raise AssertionError("with the length of an epoch points can be compared")
        return sign

    def count(self, point: Point) -> Fraction | None:
        """A length in moves, where it is known."""
        return self.run.ticks(point, "ep" if self.by_epoch else "st")

    def whole(self, value: Any, key: str) -> tuple[Point, bool]:
        """A length, and whether it is a whole number of moves."""
        number = as_number(value, self.data.path(key))
        point = self.one * number
        if number.denominator == 1:
            return point, True
        if not self.by_epoch and point.epochs:
            self.facts.need("iters_per_epoch", self.data.path(key), "is a part of an epoch, whose length counts")
        count = self.count(point)
        return point, count is not None and count.denominator == 1

    def eta_min(self, needed: bool = False) -> Level:
        """``eta_min``, the same for every group, or ``eta_min_ratio``, a share of its own value."""
        data = self.data
        value, ratio = data.number("eta_min", low=0), data.number("eta_min_ratio", low=0)
        if value is None and ratio is None and not needed:
            return 0.0
        if (value is None) == (ratio is None):
            do = "give one of them"
            raise self.error("eta_min", "one of eta_min and eta_min_ratio must be given", (value, ratio), do)
        return absolute(value) if value is not None else self.base(ratio)

    def base(self, factor: float) -> Level:
        """A factor of what the scheduler takes for the base value."""
        if not self.initial:
            return float(factor)
        if len(set(self.initial)) > 1:
            what = "works on the values that the OneCycleLR before it has put in place of each group's own"
            do = "take one of the two schedulers out"
            raise SolverError(self.data.where, what, got=str(list(self.initial)), do=do)
        return absolute(self.initial[0] * factor)

    def text(self, point: Point) -> int | str:
        """A point as a duration."""
        return self.run.text(point)

    def move(
        self,
        phases: Callable[[Found], list[Schedule]],
        last: Point,
        after: Callable[[float | None], float | None] = unknown,
        *,
        latest: Point | None = None,
        stairs: bool = True,
        pure: bool = True,
        sets: bool = False,
        jumps: bool = False,
        returns: bool = False,
        floor: Level = 0.0,
        needs_level: bool = False,
    ) -> Move:
        """What the scheduler does; see :class:`Move`."""
        stairs = stairs and self.by_epoch and not self.idle
        latest = self.begin if latest is None else latest
        where = (self.begin, latest, last)
        return Move(
            phases, *where, after, self.by_epoch, self.order, stairs, pure, sets, jumps, returns, floor, needs_level
        )

    def held(self, factor: float = 1.0) -> Move:
        """A factor from the beginning on, and that is all that there is."""
        jumps = factor != 1

        def after(level: float | None) -> float | None:
            return None if level is None else level * factor

        return self.move(lambda _: [], self.begin, after, stairs=False, jumps=jumps, needs_level=jumps)

    def cut(self, shape: Schedule, stop: Point) -> Schedule:
        """A shape that is done at ``stop``, cut off where the scheduler or the run ends before that."""
        bare = self.endless and self.run.sign(stop - END) == 0
        schedule = shape if bare else Over(shape, end=self.text(stop))
        return schedule if self.endless else schedule.ending(self.text(self.end - self.tick))

    def until(self, last: Point) -> int | str | None:
        """``until`` of a phase that ends at ``last``; none where it ends with the run."""
        return None if self.endless else self.text(last)

    def error(self, key: str, what: str, got: Any, do: str = "correct it") -> SolverError:
        """An error of one of the settings."""
        return SolverError(self.data.path(key), what, got=repr(got), do=do)


def as_number(value: Any, where: str) -> Fraction:
    """A setting as an exact number; an error for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SolverError(where, "must be a number", got=repr(value), do="correct it")
    return exact(value)


def ratio(reader: Reader, point: Point, unit: Point) -> Fraction | None:
    """How many times one length has room in another, where that is known."""
    for name in ("st", "ep"):
        parts = reader.run.ticks(point, name), reader.run.ticks(unit, name)
        if parts[0] is not None and parts[1] is not None:
            return parts[0] / parts[1]
    return None
