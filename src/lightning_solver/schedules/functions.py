"""Schedules from outside: a function of the user's own, and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from lightning_solver.errors import SolverError
from lightning_solver.plain import import_dotted
from lightning_solver.schedules.base import Curve, Level, Schedule, Window
from lightning_solver.schedules.curves import Growth


@dataclass(frozen=True)
class Function(Schedule):
    """A Python function: ``a * function(n)``, where ``n`` counts from 0 how many ``every`` have passed in the phase.

    It is called for no ``n`` that begins at the end of its phase or later; what the last one gave is held.

    Args:
        function: Dotted path of the function, ``package.module.name``; in Python the function itself, which has to be
            importable by such a path where the spec is written down. It takes a whole number and returns a factor.
        every: What is counted: optimiser steps by default, ``1ep`` for epochs.
        args: Further arguments of the function, by name.
        cumulative: Whether the factors add up by multiplication: ``a * function(1) * ... * function(n)``.
        start: The value that is multiplied.
        until: Where the phase ends.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> spec = SolverSpec(schedules={"lr": Function("math.sqrt")})
        >>> spec.curve("lr", [0.1], total_steps=5)[4].tolist()
        [0.2]
    """

    function: str | Callable[..., float]
    every: int | str = 1
    args: dict[str, Any] = field(default_factory=dict)
    cumulative: bool = False
    start: Level = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if not isinstance(self.function, str) and not callable(self.function):
            raise self._error("function", "is not a function", got=self.function, do="name a function of one number")

    def lay(self, window: Window) -> Curve:
        function = self._resolved(f"{window.where}.function")
        count = window.counter(self.every)
        last = None if window.end is None else max(math.ceil(count(math.ceil(window.end * window.denominator))) - 1, 0)
        factors = [1.0]  # of the cumulative form, as far as they are known

        def factor(periods: float) -> float:
            n = math.floor(periods) if last is None else min(math.floor(periods), last)
            if not self.cumulative:
                return self._call(function, n, window)
            while len(factors) <= n:
                factors.append(factors[-1] * self._call(function, len(factors), window))
                if not math.isfinite(factors[-1]):
                    got = f"{factors[-1]} after {len(factors) - 1} factors"
                    do = "return factors that stay below 1 in the long run"
                    raise SolverError(f"{window.where}.function", "grows beyond what a float holds", got=got, do=do)
            return factors[n]

        factor(0.0)  # a function that cannot be called is found now
        return Growth(window.levels(self.start, "start"), count, factor)

    def _resolved(self, where: str) -> Callable[..., float]:
        function = self.function
        if isinstance(function, str):
            if "." not in function:
                do = "give a dotted path such as package.module.name"
                raise SolverError(where, "is not the path of a function", got=repr(function), do=do)
            function = import_dotted(function, where)
        if not callable(function):
            raise SolverError(where, "is not a function", got=repr(function), do="name a function of one number")
        return function

    def _call(self, function: Callable[..., float], n: int, window: Window) -> float:
        where = f"{window.where}.function"
        try:
            value: Any = function(n, **self.args)
        except Exception as error:  # whatever a user's function may raise
            what = f"failed for {n}: {type(error).__name__}: {error}"
            raise SolverError(where, what, got=_named(self.function), do="mend the function") from error
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise SolverError(where, f"gave no number for {n}", got=repr(value), do="return a factor, such as 0.5")
        if not math.isfinite(value) or value < 0:
            raise SolverError(where, f"gave no factor for {n}", got=repr(value), do="return a finite number >= 0")
        return float(value)


def _named(function: str | Callable[..., float]) -> str:
    return function if isinstance(function, str) else getattr(function, "__qualname__", repr(function))


@dataclass(frozen=True)
class Noise(Schedule):
    """Random factors: ``a * (1 + noise)``, drawn afresh for each ``every`` and the same in every run.

    Multiply it onto a schedule with ``Product``. The numbers are those of timm: for the ``n``-th ``every`` of the run,
    counted from 0, a Mersenne twister of seed ``seed + n``.

    Args:
        limit: The noise stays within ``(-limit, limit)``, 0 < ``limit`` <= 1.
        std: Standard deviation of the normal distribution; what falls outside the limit is drawn again.
        distribution: ``normal`` or ``uniform``.
        seed: The seed.
        every: How long a factor lasts: an optimiser step by default, ``1ep`` for an epoch.
        start: The value that is multiplied.
        until: Where the phase ends.
    """

    limit: float = 0.67
    std: float = 1.0
    distribution: Literal["normal", "uniform"] = "normal"
    seed: int = 42
    every: int | str = 1
    start: Level = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if not 0 < self.limit <= 1:
            raise self._error("limit", "must lie between 0 and 1", got=self.limit, do="correct it")
        if self.std <= 0:
            raise self._error("std", "must be > 0", got=self.std, do="correct it")
        if self.seed < 0:
            raise self._error("seed", "must not be negative", got=self.seed, do="correct it")

    def lay(self, window: Window) -> Curve:
        from_start = window.inside(begin=Fraction(0))
        known: dict[int, float] = {}

        def factor(periods: float) -> float:
            n = math.floor(periods)
            if n not in known:
                known[n] = 1.0 + self._draw(n)
            return known[n]

        return Growth(window.levels(self.start, "start"), from_start.counter(self.every), factor)

    def _draw(self, n: int) -> float:
        twister = _Twister(self.seed + n)
        if self.distribution == "uniform":
            return 2.0 * (twister.uniform() - 0.5) * self.limit
        while True:
            noise = twister.normal() * self.std
            if abs(noise) < self.limit:
                return noise


class _Twister:
    """Random numbers as torch draws them one by one on the CPU in single precision."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.RandomState(seed % 2**32)
        self._spare: float | None = None

    def _draw(self) -> int:
        return int(self._bits.randint(0, 2**32, dtype=np.uint64))

    def uniform(self) -> float:
        """Of [0, 1)."""
        return (self._draw() & (2**24 - 1)) / 2**24

    def normal(self) -> float:
        """Of mean 0 and standard deviation 1 (Box and Muller, 1958)."""
        if self._spare is not None:
            value, self._spare = self._spare, None
        else:
            angle, radius = (((self._draw() << 32 | self._draw()) & (2**53 - 1)) / 2**53 for _ in range(2))
            length = math.sqrt(-2.0 * math.log1p(-radius))
            value, self._spare = length * math.cos(2.0 * math.pi * angle), length * math.sin(2.0 * math.pi * angle)
        return float(np.float32(value))
