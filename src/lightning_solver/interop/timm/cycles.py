"""The curves that can go in cycles: cosine, tanh and poly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, length
from lightning_solver.interop.timm.clock import Clock, each
from lightning_solver.interop.timm.levels import between, scaled
from lightning_solver.interop.timm.parts import Parts
from lightning_solver.interop.timm.ramp import Ramp
from lightning_solver.interop.timm.source import Source
from lightning_solver.schedules import Constant, Cosine, Cycle, Linear, Over, Polynomial, Schedule, Tanh
from lightning_solver.schedules.base import Level

MOST = 200
"""Cycles that are looked at one by one."""

KINDS = {"CosineLRScheduler": "cosine", "TanhLRScheduler": "tanh", "PolyLRScheduler": "poly"}
"""The classes of these curves."""


@dataclass(frozen=True)
class Curve:
    """One of the curves that can go in cycles.

    Args:
        kind: Which.
        t: Length of the first cycle in units.
        span: The same in ``t``, as the number that timm calculates with; ``None`` if unknown.
        floor: ``lr_min``.
        mul: How many times as long each cycle is as the one before it.
        decay: Factor of the base rate from each cycle to the next.
        limit: Number of cycles.
        time_power: Exponent of the time that has passed ("k-decay").
        power: Exponent of poly.
        lower: Where the tangent begins.
        upper: Where it ends.
    """

    kind: Literal["cosine", "tanh", "poly"]
    t: Fraction
    span: float | None
    floor: float
    mul: float
    decay: float
    limit: int
    time_power: float = 1.0
    power: float = 1.0
    lower: float = -7.0
    upper: float = 3.0

    @property
    def reaches(self) -> bool:
        """Whether a cycle ends at ``lr_min``."""
        return self.kind == "cosine" or (self.kind == "poly" and self.power > 0)

    def shape(self, start: Level = 1.0, until: int | str | None = None) -> Schedule:
        """One cycle."""
        end = scaled(self.floor)
        if self.kind == "cosine":
            return Cosine(start=start, end=end, time_power=self.time_power, until=until)
        if self.kind == "tanh":
            return Tanh(lower=self.lower, upper=self.upper, start=start, end=end, until=until)
        if self.power == 0:
            return Constant(start, until=until)
        if self.power == self.time_power == 1:
            return Linear(start=start, end=end, until=until)
        return Polynomial(power=self.power, start=start, end=end, time_power=self.time_power, until=until)

    def bound(self, cycle: int) -> Fraction:
        """Where a cycle begins, in units from the beginning of the curve."""
        mul = exact(self.mul)
        return self.t * (cycle if mul == 1 else (mul**cycle - 1) / (mul - 1))

    def asked(self, t: float) -> tuple[int, float]:
        """What timm works out for ``t``: the cycle, and how much of the way to ``lr_min`` is left.

        Raises:
            ValueError: It works out a complex number, by a time that rounding has made negative.
        """
        span, mul, power = self.span, self.mul, self.time_power
        assert span is not None
        if mul == 1:
            cycle = int(t // span)
            now, whole = t - span * cycle, span
        else:
            cycle = math.floor(math.log(1 - t / span * (1 - mul), mul))
            now, whole = t - (1 - mul**cycle) / (1 - mul) * span, mul**cycle * span
        if cycle >= self.limit:
            return cycle, 0.0
        if self.kind == "tanh":
            passed = now / whole
            return cycle, 0.5 * (1.0 - math.tanh(self.lower * (1.0 - passed) + self.upper * passed))
        passed = now**power / whole**power
        left = passed if isinstance(passed, complex) else (1.0 - passed) ** self.power
        if isinstance(left, complex):
            raise ValueError
        return cycle, left if self.kind == "poly" else 0.5 * (1.0 + math.cos(math.pi * passed))

    def vanished(self, t: float | Fraction | None) -> bool:
        """Whether cycles that shrink are over before ``t``, if it is known."""
        if t is None or self.span is None or self.mul >= 1:
            return False
        return 1 - float(t) / self.span * (1 - self.mul) <= 0

    def odd(self, clock: Clock, begin: Fraction) -> dict[int, Level | None]:
        """The cycles at whose beginning rounding gives timm another value than the base rate, and that value.

        It is ``None`` where timm fails there.
        """
        found: dict[int, Level | None] = {}
        if self.span is None or clock.ticks is None or (self.mul == 1 and float(self.span).is_integer()):
            return found
        for cycle in range(1, min(self.limit, MOST) + 1):
            ticks = self.bound(cycle) * clock.ticks
            if not clock.after(begin + self.bound(cycle)) or ticks > 10**7:
                break
            if (ticks + begin * clock.ticks).denominator == 1:  # a t is there
                try:
                    taken_for, left = self.asked(int(ticks) if ticks.denominator == 1 else float(ticks))
                except ValueError:
                    found[cycle] = None
                    continue
                if taken_for < cycle or (taken_for == cycle < self.limit and abs(left - self.top) > 1e-11):
                    found[cycle] = between(float(self.decay**taken_for), self.floor, left)
        return found

    @property
    def top(self) -> float:
        """How much of the way to ``lr_min`` is left at the beginning of a cycle: nearly all with tanh."""
        return 0.5 * (1.0 - math.tanh(self.lower)) if self.kind == "tanh" else 1.0

    def phases(self, clock: Clock, begin: Fraction) -> list[Schedule]:
        """The curve from ``begin`` on, and what comes after it."""
        odd, floor = self.odd(clock, begin), Constant(scaled(self.floor))
        if self.limit < 1:
            return [floor]
        if odd or (self.limit > 1 and (self.mul < 1 or self.decay == 0)):
            return self.one_by_one(clock, begin, odd)
        if self.limit > 1:
            grow = int(self.mul) if float(self.mul).is_integer() else float(self.mul)
            every = length(self.t, clock.unit)
            cycle = Cycle(self.shape(), every=every, grow=grow, decay=float(self.decay), times=self.limit)
            if self.reaches or self.limit > MOST or not clock.after(begin + self.bound(self.limit)):
                return [cycle]
            return [cycle.ending(clock.text(begin + self.bound(self.limit))), floor]
        end = begin + self.t
        rest = [HOLD if self.reaches else floor] if clock.after(end) else []
        return [self.shape(until=None if clock.run == end else clock.text(end)), *rest]

    def one_by_one(self, clock: Clock, begin: Fraction, odd: Mapping[int, Level | None]) -> list[Schedule]:
        """Every cycle as phases of their own, where no :class:`Cycle` says it."""
        phases: list[Schedule] = []
        for cycle in range(min(self.limit, MOST) + 1):
            first, last = begin + self.bound(cycle), begin + self.bound(cycle + 1)
            if not clock.after(first):
                break
            instead = odd.get(cycle)
            if instead is not None:
                phases.append(Constant(instead, until=clock.text(first, 1)))
            if cycle == self.limit:
                phases.append(Constant(scaled(self.floor)))
                break
            start = float(self.decay**cycle)
            shape = self.shape(start, until=clock.text(last))
            if instead is not None:
                shape = Over(self.shape(start), begin=clock.text(first), end=clock.text(last), until=clock.text(last))
            phases.append(shape)
        return phases


def read_curve(source: Source, kind: Any) -> Curve:
    """The curve that the arguments describe."""
    span = source.positive("t_initial")
    return Curve(
        kind,
        source.units(span),
        source.ticks(span),
        source.number("lr_min", low=0),
        mul=source.positive("cycle_mul"),
        decay=source.number("cycle_decay", low=0),
        limit=math.ceil(source.number("cycle_limit", low=0 if kind == "tanh" else None)),
        time_power=1.0 if kind == "tanh" else float(source.positive("k_decay")),
        power=float(source.number("power", low=0)) if kind == "poly" else 1.0,
        lower=float(source.number("lb")) if kind == "tanh" else -7.0,
        upper=float(source.number("ub")) if kind == "tanh" else 3.0,
    )


def curve_parts(curve: Curve, source: Source, ramp: Ramp) -> Parts:
    """The curve and how its warm-up meets it.

    Raises:
        SolverError: What timm fails at.
    """
    clock = source.clock
    if curve.lower >= curve.upper:
        raise SolverError(source.path("lb"), "must be below ub", got=f"{curve.lower:g}", do="swap them")
    aims = curve.kind == "tanh" and ramp.length > 0 and not ramp.prefix
    meet = None if clock.ticks is None else ramp.length * clock.ticks
    last = None
    if clock.run is not None and clock.ticks is not None:
        last = math.ceil(clock.run * clock.ticks) - 1 - ramp.offset * clock.ticks
    warm = not ramp.prefix and last is not None and meet is not None and last < meet  # to the end of the run
    if (aims and curve.vanished(meet)) or (not warm and curve.vanished(last)):
        what, do = "shrinks the cycles to nothing, where timm fails", "shorten the run, or give at least 1"
        raise SolverError(source.path("cycle_mul"), what, got=repr(curve.mul), do=do)
    odd = curve.odd(clock, ramp.offset)
    if odd:
        what = f"timm's rounding gives the first {each(clock)} of some cycles another value: they are written out"
        source.say("cycle_mul", what)
    if clock.run is not None and None in odd.values():
        what = "timm fails where a cycle begins, as rounding makes the time negative that has passed"
        do = "give other lengths, or a whole k_decay"
        raise SolverError(source.path("cycle_mul"), what, got=repr(curve.mul), do=do)
    parts = Parts(curve.phases(clock, ramp.offset))
    if not ramp.length and (curve.limit < 1 or (curve.kind == "tanh" and 1 + math.tanh(curve.lower) > 1e-13)):
        what = f"the first {each(clock)} has the base rate itself, as timm asks for the curve after it only"
        source.say("t_initial", what)
        return replace(parts, first=True)
    if not aims:
        return parts
    if meet is None or (meet.denominator == 1 and ramp.length < curve.t and clock.after(ramp.length)):
        return replace(parts, meets="interpolate")
    cycle, left = curve.asked(float(meet))  # where no step is, or the run may be over
    return replace(parts, aim=between(float(curve.decay**cycle), curve.floor, left))
