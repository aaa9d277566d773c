"""A scheduler as a move: the phases that it would be by itself, where they begin, and where it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_solver.interop.mmengine.point import Point
from lightning_solver.schedules import Schedule
from lightning_solver.schedules.base import Level


@dataclass(frozen=True)
class Found:
    """The value that a scheduler finds as it begins.

    Args:
        factor: As a factor of the group's base value, where that is known.
        level: As a schedule names it.
    """

    factor: float | None
    level: Level

    @property
    def known(self) -> float:
        """The factor, for a scheduler that needs it."""
        assert self.factor is not None
        return self.factor

    @property
    def start(self) -> dict[str, Any]:
        """The ``start`` of a phase; nothing for the base value."""
        return start_at(self.level)


@dataclass(frozen=True)
class Move:
    """What one scheduler does.

    Args:
        phases: Its phases from ``begin`` on, made of the value that it finds. The last has no ``until`` if it
            needs nothing after it.
        begin: Where its phases begin.
        latest: The latest point where they may begin instead.
        last: The point from which on it no longer moves.
        after: The factor that it leaves, made of the factor that it finds.
        by_epoch: Whether it moves once per epoch.
        order: Its place among those that move after the same iteration.
        stairs: Whether its phases have to be looked up once per epoch.
        pure: Whether it multiplies by factors that do not depend on the value.
        sets: Whether it sets the value and forgets what was before.
        jumps: Whether it changes the value as it begins.
        returns: Whether what it leaves is not the value at the end of its phases.
        floor: The value that it decays to.
        needs_level: Whether ``phases`` needs the factor.
    """

    phases: Callable[[Found], list[Schedule]]
    begin: Point
    latest: Point
    last: Point
    after: Callable[[float | None], float | None]
    by_epoch: bool
    order: tuple[bool, int]
    stairs: bool
    pure: bool = True
    sets: bool = False
    jumps: bool = False
    returns: bool = False
    floor: Level = 0.0
    needs_level: bool = False


def start_at(level: Level) -> dict[str, Any]:
    """The ``start`` of a shape; nothing for the base value."""
    return {} if level == 1.0 else {"start": level}


def same(factor: float | None) -> float | None:
    """Leaves the factor that it finds."""
    return factor


def nothing(_: float | None) -> float | None:
    """Leaves 0."""
    return 0.0


def unknown(_: float | None) -> float | None:
    """Leaves what cannot be said as a factor."""
    return None
