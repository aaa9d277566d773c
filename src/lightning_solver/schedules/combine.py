"""How schedules act together: multiplied, added, limited, a warm-up with its curve, and a schedule for every group."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import Curve, Level, Schedule, Window, level_fields
from lightning_solver.schedules.curves import Added, Clipped, Fixed, Joined, Multiplied, Split
from lightning_solver.schedules.join import Phases, contains, lay, lay_phases, numbered
from lightning_solver.schedules.plateau import Plateau
from lightning_solver.schedules.shapes import Constant, Exponential


@dataclass(frozen=True)
class Product(Schedule):
    """Schedules multiplied onto each other: the first gives the value, every other one a factor.

    Args:
        factors: A schedule or a list of phases each. ``start`` and ``end`` of all but the first are plain factors.
        until: Where the product ends as a phase.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> from lightning_solver.schedules import Constant, Linear
        >>> warmup = [Linear(start=0.5, until=2), Constant()]
        >>> spec = SolverSpec(schedules={"lr": Product([Linear(end=0.0), warmup])})
        >>> spec.curve("lr", [1.0], total_steps=4)[:, 0].tolist()
        [0.5, 0.5625, 0.5, 0.25]
    """

    factors: Sequence[Schedule | Sequence[Schedule]]
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if len(self.factors) < 2:
            raise self._error("factors", "needs at least two", got=len(self.factors), do="give the schedule by itself")

    def lay(self, window: Window) -> Curve:
        wheres = [f"{window.where}.factors[{i}]" for i in range(len(self.factors))]
        first = lay(self.factors[0], window.inside(where=wheres[0]))
        return Multiplied(first, tuple(map(_factor, self.factors[1:], wheres[1:], [window] * len(wheres))))


@dataclass(frozen=True)
class Sum(Schedule):
    """Schedules added up.

    Args:
        terms: A schedule or a list of phases each; every one gives a value of its own, which may be negative
            (``{base: -0.5}``) as long as the sum is not.
        until: Where the sum ends as a phase.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> from lightning_solver.schedules import Constant, Linear
        >>> spec = SolverSpec(schedules={"lr": Sum([Constant({"absolute": 1.0}), Linear(end=0.0)])})
        >>> spec.curve("lr", [2.0], total_steps=4)[:, 0].tolist()
        [3.0, 2.5, 2.0, 1.5]
    """

    terms: Sequence[Schedule | Sequence[Schedule]]
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if len(self.terms) < 2:
            raise self._error("terms", "needs at least two", got=len(self.terms), do="give the schedule by itself")

    def lay(self, window: Window) -> Curve:
        inner = window.inside(before=None, after=None, signed=True)
        wheres = [f"{window.where}.terms[{i}]" for i in range(len(self.terms))]
        return Added(tuple(lay(term, inner.inside(where=where)) for term, where in zip(self.terms, wheres)))


@dataclass(frozen=True)
class Warmup(Schedule):
    """A warm-up and the curve that it leads to, with the way in which the two meet.

    ``delay``: the curve begins where the warm-up ends, as in a list of phases. ``multiply``: the curve runs from the
    start and the warm-up is a factor onto it (MMCV, Pet, early detectron2). ``interpolate``: the curve runs from the
    start, unseen, and the warm-up aims at the value that it has reached where they meet (detectron2 since fvcore).
    ``beneath``: the curve runs from the start, unseen, and the warm-up aims at its own ``end``, so that there may be
    a jump (timm).

    Args:
        ramp: The warm-up; its ``until`` says where it ends.
        of: The curve: a schedule, or a list of phases.
        meets: How they meet.
        until: Where the whole ends as a phase.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> from lightning_solver.schedules import Linear
        >>> for meets in ("delay", "multiply", "interpolate", "beneath"):
        ...     schedule = Warmup(ramp=Linear(start=0.0, until=2), of=Linear(end=0.0), meets=meets)
        ...     print(SolverSpec(schedules={"lr": schedule}).curve("lr", [1.0], total_steps=4)[:, 0].tolist())
        [0.0, 0.5, 1.0, 0.5]
        [0.0, 0.375, 0.5, 0.25]
        [0.0, 0.25, 0.5, 0.25]
        [0.0, 0.5, 0.5, 0.25]
    """

    ramp: Schedule
    of: Schedule | Sequence[Schedule]
    meets: Literal["delay", "multiply", "interpolate", "beneath"]
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if self.ramp.until is None:
            raise self._error("ramp.until", "says nowhere that the warm-up ends", do="give a point such as 5ep or 500")
        if self.meets == "interpolate" and not isinstance(self.ramp, Constant) and not hasattr(self.ramp, "end"):
            do = "use a warm-up that has an end (Linear, Cosine, ...), or meets: beneath"
            raise self._error("ramp", "has no end that could be the curve's value", got=type(self.ramp).__name__, do=do)
        if self.meets == "interpolate" and contains(self.of, Plateau):
            do = "use meets: multiply, or put the Plateau beside the Warmup in a Product"
            raise self._error("of", "holds a Plateau, whose value where they meet nobody knows beforehand", do=do)

    def lay(self, window: Window) -> Curve:
        inner, ramp_at = window.inside(where=f"{window.where}.of"), f"{window.where}.ramp"
        assert self.ramp.until is not None
        begin, end = window.begin, window.inside(where=ramp_at).point(self.ramp.until, "until")
        if window.end is not None and end > window.end and window.beyond == "error":
            got, do = f"{self.ramp.until!r}, which is step {float(end):g}", "shorten it"
            what = f"reaches beyond its phase, which ends at step {float(window.end):g}"
            raise SolverError(f"{ramp_at}.until", what, got=got, do=do)
        if end > begin and self.meets == "multiply":
            return Multiplied(lay(self.of, inner), (_factor((self.ramp, Constant()), ramp_at, window, named=True),))
        if end <= begin:
            window.notes.append(f"{window.where}.ramp.until ({self.ramp.until}): the warm-up is empty and is left out")
            return lay(self.of, inner)
        if self.meets == "delay":
            of = (self.of,) if isinstance(self.of, Schedule) else self.of
            return lay_phases((self.ramp, *of), window, (ramp_at, *numbered(inner.where, len(of))))
        curve = lay(self.of, inner)
        starts = tuple(math.ceil(point * window.denominator) for point in (begin, end))
        ramp = self._ramp(curve, end, window)
        if not any(ramp.at(starts[1])) and any(curve.at(starts[1])):
            window.notes.append(f"{window.where}.ramp: warms up to 0, as {type(self.ramp).__name__}.end says")
        return Joined(starts, (ramp, curve))

    def _ramp(self, curve: Curve, end: Fraction, window: Window) -> Curve:
        def reached() -> tuple[float, ...]:
            exactly = end * window.denominator
            if exactly.denominator == 1:
                return tuple(curve.at(int(exactly)))
            finer = window.inside(
                where=f"{window.where}.of", denominator=end.denominator * window.denominator, notes=[]
            )
            return tuple(lay(self.of, finer).at(int(end * finer.denominator)))

        ramp = self.ramp
        if self.meets == "interpolate" and not isinstance(ramp, Constant):
            changes: dict[str, Any] = {"end": "next"}
            if isinstance(ramp, Exponential):
                changes |= {"gamma": None, "every": None}
            ramp = dataclasses.replace(ramp, **changes)
        return ramp.lay(window.inside(end=end, after=reached, where=f"{window.where}.ramp"))


@dataclass(frozen=True)
class Clip(Schedule):
    """A schedule held between two values.

    Args:
        of: The schedule, or a list of phases.
        min: The lowest value.
        max: The highest value.
        until: Where it ends as a phase.
    """

    of: Schedule | Sequence[Schedule]
    min: Level | None = None
    max: Level | None = None
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if self.min is None and self.max is None:
            raise self._error("min", "needs one of min and max", do="give a value")

    def lay(self, window: Window) -> Curve:
        low = (-math.inf,) * len(window.bases) if self.min is None else window.levels(self.min, "min")
        high = (math.inf,) * len(window.bases) if self.max is None else window.levels(self.max, "max")
        if any(a > b for a, b in zip(low, high)):
            got = f"{self.min!r} and {self.max!r}"
            raise SolverError(f"{window.where}.min", "lies above max", got=got, do="swap them")
        return Clipped(lay(self.of, window.inside(where=f"{window.where}.of")), low, high)


@dataclass(frozen=True)
class KeepZero(Schedule):
    """A schedule for all groups but those whose base value is 0, which stay at 0.

    For a weight decay that is scheduled by absolute values, while norms and biases have none.

    Args:
        of: The schedule, or a list of phases.
        until: Where it ends as a phase.
    """

    of: Schedule | Sequence[Schedule]
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        chosen = [self.of if base else None for base in window.bases]
        return lay_by_group(chosen, window, [f"{window.where}.of"] * len(chosen))


@dataclass(frozen=True)
class PerGroup(Schedule):
    """A schedule of its own for every group, in the order of the groups.

    For recipes of peers that give lists of arguments, one for each group. A spec says it better with ``schedules`` of
    a rule.

    Args:
        of: One schedule, or list of phases, for each group.
        until: Where it ends as a phase.
    """

    of: Sequence[Schedule | Sequence[Schedule]]
    until: int | str | None = None

    def lay(self, window: Window) -> Curve:
        if len(self.of) != len(window.bases):
            got = f"{len(self.of)} schedules for {len(window.bases)} groups"
            do = "give one for each group in order, or use schedules of a rule"
            raise SolverError(f"{window.where}.of", "does not fit the number of groups", got=got, do=do)
        return lay_by_group(self.of, window, [f"{window.where}.of[{i}]" for i in range(len(self.of))])


def lay_by_group(schedules: Sequence[Phases | None], window: Window, wheres: Sequence[str]) -> Curve:
    """The curve of groups that each have a schedule of their own; ``None`` holds the group's base value.

    Groups with equal schedules are laid together. ``wheres`` gives the path of each group's schedule.
    """
    members: dict[Any, list[int]] = {}
    for i, schedule in enumerate(schedules):
        members.setdefault(schedule, []).append(i)
    if not members:
        return Fixed(())
    curves = []
    for schedule, groups in members.items():
        part = window.only(groups).inside(where=wheres[groups[0]])
        curves.append(Fixed(part.bases) if schedule is None else lay(schedule, part))
    if len(curves) == 1:
        return curves[0]
    return Split(tuple(map(tuple, members.values())), tuple(curves))


def _factor(schedule: Phases, where: str, window: Window, *, named: bool = False) -> Curve:
    """A schedule laid as a factor, the same for every group; ``named`` if ``where`` is the path of each phase."""
    _refuse_levels(schedule, where)
    alone = window.inside(where=where, bases=(1.0,), own=None, before=None, after=None, scales=None)
    if named and not isinstance(schedule, Schedule):
        return lay_phases(schedule, alone.inside(whole=False), [where] * len(schedule))
    return lay(schedule, alone)


def _refuse_levels(schedule: Any, where: str) -> None:
    """All but the first of a product are factors: they cannot reach an absolute value."""
    if isinstance(schedule, PerGroup):
        do = "put PerGroup outside, with a product for each group"
        raise SolverError(where, "a factor is the same for every group", got="PerGroup", do=do)
    if isinstance(schedule, Schedule):
        for name in level_fields(type(schedule)):
            level = getattr(schedule, name)
            if isinstance(level, dict):
                do = "only the first schedule of a product has values; give the others plain factors"
                raise SolverError(f"{where}.{name}", "must be a plain factor", got=repr(level), do=do)
        floors = getattr(schedule, "floors", ())
        for i, level in enumerate(floors):
            if isinstance(level, dict):
                do = "only the first schedule of a product has values; give the others plain factors"
                raise SolverError(f"{where}.floors[{i}]", "must be a plain factor", got=repr(level), do=do)
        for name in ("phases", "factors", "terms", "of", "ramp"):
            _refuse_levels(getattr(schedule, name, None), f"{where}.{name}")
    elif isinstance(schedule, Sequence) and not isinstance(schedule, str):
        for i, inner in enumerate(schedule):
            _refuse_levels(inner, f"{where}[{i}]")
