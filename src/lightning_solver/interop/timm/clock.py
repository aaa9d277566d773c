"""What the numbers of a schedule count: epochs or updates."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lightning_solver.durations import exact
from lightning_solver.interop.base import length


@dataclass(frozen=True)
class Clock:
    """What the numbers of a schedule count.

    Args:
        unit: ``ep`` or ``st``.
        stairs: Whether ``t`` counts epochs; updates otherwise.
        ticks: How many ``t`` make a unit; ``None`` if that is not known.
        run: Length of the run in units, where it is known.
    """

    unit: Literal["ep", "st"]
    stairs: bool
    ticks: int | None = 1
    run: Fraction | None = None

    @property
    def one(self) -> str:
        """The unit of ``t``."""
        return "ep" if self.stairs else "st"

    @property
    def tick(self) -> int | str:
        """One ``t``."""
        return length(1, self.one)

    def text(self, units: Fraction, ticks: int = 0) -> int | str:
        """So many units and so many ``t``, as a duration."""
        if self.one == self.unit:
            return length(units + ticks, self.unit)
        if units and ticks:
            return f"{length(units, 'ep')}{ticks:+}st"
        return length(units, "ep") if units else length(ticks)

    def at(self, units: Fraction, ticks: float | None) -> int | str:
        """``units`` as a duration, where timm calculates with ``ticks`` for it, which rounding may have changed."""
        if ticks is None or self.ticks is None or units * self.ticks == exact(ticks):
            return length(units, self.unit)
        return length(ticks, self.one)

    def after(self, units: Fraction) -> bool:
        """Whether the run goes on after ``units``, as far as is known."""
        return self.run is None or self.run > units


def each(clock: Clock) -> str:
    """What ``t`` counts, as a word."""
    return "epoch" if clock.stairs else "update"
