"""The arguments of a class, given as such or by way of the factory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.timm.clock import Clock


@dataclass(frozen=True)
class Source:
    """The arguments of a class, given as such or by way of the factory.

    Args:
        settings: What is given.
        clock: What its numbers count.
        names: Argument of the class -> the name that it has in ``settings``, where it has another.
        defaults: Argument of the class -> default.
        scale: How many units of the clock a number of the config is.
    """

    settings: Settings
    clock: Clock
    names: Mapping[str, str]
    defaults: Mapping[str, Any]
    scale: int = 1

    def name(self, argument: str) -> str:
        """The name that an argument has in the config."""
        return self.names.get(argument, argument)

    def path(self, argument: str) -> str:
        """The path of an argument in the config."""
        return self.settings.path(self.name(argument))

    def take(self, argument: str) -> Any:
        """The value of an argument, or its default."""
        value = self.settings.take(self.name(argument))
        return self.defaults[argument] if value is None else value

    def number(self, argument: str, low: float | None = None) -> Any:
        """The number that an argument is, or its default.

        Raises:
            SolverError: It is missing, no number, or below ``low``.
        """
        if self.defaults[argument] is None:
            self.settings.needed(self.name(argument))
        return self.settings.number(self.name(argument), self.defaults[argument], low=low)

    def positive(self, argument: str, below: float = math.inf) -> Any:
        """A number above 0 and below ``below``.

        Raises:
            SolverError: It is something else.
        """
        value = self.number(argument)
        if not 0 < value < below:
            what = "must be > 0" if below == math.inf else f"must lie between 0 and {below:g}"
            raise SolverError(self.path(argument), what, got=repr(value), do="correct it")
        return value

    def units(self, number: float) -> Fraction:
        """A number of the config in units of the clock."""
        return exact(number) * self.scale

    def ticks(self, number: float) -> float | None:
        """A number of the config as the number of ``t`` that timm calculates with, if known."""
        per = None if self.clock.ticks is None else self.clock.ticks * self.scale
        return None if per is None else number if per == 1 else number * per

    def say(self, argument: str, what: str) -> None:
        """Note something about an argument."""
        self.settings.notes.say(self.path(argument), what)


def numbers(value: Any, where: str, least: int = 0) -> list[float]:
    """A list of numbers, at least so many of them.

    Raises:
        SolverError: It is something else.
    """
    kinds = isinstance(value, (list, tuple)) and {type(number) for number in value} <= {int, float}
    if not kinds or len(value) < least:
        what = f"must be a list of at least {least} numbers" if least else "must be a list of numbers"
        raise SolverError(where, what, got=repr(value), do="write [30, 60]")
    return list(value)
