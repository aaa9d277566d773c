"""Warm-up, stable phase and decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import HOLD, Facts, length, simple
from lightning_solver.interop.timm.clock import Clock
from lightning_solver.interop.timm.levels import scaled
from lightning_solver.interop.timm.parts import Parts
from lightning_solver.interop.timm.ramp import Ramp
from lightning_solver.interop.timm.source import Source
from lightning_solver.schedules import (
    Clip,
    Constant,
    Cosine,
    Exponential,
    Inverse,
    Linear,
    Polynomial,
    Product,
    Schedule,
    Sum,
)
from lightning_solver.schedules.base import Level

_SHAPES = ("linear", "1-sqrt", "cosine", "power", "exp")


@dataclass(frozen=True)
class _Stable:
    """A stable phase and a decay, after a warm-up.

    Args:
        t: Length of both in units.
        decay: Length of the decay in units; ``None`` where it is no part of them.
        floor: ``lr_min``.
        shape: Of the decay.
        ticks: Length of the decay in ``t``, where that is needed.
        power: Exponent of the stable phase; 0 if it is constant.
        timescale: Of the stable phase, in units.
        time_power: Of a decay by a power.
        ratio: Of an exponential decay.
    """

    t: Fraction
    decay: Fraction | None
    floor: float
    shape: str
    ticks: int = 0
    power: float = 0.0
    timescale: Fraction = Fraction(1)
    time_power: float = 0.5
    ratio: float = 0.1

    def fall(self, start: Level, end: Level, until: int | str | None) -> Schedule:
        """The decay from one level to another."""
        if self.shape == "exp":
            return self.exponential(start, end, until)
        if self.shape == "cosine":
            return Cosine(start=start, end=end, until=until)
        time_power = {"linear": 1.0, "1-sqrt": 0.5}.get(self.shape, self.time_power)
        if time_power == 1:
            return Linear(start=start, end=end, until=until)
        return Polynomial(start=start, end=end, time_power=time_power, until=until)

    def exponential(self, start: Level, end: Level, until: int | str | None) -> Schedule:
        """``end + (start - end) * (ratio ** x - ratio) / (1 - ratio)``, as an exponential and a constant."""
        moving: dict[str, float] = {}
        still: dict[str, float] = {}
        for kind in ("base", "scaled"):
            first, last = _part(start, kind), _part(end, kind)
            if first != last:
                moving[kind] = (first - last) / (1.0 - self.ratio)
            if last != first * self.ratio:
                still[kind] = (last - first * self.ratio) / (1.0 - self.ratio)
        return Sum((Exponential(gamma=self.ratio, start=moving), Constant(still)), until=until)

    def phases(self, clock: Clock, begin: Fraction) -> list[Schedule]:
        """What follows the warm-up: ``stable * decay + lr_min * (1 - decay)``."""
        end = begin + self.t
        turn = clock.text(end, -self.ticks) if self.decay is None else clock.text(end - self.decay)
        until = None if clock.run == end else clock.text(end)
        more, steady = clock.after(end) and until is not None, self.decay is None or self.decay < self.t
        floor = scaled(self.floor)

        def decaying(start: Level, last: Level) -> list[Schedule]:
            still = [Constant(start, until=turn)] if steady else []
            held = Constant(last) if self.shape == "exp" else HOLD  # rounding leaves a little of the exponential
            return [*still, self.fall(start, last, until), *([held] if more else [])]

        if not self.power:
            return decaying(1.0, floor)
        slower = Inverse(every=length(self.timescale, clock.unit), power=self.power)
        main = Product((simple(decaying(1.0, 0.0)), slower))
        return [Sum((main, simple(decaying(0.0, floor))))] if self.floor else [main]


def _part(level: Level, kind: str) -> float:
    """What a level says of ``base`` or ``scaled``."""
    named = level if isinstance(level, dict) else {"base": level}
    return float(named.get(kind, 0.0))


def stable_parts(stable: _Stable, source: Source, ramp: Ramp, bases: Sequence[float] | None) -> Parts:
    """The phases, held at ``lr_min`` where a group may lie below it."""
    phases, floor = stable.phases(source.clock, ramp.offset), stable.floor
    least = float(1 + stable.t / stable.timescale) ** -stable.power
    if floor and bases is None and not stable.power:
        what = "timm holds groups whose own rate is lower at this one; give facts={'base_lr': [...]} if there are any"
        source.say("lr_min", what)
    elif floor and (bases is None or min(bases) * least < floor):
        first = not ramp.length and bases is not None and min(bases) < floor
        return Parts([Clip(simple(phases), min=scaled(floor))], first=first)
    return Parts(phases)


def class_stable(source: Source) -> _Stable:
    """``WSDLRScheduler`` by its own arguments."""
    settings = source.settings
    t, decay = source.positive("t_initial"), source.number("decay_t")
    _fits(decay, t, source.path("decay_t"))
    stable_fn = settings.choice("stable_fn", ("constant", "rsqrt", "power"), "constant")
    shape = settings.choice("decay_fn", _SHAPES, "1-sqrt")
    stable = _Stable(
        exact(t),
        exact(decay),
        source.number("lr_min", low=0),
        shape,
        time_power=float(source.positive("decay_power")),
        ratio=float(source.positive("decay_ratio", below=1)),
    )
    power = {"constant": 0.0, "rsqrt": 0.5, "power": float(source.positive("stable_power"))}[stable_fn]
    return replace(stable, power=power, timescale=_timescale(source)) if power else stable


def factory_stable(source: Source, sched: str, prefix: bool, facts: Facts) -> _Stable:
    """``wsd`` and ``rsqrt``, whose decay is rounded to whole ``t``."""
    default = "linear" if sched == "rsqrt" else "1-sqrt"
    shape = source.take("decay_fn") or default
    if shape not in _SHAPES:
        raise SolverError(
            source.path("decay_fn"), "unknown value", got=repr(shape), do=suggestion(shape, _SHAPES, "values")
        )
    decay, path, per = source.number("decay_t"), source.path("decay_t"), source.ticks(1)
    t = source.number("t_initial") - (0 if prefix else source.number("warmup_t"))
    part = exact(decay) * exact(t) if 0 < decay < 1 else exact(decay)
    ticks = None if per is None else round(decay * (t * per) if 0 < decay < 1 else decay * per)
    if per is None and (part.denominator != 1):
        facts.need("iters_per_epoch", path, "the decay is rounded to updates, for which an epoch's length is needed")
    _fits(float(part) if ticks is None else ticks, t if per is None else t * per, path)
    units = None if ticks is not None and part * exact(per or 1) != ticks else part * source.scale
    stable = _Stable(source.units(t), units, source.number("lr_min", low=0), shape, ticks or 0)
    return replace(stable, power=0.5, timescale=_timescale(source)) if sched == "rsqrt" else stable


def _timescale(source: Source) -> Fraction:
    given = source.settings.number(source.name("stable_timescale"))
    given = source.number("warmup_t") if given is None else given
    if given <= 0:
        do = f"give {source.name('warmup_t')}, whose length it is by default, or {source.name('stable_timescale')}"
        raise SolverError(source.path("stable_timescale"), "must be > 0", got=repr(given), do=do)
    return source.units(given)


def _fits(decay: float, total: float, path: str) -> None:
    if not 0 < decay <= total:
        what = "the decay must be longer than nothing and fit into the time after the warm-up"
        raise SolverError(path, what, got=f"{decay:g} of {total:g}", do="correct the lengths")
