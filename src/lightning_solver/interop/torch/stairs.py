"""``StepLR``, ``MultiStepLR``, ``ConstantLR`` and ``ExponentialLR``."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.torch.arguments import Args, Leaf, found_of
from lightning_solver.interop.torch.rates import OWN, At, Phase, Rate, Ticks, constant, short
from lightning_solver.interop.torch.reading import whole_of
from lightning_solver.interop.torch.slopes import told_of
from lightning_solver.schedules import Constant, Cycle, Exponential, MultiStep, Product, Step


def step_lr(args: Args) -> Leaf:
    """``StepLR``."""
    size, gamma = args.whole("step_size", low=1), args.number("gamma", 0.1, low=0)

    def phases(at: At) -> list[Phase]:
        if gamma in (0, 1):
            return (
                [constant(at.rate, at.begin + size), constant(at.rate.times(gamma))]
                if gamma == 0
                else [constant(at.rate)]
            )
        return [Phase(Step(every=at.ticks.text(size), gamma=gamma, start=at.rate.level()), stairs=True)]

    def moves(ticks: Ticks) -> list[Phase]:
        drop = Cycle((Constant(gamma, until=ticks.text(1)), Constant()), every=ticks.text(size))
        return [constant(OWN, Fraction(size)), Phase(drop, stairs=True)]

    return Leaf(args.name, args.where, phases, factor=lambda k: gamma ** (k // size), moves=moves, dead=gamma == 0)


def multi_step_lr(args: Args) -> Leaf:
    """``MultiStepLR``."""
    given, gamma = args.needed("milestones"), args.number("gamma", 0.1, low=0)
    if not isinstance(given, (list, tuple)):
        raise SolverError(args.path("milestones"), "must be a list", got=repr(given), do="write [30, 80]")
    points = sorted(whole_of(point, f"{args.path('milestones')}[{i}]") for i, point in enumerate(given))
    later = [point for point in points if point > 0]
    now, at_milestone = points.count(0), len(points) - len(later)  # torch counts negative ones too, at a milestone

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        return found_of(entry, rate, base).times(gamma ** (at_milestone if entry == "reset" else now))

    def phases(at: At) -> list[Phase]:
        if at.ticks.told and now != at_milestone:
            raise SolverError(args.path("milestones"), "must not be negative here", got=repr(given), do="correct them")
        if not later or gamma == 1:
            return [constant(at.rate)]
        if gamma == 0:
            return [constant(at.rate, at.begin + later[0]), constant(Rate())]
        counts = Counter(later)
        if len(set(counts.values())) == 1:
            parts = [(list(counts), short(gamma ** counts[later[0]]))]
        else:
            parts = [([p for p in counts if counts[p] > i], gamma) for i in range(max(counts.values()))]
        levels = [at.rate.level(), *[1.0] * (len(parts) - 1)]
        drops = [
            MultiStep(at=[at.ticks.text(at.begin + p) for p in where], gamma=factor, start=level)
            for (where, factor), level in zip(parts, levels)
        ]
        return [Phase(drops[0] if len(drops) == 1 else Product(drops), stairs=True)]

    def moves(ticks: Ticks) -> list[Phase]:
        return _blips({point: gamma ** points.count(point) for point in points if point >= 0})

    return Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: gamma ** bisect_right(later, k),
        dead=gamma == 0,
        opened=opened,
        moves=moves,
    )


def _blips(factors: Mapping[int, float]) -> list[Phase]:
    """A factor at single calls, 1 at all others."""
    phases: list[Phase] = []
    for point, factor in sorted(factors.items()):
        before = [constant(OWN, Fraction(point))] if point else []
        phases += [*before, constant(OWN.times(factor), Fraction(point + 1))]
    return [*phases, constant(OWN)]


def constant_lr(args: Args) -> Leaf:
    """``ConstantLR``."""
    factor, total = args.number("factor", 1 / 3, low=0), args.number("total_iters", 5, low=0)
    if not 0 < factor <= 1:
        what = "must lie between 0 and 1" if factor else "is 0, by which torch divides at the end"
        raise SolverError(args.path("factor"), what, got=repr(factor), do="correct it")
    ends = total == int(total) and total > 0

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        return base.times(factor if total > 0 else 1.0) if entry == "reset" else rate.times(factor)

    def phases(at: At) -> list[Phase]:
        if at.ticks.told:
            full = at.rate if ends else at.rate.times(1.0 / factor)
            return [constant(full.times(factor), at.begin + told_of(args, exact(total))), constant(full)]
        if not ends:
            what = "torch compares it with whole numbers > 0: the factor is never taken back"
            args.given.notes.say(args.path("total_iters"), what)
            return [constant(at.rate)]
        return [constant(at.rate.times(factor), at.begin + int(total)), constant(at.rate)]

    return Leaf(
        args.name,
        args.where,
        phases,
        factor=(lambda k: factor if k < total else 1.0) if ends else (lambda k: 1.0),
        opened=opened,
        moves=lambda ticks: [
            constant(OWN.times(factor), Fraction(1)),
            *_blips({int(total): 1 / factor} if ends else {}),
        ],
    )


def exponential_lr(args: Args) -> Leaf:
    """``ExponentialLR``."""
    gamma = args.number("gamma", low=0)

    def opened(entry: str, rate: Rate, base: Rate) -> Rate:
        return rate.times(gamma) if entry == "stepped" else found_of(entry, rate, base)

    def phases(at: At) -> list[Phase]:
        if gamma == 1:
            return [constant(at.rate)]
        if gamma == 0 and at.ticks.smooth:
            raise SolverError(args.path("gamma"), "is 0: no schedule says that", got="0", do="correct it")
        if gamma == 0:
            return [constant(at.rate, at.begin + 1), constant(Rate())]
        kind = Step if at.ticks.stairs else Exponential
        return [Phase(kind(every=at.ticks.text(1), gamma=gamma, start=at.rate.level()), stairs=True)]

    def moves(ticks: Ticks) -> list[Phase]:
        return [constant(OWN, Fraction(1)), constant(OWN.times(gamma))]

    return Leaf(args.name, args.where, phases, factor=lambda k: gamma**k, opened=opened, moves=moves, dead=gamma == 0)
