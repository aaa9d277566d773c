"""Schedules that each work, step by step, on what the others left, as recurrences do."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_solver.schedules.base import Curve, Floats, Integers, Level, Schedule, Window, check_level
from lightning_solver.schedules.join import lay


@dataclass(frozen=True)
class Chain(Schedule):
    """Schedules that change one value together, each at every step, in order, from what the others have left.

    From step ``t - 1`` to step ``t`` a schedule whose own value goes from ``c`` to ``d`` above its floor ``f`` turns a
    value ``v`` into ``f + (v - f) * (d - f) / (c - f)``; where ``c`` is the floor itself, it adds ``d - c``. With
    floors of 0 that is a :class:`Product`, which is simpler. With other floors it is what torch's ``ChainedScheduler``
    and the overlapping schedulers of MMEngine do, for which there is no closed formula.

    Args:
        of: A schedule or a list of phases each, laid as if it were alone.
        floors: The value that each of them decays to, 0 by default.
        until: Where the chain ends as a phase.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> from lightning_solver.schedules import Linear
        >>> chain = Chain([Linear(end=0.0), Linear(end=0.5)], floors=[0.0, 0.5])
        >>> SolverSpec(schedules={"lr": chain}).curve("lr", [1.0], total_steps=3)[:, 0].round(4).tolist()
        [1.0, 0.6111, 0.4028]
    """

    of: Sequence[Schedule | Sequence[Schedule]]
    floors: Sequence[Level] = ()
    until: int | str | None = None

    def check(self) -> None:
        if len(self.of) < 2:
            raise self._error("of", "needs at least two", got=len(self.of), do="give the schedule by itself")
        super().check()
        if self.floors and len(self.floors) != len(self.of):
            got = (len(self.floors), len(self.of))
            raise self._error("floors", "does not fit the number of schedules", got=got, do="give one for each")
        for i, floor in enumerate(self.floors):
            check_level(floor, f"Chain.floors[{i}]")

    def lay(self, window: Window) -> Curve:
        end = math.ceil(window.known_end())
        floors = [window.levels(floor, f"floors[{i}]") for i, floor in enumerate(self.floors or (0.0,) * len(self.of))]
        links = []
        for i, (link, floor) in enumerate(zip(self.of, floors)):
            # A base value that is the floor itself would hide how the schedule moves what others have left above it.
            bases = tuple(base if base != low else low + 1.0 for base, low in zip(window.bases, floor))
            alone = window.inside(bases=bases, feed=None)
            own_floor = alone.levels(self.floors[i] if self.floors else 0.0, f"floors[{i}]")
            curve = lay(link, alone.inside(where=f"{window.where}.of[{i}]"))
            links.append(_Link(curve, own_floor, floor, bases))
        return _Chained(tuple(links), window.bases, end, window.denominator)


@dataclass(frozen=True)
class _Link:
    """One schedule of a chain, laid for ``bases``; the floor of that curve, and the floor of the value itself."""

    curve: Curve
    own_floor: tuple[float, ...]
    floor: tuple[float, ...]
    bases: tuple[float, ...]


@dataclass(frozen=True)
class _Chained(Curve):
    links: tuple[_Link, ...]
    bases: tuple[float, ...]
    end: int
    denominator: int

    def at(self, position: int) -> list[float]:
        values: list[float] = self._values[min(position // self.denominator, self.end)].tolist()
        return values

    def over(self, positions: Integers) -> Floats:
        values: Floats = self._values[np.minimum(positions // self.denominator, self.end).astype(np.int64)]
        return values

    @functools.cached_property
    def _values(self) -> Floats:
        """The values of every step, from the first to the end; worked out once."""
        steps = np.arange(self.end + 1) * self.denominator
        moves = [_Moves(link, link.curve.over(steps), np.array(self.bases)) for link in self.links]
        value = np.array(self.bases, dtype=np.float64)
        for move in moves:
            value = move.first(value)
        rows = [value]
        for step in range(1, self.end + 1):
            for move in moves:
                value = move.on(value, step)
            rows.append(value)
        return np.array(rows)


class _Moves:
    """How one schedule moves a value from step to step."""

    def __init__(self, link: _Link, own: Floats, bases: Floats) -> None:
        self._own, self._own_floor = own, np.array(link.own_floor)
        self._floor, self._laid = np.array(link.floor), np.array(link.bases)
        span = self._laid - self._own_floor  # what is added where there is no ratio is a share of it
        self._share = np.divide(bases - self._floor, span, out=np.zeros_like(span), where=span != 0)

    def first(self, value: Floats) -> Floats:
        """``value`` at step 0."""
        return np.asarray(value * np.divide(self._own[0], self._laid, out=np.ones_like(value), where=self._laid != 0))

    def on(self, value: Floats, step: int) -> Floats:
        """``value`` after the move from the step before to ``step``."""
        old, new, own_floor, floor = self._own[step - 1], self._own[step], self._own_floor, self._floor
        if (old == new).all():
            return value
        above = old - own_floor
        away = np.abs(above) > 1e-15 * np.abs(own_floor)
        ratio = np.divide(new - own_floor, above, out=np.ones_like(value), where=away)
        moved: Floats = np.where(away, floor + (value - floor) * ratio, value + (new - old) * self._share)
        return moved
