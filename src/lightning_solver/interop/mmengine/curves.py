"""The kinds that follow one curve: ``Linear``, ``Constant``, ``CosineAnnealing`` and ``Poly``."""

from __future__ import annotations

import math

from lightning_solver.interop.base import absolute
from lightning_solver.interop.mmengine.move import Found, Move, nothing, same, start_at, unknown
from lightning_solver.interop.mmengine.point import END
from lightning_solver.interop.mmengine.reader import Reader, ratio
from lightning_solver.schedules import Constant, Cosine, Cycle, Linear, Polynomial, Schedule


def linear(reader: Reader) -> Move:
    """``Linear``: from one factor to another."""
    first, last = (_share(reader, key, default) for key, default in (("start_factor", 1 / 3), ("end_factor", 1.0)))
    stop = reader.end - reader.tick
    if reader.once:
        if not reader.idle:
            what = "has one move only, and so stays at its start_factor, as in MMEngine"
            reader.data.notes.say(reader.data.where, what)
        return reader.held(first)
    if first == 0 and reader.run.sign(reader.begin + reader.tick - END) in (None, -1):
        raise reader.error("start_factor", "MMEngine stops with a division by zero", first, "give a factor > 0")

    def phases(found: Found) -> list[Schedule]:
        return [Linear(start=found.known * first, end=found.known * last, until=reader.text(stop))]

    def after(level: float | None) -> float | None:
        return None if level is None else level * last

    return reader.move(phases, stop, after, jumps=True, needs_level=True)


def constant(reader: Reader) -> Move:
    """``Constant``: a factor, and then the value that was there before."""
    factor = _share(reader, "factor", 1 / 3)
    stop = reader.end - reader.tick
    if reader.once or factor == 1:
        return reader.held(factor)
    if factor == 0 and reader.run.sign(stop - END) in (None, -1):
        raise reader.error("factor", "MMEngine stops with a division by zero at the end", factor, "give a factor > 0")

    def phases(found: Found) -> list[Schedule]:
        return [Constant(found.known * factor, until=reader.text(stop))]

    return reader.move(phases, stop, same, jumps=True, returns=True, needs_level=True, stairs=False)


def cosine(reader: Reader) -> Move:
    """``CosineAnnealing``: a cosine down to a floor, and up again beyond ``T_max``."""
    given, eta = reader.data.number("T_max"), reader.eta_min()
    if reader.once:
        return reader.held()
    if given is not None and given < 0:
        raise reader.error("T_max", "must be > 0", given)
    half, whole = reader.whole(given, "T_max") if given else (reader.end - reader.begin, True)
    last = reader.end - reader.tick
    if reader.compared(reader.begin + half, reader.visible, "T_max") >= 0:

        def half_cosine(found: Found) -> list[Schedule]:
            return [reader.cut(Cosine(**found.start, end=eta), reader.begin + half)]

        return reader.move(half_cosine, last, pure=eta == 0, floor=eta)

    # It goes on beyond T_max, and so rises again to the base value, falls, and so on.
    times = ratio(reader, reader.visible - reader.begin, half)
    top = reader.base(1.0)
    reader.data.notes.say(reader.data.path("T_max"), "the scheduler goes on beyond it: it rises again, as in MMEngine")

    def swing(found: Found) -> list[Schedule]:
        if not whole and found.level != top:
            raise reader.error("T_max", "must be a whole number of moves", given)
        first: Schedule = Cosine(**found.start, end=eta, until=reader.text(reader.begin + half))
        rise, fall = Cosine(start=eta, end=top), Cosine(**start_at(top), end=eta)
        if times is not None and times <= 4:
            stops = [reader.begin + half * i for i in range(2, math.ceil(times) + 1)]
            shapes = [rise if i % 2 == 0 else fall for i in range(len(stops))]
            middle = [shape.ending(reader.text(stop)) for shape, stop in zip(shapes, stops[:-1])]
            return [first, *middle, reader.cut(shapes[-1], stops[-1])]
        until = reader.until(last)
        halves = (fall, rise) if found.level == top else (rise, fall)
        cycle = (halves[0].ending(reader.text(half)), halves[1])
        swings = Cycle(cycle, every=reader.text(half * 2), until=until)
        return [swings] if found.level == top else [first, swings]

    return reader.move(swing, last, pure=False, floor=eta)


def poly(reader: Reader) -> Move:
    """``Poly``: down to a floor as a power of what is left."""
    data = reader.data
    eta, power = absolute(data.number("eta_min", 0.0, low=0)), float(data.number("power", 1.0))
    last = reader.end - reader.tick
    if power < 0:
        raise reader.error("power", "MMEngine stops with a division by zero at the end", power, "give a power > 0")
    if reader.once or power == 0:
        return reader.held()

    def phases(found: Found) -> list[Schedule]:
        if power == 1:
            return [Linear(**found.start, end=eta, until=reader.text(last))]
        return [Polynomial(power=power, **found.start, end=eta, until=reader.text(last))]

    return reader.move(phases, last, unknown if eta else nothing, pure=eta == 0, floor=eta)


def _share(reader: Reader, key: str, default: float) -> float:
    value = reader.data.number(key, default)
    if not 0 <= value <= 1:
        raise reader.error(key, "must lie between 0 and 1", value)
    return float(value)
