"""``LinearLR``, ``PolynomialLR``, ``CosineAnnealingLR`` and ``CosineAnnealingWarmRestarts``."""

from __future__ import annotations

import math
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import absolute
from lightning_solver.interop.torch.arguments import Args, Leaf, found_of
from lightning_solver.interop.torch.rates import At, Phase, Rate, constant, cut, short
from lightning_solver.schedules import Constant, Cosine, Cycle, Linear, Polynomial


def linear_lr(args: Args) -> Leaf:
    """``LinearLR``."""
    start, end = args.number("start_factor", 1 / 3), args.number("end_factor", 1.0)
    total = exact(args.number("total_iters", 5, low=0))
    for name, value, low in (("start_factor", start, "above 0"), ("end_factor", end, "from 0")):
        if not 0 <= value <= 1 or (value == 0 and name == "start_factor"):
            raise SolverError(args.path(name), f"must lie {low} to 1", got=repr(value), do="correct it")
    whole = int(total)  # the last call that moves the rate
    reached = start if whole == 0 else short(start + (end - start) * float(whole / total))

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        if entry == "reset":
            told_of(args, total)
        return found_of(entry, rate, base).times(start)

    def phases(at: At) -> list[Phase]:
        last = told_of(args, total) if at.ticks.told else Fraction(whole)
        line = Linear(at.rate.times(start).level(), at.rate.times(end if at.ticks.told else reached).level())
        if line.start == line.end or last == 0:
            return [Phase(Constant(line.start), stairs=True)]
        return [Phase(line, at.begin + last, shaped=True), Phase(Constant(line.end), stairs=True)]

    return Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: start if whole == 0 else start + (end - start) * min(k, whole) / float(total),
        opened=opened,
        horizon=total if end < start else None,
        horizon_name="total_iters",
    )


def told_of(args: Args, total: Fraction) -> Fraction:
    """The end of a closed form."""
    if total == 0:
        raise SolverError(args.path("total_iters"), "is 0, by which torch divides here", got="0", do="correct it")
    return total


def polynomial_lr(args: Args) -> Leaf:
    """``PolynomialLR``."""
    total, power = exact(args.number("total_iters", 5, low=0)), args.number("power", 1.0)
    if power < 0:
        raise SolverError(args.path("power"), "must not be negative", got=repr(power), do="correct it")
    whole = int(total)

    def factor(k: int) -> float:
        return float(1 - min(k, whole) / total) ** power if whole else 1.0

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        if entry in ("reset", "stepped"):
            told_of(args, total)
        if entry == "stepped":
            return rate.times(float(total / (total + 1)) ** power)
        return found_of(entry, rate, base)

    def phases(at: At) -> list[Phase]:
        last = told_of(args, total) if at.ticks.told else Fraction(whole)
        if not last or power == 0:
            return [constant(at.rate)]
        curve = Phase(Polynomial(power, start=at.rate.level()), at.begin + total, shaped=True)
        left = Rate() if last == total else at.rate.times(factor(whole))
        return [*cut([curve], at.begin + last, at.ticks), constant(left)]

    return Leaf(
        args.name, args.where, phases, factor=factor, opened=opened, horizon=total or None, horizon_name="total_iters"
    )


def cosine_lr(args: Args) -> Leaf:
    """``CosineAnnealingLR``."""
    t_max, eta = exact(args.number("T_max")), args.number("eta_min", 0.0, low=0)
    if t_max <= 0:
        raise SolverError(args.path("T_max"), "must be > 0", got=repr(args.take("T_max")), do="correct it")
    floor = Rate(fixed=eta)
    _note_floor(args, "eta_min", eta)

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        if entry != "stepped":
            return found_of(entry, rate, base)
        if t_max == 1:
            return Rate(rate.own + base.own, rate.fixed + base.fixed - eta)
        return rate.toward(eta, 2.0 / (1.0 + math.cos(math.pi / float(t_max))))

    def phases(at: At) -> list[Phase]:
        top = at.base if t_max.denominator == 1 else at.rate  # torch goes by the base where it hits the floor
        down, up = Cosine(at.rate.level(), floor.level()), Cosine(floor.level(), top.level())
        falling, rising = at.begin + t_max, at.begin + 2 * t_max
        if at.end is not None and at.end > falling:
            what = (
                f"is over before the run: from there torch lets the rate rise again, every {at.ticks.text(2 * t_max)}"
            )
            args.given.notes.say(args.path("T_max"), what)
        if at.end is not None and at.end <= rising:
            return [Phase(down, falling, shaped=True), Phase(up, rising, shaped=True), constant(top)]
        every = at.ticks.text(2 * t_max)
        if at.rate == top:
            return [Phase(Cycle((down.ending("50%"), up), every=every))]
        again = Cycle((up.ending("50%"), Cosine(top.level(), floor.level())), every=every)
        return [Phase(down, falling, shaped=True), Phase(again)]

    return Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: (1.0 + math.cos(math.pi * k / float(t_max))) / 2.0,
        opened=opened,
        floor=eta,
        turns=t_max,
        horizon=t_max,
        horizon_name="T_max",
    )


def _note_floor(args: Args, key: str, floor: float) -> None:
    for rate in args.given.rates():
        if rate < floor:
            args.given.notes.say(args.path(key), f"is above the rate {rate:g} of a group, which therefore rises")


def warm_restarts(args: Args) -> Leaf:
    """``CosineAnnealingWarmRestarts``."""
    first, grow = args.integer("T_0", low=1), args.integer("T_mult", 1, low=1)
    eta = args.take("eta_min", 0.0)
    if isinstance(eta, bool) or not isinstance(eta, (int, float)):
        raise SolverError(args.path("eta_min"), "must be a number", got=repr(eta), do="correct it")
    eta = args.number("eta_min", 0.0, low=0)
    _note_floor(args, "eta_min", eta)

    def phases(at: At) -> list[Phase]:
        cosine = Cosine(at.base.level(), absolute(eta))
        if at.ticks.total == at.begin + first:
            return [Phase(cosine, at.begin + first, shaped=True), constant(at.base)]
        start, size = Fraction(0), first
        while at.stop is not None and at.begin + start < at.stop - 1:
            start, size = start + size, size * grow
        jumps = at.stop is not None and at.begin + start == at.stop - 1
        return [Phase(Cycle(cosine, every=at.ticks.text(first), grow=grow), jumps=jumps)]

    return Leaf(args.name, args.where, phases, closed_from=0, from_base=True)
