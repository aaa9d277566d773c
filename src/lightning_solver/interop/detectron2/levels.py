"""Factors of the learning rate, and how they are written one after another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.schedules import Constant, MultiStep, Schedule


def not_negative(value: float, where: str) -> float:
    """A factor that a learning rate can have; what rounding has left below 0 is 0.

    Raises:
        SolverError: It is below 0.
    """
    if value < -1e-15:
        what = "gives a factor below 0, which no learning rate can have here"
        raise SolverError(where, what, got=repr(float(value)), do="correct it")
    return max(float(value), 0.0)


def stairs(value: float, drops: Iterable[tuple[int | str, float]], where: str) -> list[Schedule]:
    """Values one after another: a :class:`MultiStep` where one factor makes them, else constants."""
    kept: list[tuple[int | str, float]] = []
    current = value
    for point, new in drops:
        if new != current:
            kept.append((point, new))
        current = new
    values = [not_negative(new, where) for new in (value, *(new for _, new in kept))]
    gamma = common_ratio(values)
    if kept and gamma is not None:
        return [MultiStep([point for point, _ in kept], gamma, values[0])]
    ends = [point for point, _ in kept]
    return [*(Constant(new, until=end) for new, end in zip(values, ends)), Constant(values[-1])]


def common_ratio(values: Sequence[float]) -> float | None:
    """The factor from each value to the next, where it is the same."""
    if len(values) < 2 or min(values) <= 0:
        return None
    ratio = exact(values[1]) / exact(values[0])
    near = ratio.limit_denominator(1_000_000)
    gamma = float(near if math.isclose(near, ratio, rel_tol=1e-15) else ratio)
    if not 1e-6 <= gamma <= 1e6 or (len(values) == 2 and values[0] != 1 and gamma != round(gamma, 6)):
        return None  # two values that have nothing to do with each other
    fits = all(math.isclose(value, values[0] * gamma**i, rel_tol=1e-12) for i, value in enumerate(values))
    return gamma if fits else None
