"""Shares of a run: how they are written, and which of them are seen of a scheduler."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.interop.base import Notes, length
from lightning_solver.schedules import Over, Schedule


@dataclass(frozen=True)
class Measure:
    """How shares of a run are written: ``total`` steps make 1, while the run may have another length, ``run``."""

    total: int | None
    run: int | None
    percent: bool
    notes: Notes
    where: str

    def text(self, share: Fraction) -> int | str:
        """A point or a length: a short percentage, whole steps, or an exact fraction."""
        if share == 0:
            return 0
        if self.total is None or (self.percent and share <= 1 and (share * 10_000).denominator == 1):
            return length(share * 100, "%")
        steps = share * self.total
        if (steps * 1000).denominator == 1 or share > 1 or not (self.run is None or self.run == self.total):
            return length(steps)
        return length(share * 100, "%")

    def texts(self, shares: Sequence[Fraction], steps: bool) -> list[int | str]:
        """Points at which a value drops: all in per cent or, if ``steps`` or where that is not short, in steps."""
        if self.total is None or (
            not steps and self.percent and all((share * 10_000).denominator == 1 for share in shares)
        ):
            return [length(share * 100, "%") for share in shares]
        return [self.step(share) for share in shares]

    def step(self, share: Fraction) -> int:
        """The first step at or after a point."""
        assert self.total is not None
        return math.ceil(share * self.total)

    def same(self, one: Fraction, other: Fraction) -> bool:
        """Whether two points are the same for every step."""
        return one == other if self.total is None else self.step(one) == self.step(other)

    def share(self, value: float) -> Fraction:
        """The share that a number stands for: a simple fraction, or whole steps, if it is one but for rounding."""
        near = Fraction(value).limit_denominator(1_000_000)
        if abs(near - Fraction(value)) <= Fraction(1, 10**15):
            return near
        if self.total is not None and abs(value * self.total - round(value * self.total)) < 1e-9:
            return Fraction(round(value * self.total), self.total)
        return Fraction(str(value))


@dataclass(frozen=True)
class View:
    """Where a scheduler lies in the run, in exact shares of it, and which part of it is seen.

    Args:
        begin: Where the scheduler itself begins (its own share is 0).
        end: Where it ends (its own share is 1).
        first: From where on it is seen.
        last: Where something else takes over.
        at: The scheduler's own share at a step, worked out as fvcore does.
        measure: The run.
    """

    begin: Fraction
    end: Fraction
    first: Fraction
    last: Fraction
    at: Callable[[int], float]
    measure: Measure

    def point(self, share: Fraction) -> Fraction:
        """The point of the run at which the scheduler's own share is ``share``."""
        return self.begin + (self.end - self.begin) * share

    def own(self, point: Fraction) -> Fraction:
        """The scheduler's own share at a point of the run."""
        return (point - self.begin) / (self.end - self.begin)

    def when(self, share: Fraction, reached: Callable[[float], bool]) -> Fraction:
        """The point, within what is seen, from which on ``reached`` says yes to the scheduler's own share.

        That is the point of ``share``, unless the margin of fvcore makes it an earlier step.
        """
        point = self.point(share)
        if self.measure.total is None:
            return min(max(point, self.first), self.last)
        low, high = self.measure.step(self.first), self.measure.step(self.last)
        step = bisect_right(range(high), False, lo=low, key=lambda i: reached(self.at(i))) if low < high else low
        if step >= high:
            return self.last
        if step == low:
            return self.first
        if step == self.measure.step(point):
            return point
        what = "fvcore adds 1e-6 to the share of training done: what comes earlier by it is written where it comes"
        self.measure.notes.say(self.measure.where, what)
        return Fraction(step, self.measure.total)

    def laid(self, curve: Schedule) -> list[Schedule]:
        """A curve, wrapped where it begins before it is seen or would end after."""
        begin = None if self.begin == self.first else self.measure.text(self.begin)
        end = None if self.end == self.last else self.measure.text(self.end)
        return [curve] if begin is None and end is None else [Over(curve, begin=begin, end=end)]

    @property
    def to_the_end(self) -> bool:
        """Whether nothing takes over before the run ends."""
        return self.last == 1
