"""Rates, calls of ``step()`` and phases, as torch counts them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.interop.base import length
from lightning_solver.schedules import Constant, Over, Schedule
from lightning_solver.schedules.base import Level

Number = int | Fraction


@dataclass(frozen=True)
class Rate:
    """A rate as far as it is known: a factor of the group's own, plus a value that is the same for every group."""

    own: float = 0.0
    fixed: float = 0.0

    def times(self, factor: float) -> Rate:
        """The rate multiplied."""
        return Rate(short(self.own * factor), short(self.fixed * factor))

    def toward(self, end: float, left: float) -> Rate:
        """``end`` plus the share ``left`` of the distance to it."""
        return Rate(short(self.own * left), short(self.fixed * left + end * (1.0 - left)))

    def level(self) -> Level:
        """The rate as schedules write it."""
        if self.fixed == 0:
            return self.own
        return {"absolute": self.fixed} if self.own == 0 else {"base": self.own, "absolute": self.fixed}


OWN = Rate(own=1.0)


def short(number: float) -> float:
    """A float without the noise that a few operations leave in its last bits."""
    plain = float(f"{number:.13g}")
    return plain if math.isclose(plain, number, rel_tol=1e-15) else number


@dataclass(frozen=True)
class Ticks:
    """The calls of ``step()``, by which torch counts: one every ``every`` steps or epochs.

    Args:
        every: Steps or epochs between two calls.
        unit: ``st`` or ``ep``.
        total: How many fit into the run; ``None`` where its length is not known.
        told: Whether the calls are told the epoch, by which torch takes the closed form.
        smooth: Whether they are told fractions of it.
    """

    every: int
    unit: str
    total: Fraction | None
    told: bool = False
    smooth: bool = False

    def text(self, count: Number) -> int | str:
        """So many calls as a duration."""
        return length(Fraction(count) * self.every, self.unit)

    @property
    def stairs(self) -> bool:
        """Whether the rate is held for more than one step."""
        return not self.smooth and (self.unit == "ep" or self.every > 1)


@dataclass(frozen=True)
class Phase:
    """A schedule up to a call of ``step()``.

    Args:
        schedule: The schedule; its ``until`` is written later.
        end: The call with which it ends; ``None`` if it goes on for ever.
        shaped: Whether its form depends on where it ends.
        form: The end by which its form goes, where it is cut off before.
        jumps: Whether it may jump at the last call before the next one takes over.
        stairs: Whether it changes at calls only, by itself.
        text: How the end is written, where not as a number of steps or epochs.
    """

    schedule: Schedule
    end: Fraction | None = None
    shaped: bool = False
    form: Fraction | None = None
    jumps: bool = False
    stairs: bool = False
    text: str | None = None


@dataclass(frozen=True)
class At:
    """Where a course is to begin.

    With which call, at which rate, what torch takes for the base, and with which call it is cut off.
    """

    ticks: Ticks
    begin: Fraction
    rate: Rate = OWN
    base: Rate = OWN
    stop: Fraction | None = None

    @property
    def end(self) -> Fraction | None:
        """The last call that matters, where it is known."""
        return min((end for end in (self.ticks.total, self.stop) if end is not None), default=None)


def constant(rate: Rate, end: Fraction | None = None) -> Phase:
    """A phase that holds a rate."""
    return Phase(Constant(rate.level()), end, stairs=True)


def cut(phases: Sequence[Phase], end: Fraction | None, ticks: Ticks) -> list[Phase]:
    """The phases up to ``end``; one that would go on keeps its form."""
    if end is None:
        return list(phases)
    kept = []
    for phase in phases:
        if phase.end is not None and phase.end < end:
            kept.append(phase)
            continue
        form = (phase.form or phase.end) if phase.shaped or phase.jumps else None
        kept.append(phase if phase.end == end else dataclasses.replace(phase, end=end, form=form))
        break
    return kept


def written_of(phases: Sequence[Phase], begin: Number, ticks: Ticks) -> list[Schedule]:
    """The phases with their ends, without those that the run does not reach."""
    written: list[Schedule] = []
    reached = Fraction(begin)
    for phase in phases:
        if ticks.total is not None and reached >= ticks.total and written:
            break
        if phase.end is not None and phase.end <= reached:
            continue
        schedule, text = phase.schedule, phase.text
        if phase.form is not None:
            schedule, text = Over(schedule, end=text or ticks.text(phase.form)), None
        until: int | str | None = None
        shaped = phase.shaped and phase.form is None
        beyond = ticks.total is not None and phase.end is not None and phase.end >= ticks.total
        if phase.end is not None and phase.end != ticks.total and (shaped or not beyond):
            until = text or ticks.text(phase.end)
        written.append(schedule.ending(until))
        if phase.end is not None:
            reached = phase.end
    return written
