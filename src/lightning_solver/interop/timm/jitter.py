"""The noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Phases
from lightning_solver.interop.timm.clock import Clock
from lightning_solver.interop.timm.source import Source, numbers
from lightning_solver.schedules import Constant, Noise


@dataclass(frozen=True)
class Jitter:
    """The noise: from where, and perhaps up to where, as pairs of units and the first ``t`` there, if known."""

    begin: tuple[Fraction, int | None]
    end: tuple[Fraction, int | None] | None
    noise: Noise

    def phases(self, clock: Clock) -> Phases:
        """The factor by which the noise moves the schedule, as phases."""
        units, ticks = self.begin
        early = units <= 0 if ticks is None else ticks < 1  # none is drawn before the first call
        phases = (Constant(until=clock.tick if early else clock.at(units, ticks)),)
        if self.end is None or not clock.after(self.end[0]):
            return (*phases, self.noise)
        return (*phases, self.noise.ending(clock.at(*self.end)), Constant())


def read_jitter(source: Source, shares_of: float | None = None) -> Jitter | None:
    """The noise; its range is given in shares of ``shares_of`` by the factory, and there in a list of one as well."""
    given, path = source.settings.take(source.name("noise_range_t")), source.path("noise_range_t")
    if given is None:
        return None
    if isinstance(given, (list, tuple)):
        bounds = numbers(given, path, 2 if shares_of is None else 1)[:2]
    else:
        bounds = [source.settings.number(source.name("noise_range_t"))]
    uniform = "noise_type" in source.defaults and source.take("noise_type") != "normal"
    limit, std, seed = source.number("noise_pct"), source.number("noise_std", low=0), source.number("noise_seed", low=0)
    if not 0 < limit <= 1:
        what = "above 1 makes rates negative" if limit > 1 else "lets timm draw for ever"
        raise SolverError(source.path("noise_pct"), what, got=repr(limit), do="give a limit > 0 and at most 1")
    if seed != int(seed):
        raise SolverError(source.path("noise_seed"), "must be a whole number", got=repr(seed), do="correct it")
    if std == 0 and not uniform:
        source.say("noise_std", "is 0, so that there is no noise")
        return None
    points: list[tuple[Fraction, int | None]] = []
    for bound in bounds:
        whole = 1 if shares_of is None else shares_of
        ticks = source.ticks(whole)
        points.append((exact(bound) * source.units(whole), None if ticks is None else math.ceil(bound * ticks)))
    if len(points) > 1 and points[1][0] <= max(points[0][0], Fraction(0)):
        return None
    law: Any = {"distribution": "uniform"} if uniform else {"std": float(std)}
    noise = Noise(limit=float(limit), seed=int(seed), every=source.clock.tick, **law)
    return Jitter(points[0], points[1] if len(points) > 1 else None, noise)
