"""What schedules become when they are laid over a run: curves, each evaluated for one position or for many.

Both ways use the same formula in the same order, so that they agree bit for bit.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_solver.schedules.base import Axis, Curve, Floats, Integers, each, integers, wide


@dataclass(frozen=True)
class Fixed(Curve):
    """The same value at every position."""

    values: tuple[float, ...]

    def at(self, position: int) -> list[float]:
        return list(self.values)

    def over(self, positions: Integers) -> Floats:
        return np.tile(np.array(self.values, dtype=np.float64), (len(positions), 1))


@dataclass(frozen=True)
class Blend(Curve):
    """From one value per group to another, by a weight that goes from 0 to 1 along the axis."""

    first: tuple[float, ...]
    last: tuple[float, ...]
    axis: Axis
    weight: Callable[[float], float]

    def at(self, position: int) -> list[float]:
        w = self.weight(self.axis(position))
        # Measured from the nearer end, so that both ends are exact and equal ends stay equal.
        if w < 0.5:
            return [a + (b - a) * w for a, b in zip(self.first, self.last)]
        return [b - (b - a) * (1.0 - w) for a, b in zip(self.first, self.last)]

    def over(self, positions: Integers) -> Floats:
        w = each(self.weight, self.axis(positions))[:, None]
        a, b = np.array(self.first), np.array(self.last)
        return np.asarray(np.where(w < 0.5, a + (b - a) * w, b - (b - a) * (1.0 - w)), dtype=np.float64)


@dataclass(frozen=True)
class Growth(Curve):
    """One value per group, times a factor of what the axis counts."""

    first: tuple[float, ...]
    axis: Callable[[Any], Any]
    factor: Callable[[float], float]

    def at(self, position: int) -> list[float]:
        factor = self.factor(self.axis(position))
        return [value * factor for value in self.first]

    def over(self, positions: Integers) -> Floats:
        factors: Floats = each(self.factor, self.axis(positions))
        return np.array(self.first) * factors[:, None]


@dataclass(frozen=True)
class Geometric(Curve):
    """From one positive value per group to another by a constant ratio per step."""

    first: tuple[float, ...]
    last: tuple[float, ...]
    axis: Axis

    def at(self, position: int) -> list[float]:
        x = self.axis(position)
        if x < 0.5:  # from the nearer end, so that both ends are exact
            return [a * math.pow(b / a, x) if a else 0.0 for a, b in zip(self.first, self.last)]
        return [b * math.pow(a / b, 1.0 - x) if b else 0.0 for a, b in zip(self.first, self.last)]

    def over(self, positions: Integers) -> Floats:
        rows = [self.at(int(position)) for position in positions.tolist()]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.first))


@dataclass(frozen=True)
class Joined(Curve):
    """Curves one after another: ``curves[i]`` from position ``starts[i]`` on."""

    starts: tuple[int, ...]
    curves: tuple[Curve, ...]

    def at(self, position: int) -> list[float]:
        return self.curves[max(bisect_right(self.starts, position) - 1, 0)].at(position)

    def over(self, positions: Integers) -> Floats:
        which = np.maximum(np.searchsorted(integers(self.starts), positions, side="right") - 1, 0)
        return _gathered(self.curves, which, positions)


@dataclass(frozen=True)
class Multiplied(Curve):
    """A curve times factors, each of which is the same for every group."""

    first: Curve
    factors: tuple[Curve, ...]

    def at(self, position: int) -> list[float]:
        values = self.first.at(position)
        for factor in self.factors:
            (by,) = factor.at(position)
            values = [value * by for value in values]
        return values

    def over(self, positions: Integers) -> Floats:
        values = self.first.over(positions)
        for factor in self.factors:
            values = values * factor.over(positions)
        return values


@dataclass(frozen=True)
class Added(Curve):
    """Curves added up."""

    terms: tuple[Curve, ...]

    def at(self, position: int) -> list[float]:
        first, *others = (term.at(position) for term in self.terms)
        for other in others:
            first = [a + b for a, b in zip(first, other)]
        return first

    def over(self, positions: Integers) -> Floats:
        first, *others = (term.over(positions) for term in self.terms)
        for other in others:
            first = first + other
        return first


@dataclass(frozen=True)
class Clipped(Curve):
    """A curve held between a lower and an upper value of each group."""

    curve: Curve
    low: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, position: int) -> list[float]:
        return [min(max(v, a), b) for v, a, b in zip(self.curve.at(position), self.low, self.high)]

    def over(self, positions: Integers) -> Floats:
        values = np.maximum(self.curve.over(positions), np.array(self.low))
        return np.asarray(np.minimum(values, np.array(self.high)), dtype=np.float64)


@dataclass(frozen=True)
class Split(Curve):
    """Every group by one of several curves: ``curves[i]`` gives the groups ``columns[i]``, by index."""

    columns: tuple[tuple[int, ...], ...]
    curves: tuple[Curve, ...]

    def at(self, position: int) -> list[float]:
        values = [0.0] * sum(map(len, self.columns))
        for columns, curve in zip(self.columns, self.curves):
            for column, value in zip(columns, curve.at(position)):
                values[column] = value
        return values

    def over(self, positions: Integers) -> Floats:
        values = np.empty((len(positions), sum(map(len, self.columns))))
        for columns, curve in zip(self.columns, self.curves):
            values[:, list(columns)] = curve.over(positions)
        return values


@dataclass(frozen=True)
class Moved(Curve):
    """A curve read at another position."""

    curve: Curve
    place: Callable[[Any], Any]

    def at(self, position: int) -> list[float]:
        return self.curve.at(self.place(position))

    def over(self, positions: Integers) -> Floats:
        return self.curve.over(self.place(positions))


@dataclass(frozen=True)
class Hold:
    """Positions beyond the last one count as the last one."""

    last: int

    def __call__(self, position: Any) -> Any:
        """The position to look at."""
        position = wide(position, self.last)
        return np.minimum(position, self.last) if isinstance(position, np.ndarray) else min(position, self.last)


def not_negative(n: Any) -> Any:
    """``n``, or 0 where it is negative; for one position or an array."""
    return np.maximum(n, 0) if isinstance(n, np.ndarray) else max(n, 0)


def _gathered(curves: Sequence[Curve], which: Integers, positions: Integers) -> Floats:
    """The values at ``positions``, each by the curve whose index stands in ``which``."""
    parts = [(mask, curve.over(positions[mask])) for i, curve in enumerate(curves) if (mask := which == i).any()]
    values = np.empty((len(positions), parts[0][1].shape[1] if parts else 0))
    for mask, part in parts:
        values[mask] = part
    return values
