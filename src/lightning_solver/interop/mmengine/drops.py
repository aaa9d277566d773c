"""The kinds that multiply again and again: ``Exponential``, ``Step`` and ``MultiStep``."""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from fractions import Fraction

from lightning_solver.interop.mmengine.move import Found, Move
from lightning_solver.interop.mmengine.point import Point, point_of
from lightning_solver.interop.mmengine.reader import Reader, ratio
from lightning_solver.schedules import Constant, Exponential, MultiStep, Schedule, Step


def exponential(reader: Reader) -> Move:
    """``Exponential``: a drop with every move."""
    gamma = float(reader.data.number("gamma", low=0)) if reader.data.needed("gamma") is not None else 0.0
    every = point_of(Fraction(1), "ep") if reader.by_epoch else reader.tick
    return _decay(reader, gamma, every, smooth=not reader.by_epoch)


def step(reader: Reader) -> Move:
    """``Step``: a drop at every so many moves."""
    size, _ = reader.whole(reader.data.needed("step_size"), "step_size")
    gamma = float(reader.data.number("gamma", 0.1, low=0))
    if reader.run.sign(size) != 1:
        raise reader.error("step_size", "must be > 0", reader.data.take("step_size"))
    count = reader.count(size)
    if count is not None and count.denominator != 1:  # only whole multiples are ever met
        size = reader.tick * count.numerator
    return _decay(reader, gamma, size)


def _decay(reader: Reader, gamma: float, every: Point, smooth: bool = False) -> Move:
    """Drops at every so many moves; ``smooth`` where that is every single one."""
    last, run = reader.end - reader.tick, reader.run
    first = reader.begin + every
    if reader.idle or gamma == 1 or run.sign(first - last) == 1:
        return reader.held()

    def phases(found: Found) -> list[Schedule]:
        until = reader.until(last)
        if gamma == 0:
            return [Constant(found.level, until=reader.text(first)), Constant(0.0)]
        if smooth:
            return [Exponential(gamma=gamma, every=reader.text(every), **found.start, until=until)]
        return [Step(every=reader.text(every), gamma=gamma, **found.start, until=until)]

    def after(level: float | None) -> float | None:
        drops = ratio(reader, last - reader.begin, every)
        return None if level is None or drops is None else level * gamma ** math.floor(drops)

    return reader.move(phases, first if gamma == 0 else last, after, stairs=False)


def multi_step(reader: Reader) -> Move:
    """``MultiStep``: drops at milestones."""
    data, run = reader.data, reader.run
    points, gamma = data.needed("milestones"), float(data.number("gamma", 0.1, low=0))
    if not isinstance(points, (list, tuple)):
        raise reader.error("milestones", "must be a list of numbers", points)
    pairs = [(value, *reader.whole(value, f"milestones[{i}]")) for i, value in enumerate(points)]
    lost = [value for value, point, met in pairs if not met or run.sign(point) == -1]
    drops = Counter(point for value, point, met in pairs if value not in lost)
    late = [point for point in drops if run.sign(reader.begin + point - reader.end) in (0, 1)]
    lost += [value for value, point, met in pairs if point in late and value not in lost]
    if lost:
        data.notes.say(data.path("milestones"), f"the scheduler is never at {', '.join(map(str, lost))}: no drop there")
    reached = [(reader.begin + point, count) for point, count in drops.items() if point not in late]
    reached.sort(key=lambda pair: (pair[0].epochs, pair[0].batches))
    if reader.idle or all(point == reader.begin for point, _ in reached):
        return reader.held(math.prod(gamma**count for point, count in reached if point == reader.begin))
    if gamma == 1:
        return reader.held()
    at = [point for point, _ in reached]
    factors = [gamma**count for _, count in reached]
    even = gamma > 0 and len(set(factors)) == 1

    def phases(found: Found) -> list[Schedule]:
        if even:
            return [MultiStep(at=tuple(map(reader.text, at)), gamma=factors[0], **found.start)]
        levels = list(itertools.accumulate([found.known, *factors], operator.mul))
        stairs = [Constant(value, until=reader.text(point)) for value, point in zip(levels, at)]
        return [*(stairs[1:] if at[0] == reader.begin else stairs), Constant(levels[-1])]

    def after(level: float | None) -> float | None:
        return None if level is None else level * math.prod(factors)

    jumps = at[0] == reader.begin
    return reader.move(phases, at[-1], after, latest=at[0], stairs=False, jumps=jumps, needs_level=not even)
