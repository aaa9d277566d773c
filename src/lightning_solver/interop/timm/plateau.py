"""The schedule that follows a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from lightning_solver.interop.base import Facts, Phases, absolute, simple
from lightning_solver.interop.timm.jitter import Jitter
from lightning_solver.interop.timm.levels import between
from lightning_solver.interop.timm.ramp import Ramp
from lightning_solver.interop.timm.source import Source
from lightning_solver.schedules import Plateau, Product, Schedule, Staircase


def plateau_phases(source: Source, monitor: str, ramp: Ramp, jitter: Jitter | None) -> Phases:
    """The plateau of torch, which comes after the warm-up, and whose floor knows nothing of ``lr_scale``."""
    mode: Any = source.settings.choice(source.name("mode"), ("min", "max"), source.defaults["mode"])
    plateau = Plateau(
        monitor,
        mode=mode,
        factor=float(source.positive("decay_rate", below=1)),
        patience=math.floor(source.number("patience_t", low=0)),
        threshold=float(source.number("threshold", low=0)),
        cooldown=math.ceil(source.number("cooldown_t", low=0)),
        min=absolute(source.number("lr_min", low=0)),
    )
    source.say("mode", f"the plateau follows {monitor}: log it under this name once per epoch, or change monitor")
    clock = source.clock
    phases: tuple[Schedule, ...] = (plateau,)
    if ramp.length:
        line = Staircase(ramp.line(clock).ending(None), until=clock.text(ramp.length))
        passed = float(math.floor(ramp.length) / ramp.length)  # where the warm-up stops
        plateau = plateau if passed == 1 else replace(plateau, start=between(1.0, ramp.start, passed))
        phases = (line, plateau)
    if jitter is None:
        return simple(phases)
    begin = max(jitter.begin[1] or 0, math.floor(ramp.length) + 1)  # none is drawn during the warm-up
    if jitter.end is not None and (jitter.end[1] or 0) <= begin:
        return simple(phases)
    return Product((simple(phases), replace(jitter, begin=(Fraction(begin), begin)).phases(clock)))


def monitor_of(facts: Facts) -> str:
    """The one metric that the facts name, or the one that timm's script follows."""
    metrics = facts.get("metrics")
    return str(next(iter(metrics))) if isinstance(metrics, Mapping) and len(metrics) == 1 else "top1"
