"""The schedules that drop: step and multistep."""

from __future__ import annotations

import math
from bisect import bisect_right
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.interop.base import length
from lightning_solver.interop.timm.clock import each
from lightning_solver.interop.timm.parts import Parts
from lightning_solver.interop.timm.ramp import Ramp
from lightning_solver.interop.timm.source import Source, numbers
from lightning_solver.schedules import Constant, MultiStep, Step


def step_parts(source: Source, ramp: Ramp) -> Parts:
    """A drop every so often, counted from where the curve begins."""
    clock, number, gamma = source.clock, source.positive("decay_t"), float(source.number("decay_rate", low=0))
    every, ticks = source.units(number), source.ticks(number)
    even = every.denominator == 1
    if gamma == 1:
        return Parts([Constant()], even=True)
    stair = clock.at(every, ticks)
    if ticks is not None and clock.ticks is not None and Fraction(ticks) > exact(ticks):
        # In floating point the divisor is a little more than it says, so that drops at a whole t come one t late.
        whole = 10**6 if clock.run is None else clock.run * clock.ticks
        if exact(ticks).numerator < whole or ramp.offset.denominator > 1:
            stair = length(Fraction(math.ceil(Fraction(ticks) * 10**13), 10**13), clock.one)
            source.say("decay_t", "timm's division rounds, so that a drop at a whole number comes one late")
    if gamma:
        return Parts([Step(every=stair, gamma=gamma)], even=even)
    return Parts([Constant(until=clock.text(ramp.offset + every)), Constant(0.0)], even=even)


def multistep_parts(source: Source, ramp: Ramp) -> Parts:
    """A drop at ``t = m - 1`` for every milestone ``m``, counted from where the curve begins."""
    clock, gamma = source.clock, float(source.number("decay_rate", low=0))
    milestones = numbers(source.take("decay_t"), source.path("decay_t"))
    counts: dict[int | str, int] = {}
    for milestone in sorted(set(milestones)):
        units = source.units(milestone)
        point = clock.text(ramp.offset + units, -1)
        if units <= 0 or (clock.ticks is not None and units * clock.ticks <= 1):  # the first t has the base rate
            point = clock.text(ramp.offset) if ramp.length else clock.tick
        counts[point] = bisect_right(milestones, milestone)
    if not counts or gamma == 1:
        return Parts([Constant()], even=True)
    even, points = all(source.units(milestone).denominator == 1 for milestone in milestones), list(counts)
    source.say(
        "decay_t", f"timm drops one {each(clock)} before a milestone: the first time at {points[0]}, counted from 0"
    )
    if gamma and list(counts.values()) == list(range(1, len(counts) + 1)):
        return Parts([MultiStep(at=tuple(points), gamma=gamma)], even=even)
    levels = [float(gamma**drops) for drops in (0, *counts.values())]
    return Parts([*map(Constant, levels, points), Constant(levels[-1])], even=even)
