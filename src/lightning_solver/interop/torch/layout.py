"""Stretches between calls that switch schedulers, as phases."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Phases, absolute, simple, single
from lightning_solver.interop.torch.arguments import Leaf
from lightning_solver.interop.torch.counters import Single, Stretch, Switch, Together, merged_of, stretches_of
from lightning_solver.interop.torch.rates import OWN, At, Phase, Rate, Ticks, constant, cut, written_of
from lightning_solver.schedules import Chain, Constant, Over, Product, Staircase
from lightning_solver.schedules.base import Level


def course(node: Together | Switch, ticks: Ticks) -> tuple[list[Phase], list[Phase]]:
    """The phases of the rate and of the momentum; none where the momentum is left alone."""
    stretches, momentum = stretches_of(node, ticks)
    _check_limits(stretches, ticks)
    phases: list[Phase] = []
    before: Stretch | None = None
    for stretch in merged_of(stretches):
        begin, more = _phases(stretch, before, phases, ticks)
        phases = (
            [*cut(phases, begin, ticks), *cut(more, stretch.end, ticks)] if begin else cut(more, stretch.end, ticks)
        )
        before = stretch
    return phases, _momentum(stretches, momentum, ticks)


def _check_limits(stretches: Sequence[Stretch], ticks: Ticks) -> None:
    for stretch in stretches:
        end = min((end for end in (stretch.end, ticks.total) if end is not None), default=None)
        for one, k in stretch.who if end is not None else ():
            limit = one.leaf.limit
            assert end is not None
            if limit is not None and k + math.ceil(end - stretch.begin) - 1 > limit:
                got = f"{k + math.ceil(end - stretch.begin)} steps"
                do = "give it the length of the run, or train no longer"
                what = "torch raises when it is stepped past its end"
                raise SolverError(f"{one.leaf.where}.total_steps", what, got=got, do=do)


def _momentum(stretches: Sequence[Stretch], first: float | None, ticks: Ticks) -> list[Phase]:
    phases: list[Phase] = []
    before: Single | None = None
    since = Fraction(0)
    for stretch in stretches:
        writers = [(one, k) for one, k in stretch.who if one.leaf.momentum is not None]
        writer, k = writers[-1] if writers else (None, 0)
        if phases and writer is before:
            continue
        begin = stretch.begin
        if writer is not None:
            assert writer.leaf.momentum is not None
            more = writer.leaf.momentum(ticks, begin - k)
            if k:
                more = [_over(more, begin - k, ticks)]
            elif begin == 0 and first is not None and first != writer.leaf.first_momentum:
                more = [constant(Rate(fixed=first), Fraction(1)), _over(more, begin, ticks)]  # another was made later
            phases = [*cut(phases, begin, ticks), *more]
        elif first is not None:
            held = Phase(Constant(_left(phases, begin - 1)), stairs=True)
            if before is None or begin - 1 == since:
                held = constant(Rate(fixed=first if before is None else before.leaf.first_momentum))
            phases = [*(cut(cut(phases, begin, ticks), begin - 1, ticks) if begin else ()), held]
        before, since = writer, begin
    return phases


def _phases(
    stretch: Stretch, before: Stretch | None, earlier: Sequence[Phase], ticks: Ticks
) -> tuple[Fraction, list[Phase]]:
    """The phases of a stretch, and the call with which they begin (one early where they go on from the rate found)."""
    who, begin, stop = stretch.who, stretch.begin, stretch.end
    lead, k = who[0]
    if odd := [one for one, count in who if count < 0]:
        raise inexpressible(odd[0].leaf, "nested so deeply")
    if stretch.closed:
        return begin, _written_anew(stretch, ticks)
    if stretch.rate is None:
        resets = [i for i, (one, _) in enumerate(who) if stretch.calls.get(id(one)) == "reset"]
        fresh = [i for i in resets if not who[i][0].leaf.counts and who[i][0].leaf.multiplier is None]
        if not fresh:
            return _going_on(stretch, before, earlier, ticks)
        one = who[fresh[-1]][0]
        rate = one.leaf.opened("reset", one.base, one.base)
        for other, count in who[fresh[-1] + 1 :]:
            leaf = other.leaf
            if leaf.factor is None or leaf.floor or leaf.multiplier is not None or leaf.dead:
                raise inexpressible(leaf, "after a switch")
            left = leaf.factor(count - 1)
            rate = rate.times(leaf.factor(count) / left if left else 1.0)
        stretch.rate = rate
    if len(who) > 1:
        return begin, _all_together(stretch, ticks)
    if k:
        raise inexpressible(lead.leaf, "begun in the middle")
    assert lead.leaf.factor is not None
    rate = stretch.rate.times(1.0 / lead.leaf.factor(0))
    return begin, lead.leaf.phases(At(ticks, begin, rate, lead.base, stop))


def _written_anew(stretch: Stretch, ticks: Ticks) -> list[Phase]:
    """The phases of a scheduler that writes its rate whatever it finds, and of those that are stepped after it."""
    begin, ((lead, k), *later) = stretch.begin, stretch.who
    phases = lead.leaf.phases(At(ticks, begin - k, OWN, lead.base, stretch.end))
    if lead.leaf.counts:  # SWALR that has arrived
        phases = phases[-1:]
    elif k:
        if begin < k:
            raise inexpressible(lead.leaf, "begun in the middle")
        phases = [_over(_inner(phases, stretch, ticks), begin - k, ticks)]
    first = lead.base if lead.leaf.from_base else lead.leaf.first
    for one, _ in later:
        first = None if first is None else one.leaf.opened("made", first, one.base)
    if begin == 0 and stretch.rate not in (None, first):  # another constructor had the last word
        if later or stretch.rate is None:
            raise inexpressible(lead.leaf, "made before one that sets the rate")
        rest = phases if lead.leaf.counts else [_over(_inner(phases, stretch, ticks), begin, ticks)]
        phases = [constant(stretch.rate, Fraction(1)), *rest]
        if stretch.end == 2:  # what goes on from here takes the value after the jump
            phases = [Phase(single(written_of(phases, 0, ticks)), jumps=True, stairs=all(p.stairs for p in phases))]
    return [_times(phases, later, stretch, ticks)] if later else phases


def _going_on(
    stretch: Stretch, before: Stretch | None, earlier: Sequence[Phase], ticks: Ticks
) -> tuple[Fraction, list[Phase]]:
    """A scheduler that takes over from the rate that it finds: SWALR, and MultiplicativeLR at a milestone."""
    (one, k), *others = stretch.who
    leaf, begin = one.leaf, stretch.begin
    reset = stretch.calls.get(id(one)) == "reset"
    if others or before is None or k != (0 if reset else 1):
        raise inexpressible(leaf, "together with others")
    lone = begin - 1 == before.begin
    if lone and before.rate is None:
        raise inexpressible(leaf, f"right after {before.who[0][0].leaf.name}")
    found: Level = before.rate.level() if lone and before.rate is not None else _left(earlier, begin - 1)
    held = [Phase(Constant(found), begin, stairs=True)]
    phases = leaf.phases(At(ticks, begin if reset else begin - 1, OWN, one.base, stretch.end))
    if leaf.multiplier is None:
        first = dataclasses.replace(phases[0].schedule, start="previous" if reset else found)  # type: ignore[call-arg]
        phases[0] = dataclasses.replace(phases[0], schedule=first)
        return begin - 1, [*(held if reset else ()), *phases]
    if not reset:
        raise inexpressible(leaf, "taking over")
    start = leaf.opened("reset", OWN, OWN).own
    factor = dataclasses.replace(phases[0].schedule, start=start)  # type: ignore[call-arg]
    return begin - 1, [*held, Phase(Product((HOLD, factor)), stairs=True)]


def _left(phases: Sequence[Phase], begin: Fraction) -> Level:
    """The value that phases have at a call: what they left, or what the one has that just then begins."""
    for phase, following in itertools.pairwise(phases):
        if phase.end == begin and isinstance(following.schedule, Constant):
            return following.schedule.value
    return "previous"


def _over(phases: Sequence[Phase], begin: Fraction, ticks: Ticks) -> Phase:
    """Phases that began earlier than the stretch that they are used in."""
    of = simple(written_of(phases, begin, ticks))
    jumps, stairs = any(phase.jumps for phase in phases), all(phase.stairs for phase in phases)
    return Phase(Over(of, begin=ticks.text(begin)), jumps=jumps, stairs=stairs)


def _times(first: list[Phase], later: Sequence[tuple[Single, int]], stretch: Stretch, ticks: Ticks) -> Phase:
    """A rate that is written anew at every call, times what the schedulers after it do in one call."""
    factors: list[Phases] = [simple(written_of(_inner(first, stretch, ticks), stretch.begin, ticks))]
    for one, _ in later:
        odd = stretch.calls.get(id(one)) not in ("made", "initial")
        if one.leaf.moves is None or stretch.begin or odd:
            what = f"after {stretch.who[0][0].leaf.name}, which writes the rate anew at every call of step()"
            raise inexpressible(one.leaf, what)
        factors.append(simple(written_of(_inner(one.leaf.moves(ticks), stretch, ticks), 0, ticks)))
    return Phase(Product(factors), jumps=True, stairs=all(phase.stairs for phase in first))


def _all_together(stretch: Stretch, ticks: Ticks) -> list[Phase]:
    """Several recursive schedulers: a product of their factors, or a chain where one has a floor above 0."""
    begin, found = stretch.begin, stretch.rate
    assert found is not None
    who, factors = [], []
    for one, k in stretch.who:
        leaf = one.leaf
        if leaf.factor is None or (leaf.multiplier is not None and k) or (leaf.dead and begin):
            raise inexpressible(leaf, "together with others that switch")
        factor = leaf.factor(k)
        if factor == 0 and leaf.turns is not None:
            raise inexpressible(leaf, "together with others that switch")
        if factor or len(stretch.who) == 1:  # LinearLR and PolynomialLR at 0 move nothing any more
            who.append((one, k))
            factors.append(factor)
    if not who or found == Rate():
        for one, _ in stretch.who:
            if one.leaf.floor or one.leaf.turns is not None:
                raise inexpressible(one.leaf, "from a rate of 0, together with others")
        return [constant(found)]
    stretch = dataclasses.replace(stretch, who=who)
    rate = found.times(1.0 / math.prod(factors))
    if _needs_chain(stretch, rate, ticks):
        if begin or any(k for _, k in who) or rate != OWN:
            floored = next((one for one, _ in who if one.leaf.floor), who[0][0])
            raise inexpressible(floored.leaf, "together with others that switch")
        if dead := [one for one, _ in who if one.leaf.dead]:
            raise inexpressible(dead[0].leaf, "with gamma 0, beside one that rises again")
        links: list[Phases] = []
        jumps = False
        for one, _ in who:
            phases = one.leaf.phases(At(ticks, begin, OWN, OWN, stretch.end))
            jumps = jumps or _jumps(phases, stretch)
            link = simple(written_of(_inner(phases, stretch, ticks), begin, ticks))
            stairs = all(phase.stairs for phase in phases) or not ticks.stairs
            links.append(link if stairs else Staircase(link, every=ticks.text(1)))
        floors = [absolute(one.leaf.floor) for one, _ in who]
        return [Phase(Chain(links, floors=floors if any(floors) else ()), jumps=jumps, stairs=True)]
    parts: list[Phases] = []
    stairs, jumps = True, False
    for i, (one, k) in enumerate(who):
        own = rate if i == 0 else OWN
        if begin < k:
            raise inexpressible(one.leaf, "begun in the middle")
        phases = one.leaf.phases(At(ticks, begin - k, own, own, stretch.end))
        if len(who) == 1 and k == 0:
            return phases
        stairs = stairs and all(phase.stairs for phase in phases)
        jumps = jumps or _jumps(phases, stretch)
        phases = _inner(phases, stretch, ticks)
        parts.append(_over(phases, begin - k, ticks).schedule if k else simple(written_of(phases, begin, ticks)))
    whole = Product(parts) if len(parts) > 1 else single(parts[0])
    return [Phase(whole, jumps=jumps, stairs=stairs)]


def _inner(phases: Sequence[Phase], stretch: Stretch, ticks: Ticks) -> list[Phase]:
    """Phases that stand inside one that ends with a stretch: none is left that takes its form from its end."""
    inner = cut(phases, stretch.end, ticks)
    if inner[-1].form is not None or not inner[-1].shaped:
        inner[-1] = dataclasses.replace(inner[-1], end=None)
    return inner


def _jumps(phases: Sequence[Phase], stretch: Stretch) -> bool:
    last = None if stretch.end is None else stretch.end - 1
    return last is not None and any(phase.jumps or phase.end == last for phase in phases)


def _needs_chain(stretch: Stretch, rate: Rate, ticks: Ticks) -> bool:
    """Whether a schedule decays to more than 0, or leaves its 0 again so that what the others did is forgotten."""
    for one, k in stretch.who:
        leaf = one.leaf
        if leaf.floor:
            return True
        if leaf.turns is None or leaf.turns.denominator != 1:
            continue
        turn = stretch.begin + leaf.turns - k
        ends = [end for end in (ticks.total, stretch.end) if end is not None]
        others = [(other, count) for other, count in stretch.who if other is not one]
        if ends and min(ends) <= turn + 1:
            continue
        if rate != OWN:
            return True
        for other, count in others:
            factor = other.leaf.factor
            assert factor is not None
            if factor(count + int(turn - stretch.begin)) != 1 or not settled(other.leaf, count + int(turn)):
                return True
    return False


def settled(leaf: Leaf, k: int) -> bool:
    """Whether a scheduler no longer moves the rate."""
    return leaf.name in ("LinearLR", "ConstantLR") and leaf.factor is not None and leaf.factor(k) == leaf.factor(10**9)


def inexpressible(leaf: Leaf, how: str) -> SolverError:
    """The error for what no schedule says."""
    what = f"{leaf.name} {how}: no schedule says what torch does there"
    return SolverError(leaf.where, what, got=leaf.name, do="leave it out, or write the schedule as it is meant")
