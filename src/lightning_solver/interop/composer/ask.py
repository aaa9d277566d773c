"""The arguments of one scheduler, and how phases are put together of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Notes, Phases, Settings, length, simple
from lightning_solver.interop.composer.clock import Clock
from lightning_solver.interop.composer.span import Span
from lightning_solver.schedules import Constant, Schedule

Part = tuple[Schedule, Span]
"""A phase without its end, and the end."""


@dataclass(frozen=True)
class Ask:
    """The arguments of a scheduler, and the clock that it looks at."""

    arguments: Settings
    clock: Clock
    notes: Notes

    def span(self, key: str, default: str | None = None, *, scaled: bool = True, empty: bool = False) -> Span:
        """A length of time; it must not be nothing unless it may be ``empty``."""
        span = self.clock.span(self._given(key, default), self.arguments.path(key), scaled=scaled)
        if span.empty and not empty:
            what = "comes to nothing, by which Composer divides"
            raise SolverError(self.arguments.path(key), what, got=repr(self._given(key, default)), do="lengthen it")
        return span

    def _given(self, key: str, default: str | None) -> Any:
        return self.arguments.needed(key) if default is None else self.arguments.take(key, default)

    def before(self, first: Span, second: Span) -> bool:
        """Whether a warm-up ends before another point."""
        unknown = first.place([first, second]) is None and not second.whole
        if unknown and self.clock.run is not None:
            self.clock.facts.need("iters_per_epoch", self.arguments.where, "has batches to be compared with epochs")
        return first.before(second)

    def moved(self, point: Span, by: Span, sign: int) -> Span:
        """The point that lies ``by`` after another one, or before it, but not before the run."""
        if point.steps is not None and by.steps is not None:
            steps = max(point.steps + sign * by.steps, Fraction(0))
            return Span(length(steps), point.unit, steps=steps)
        if point.epochs is not None and by.epochs is not None:
            epochs = max(point.epochs + sign * by.epochs, Fraction(0))
            return Span(length(epochs, "ep"), point.unit, epochs=epochs)
        if point.count is not None and by.count is not None:
            count = max(point.count + sign * by.count, 0)
            return Span(length(count, point.unit), point.unit, count)
        if point.share is None:
            self.clock.facts.need("iters_per_epoch", self.arguments.where, "adds up batches and epochs")
        tail = by.text if isinstance(by.text, str) else f"{by.text}st"
        return Span(f"{point.text}{'-' if sign < 0 else '+'}{tail}", point.unit)

    def factor(self, key: str, default: float) -> float:
        """A factor of the learning rate."""
        return float(self.arguments.number(key, default, low=0))

    def gamma(self, default: float | None = 0.1) -> float:
        """The factor of a drop."""
        if default is None:
            self.arguments.needed("gamma")
        gamma = float(self.arguments.number("gamma", default))
        if gamma <= 0:
            raise SolverError(self.arguments.path("gamma"), "must be > 0", got=repr(gamma), do="correct it")
        return gamma

    def until_end(self, curve: Schedule) -> Phases:
        """A curve over ``t_max``, whose last value is held."""
        phases = joined([(curve, self.span("t_max", "1dur"))], HOLD)
        return curve if isinstance(curve, Constant) else phases


def joined(parts: Sequence[Part], after: Schedule) -> Phases:
    """Parts one after another, and what comes after them unless the run ends with one of them."""
    written: list[Schedule] = []
    for schedule, end in parts:
        if end.empty:
            continue
        if end.whole:
            return simple([*written, schedule])
        written.append(schedule.ending(end.text))
    return simple([*written, after])
