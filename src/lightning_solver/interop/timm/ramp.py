"""The warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.interop.timm.clock import Clock
from lightning_solver.interop.timm.levels import scaled
from lightning_solver.interop.timm.source import Source
from lightning_solver.schedules import Linear
from lightning_solver.schedules.base import Level


@dataclass(frozen=True)
class Ramp:
    """The warm-up: its length in units, the value it starts at, and whether the curve waits for its end."""

    length: Fraction = Fraction(0)
    start: float = 0.0
    prefix: bool = False

    @property
    def offset(self) -> Fraction:
        """Where the curve begins."""
        return self.length if self.prefix else Fraction(0)

    def line(self, clock: Clock, end: Level = 1.0) -> Linear:
        """The warm-up as a schedule."""
        return Linear(start=scaled(self.start), end=end, until=clock.text(self.length))


def read_ramp(source: Source, prefix: bool | None = None) -> Ramp:
    """The warm-up; whether the curve waits for its end is ``prefix``, or else what the arguments say."""
    if prefix is None:
        prefix = source.settings.flag(source.name("warmup_prefix"), source.defaults["warmup_prefix"])
    return Ramp(source.units(source.number("warmup_t", low=0)), source.number("warmup_lr_init", low=0), prefix)
