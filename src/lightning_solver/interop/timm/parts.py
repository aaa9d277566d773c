"""How a schedule is put together from its curve, its warm-up and its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_solver.interop.base import Phases, simple
from lightning_solver.interop.timm.clock import Clock
from lightning_solver.interop.timm.jitter import Jitter
from lightning_solver.interop.timm.ramp import Ramp
from lightning_solver.schedules import Constant, MultiStep, Product, Schedule, Staircase, Warmup
from lightning_solver.schedules.base import Level


@dataclass(frozen=True)
class Parts:
    """What a schedule is put together from.

    Args:
        body: The curve: its phases, from where it begins.
        meets: How the warm-up and a curve that does not wait for its end meet.
        aim: What the warm-up aims at.
        first: Whether the first ``t`` has the base rate, which timm's constructors write, whatever the curve says.
        even: Whether the curve changes only where epochs begin, so that it needs no staircase.
    """

    body: Sequence[Schedule]
    meets: Literal["beneath", "interpolate"] = "beneath"
    aim: Level = 1.0
    first: bool = False
    even: bool = False

    def joined(self, clock: Clock, ramp: Ramp, jitter: Jitter | None) -> Phases:
        """The schedule."""
        phases, even = tuple(self.body), self.even
        if ramp.length:
            line, even = ramp.line(clock, self.aim), False
            alone = len(phases) == 1 and isinstance(phases[0], (Constant, MultiStep))  # wherever it begins
            if ramp.prefix or (alone and self.meets == "beneath"):
                phases = (line, *phases)
            else:
                phases = (Warmup(ramp=line, of=simple(phases), meets=self.meets),)
        elif self.first:
            phases, even = (Warmup(ramp=Constant(until=clock.tick), of=simple(phases), meets="beneath"),), False
        if jitter is not None:
            phases = (Product((simple(phases), jitter.phases(clock))),)
        return simple(phases) if even or not clock.stairs else Staircase(simple(phases))
