"""In which stretches of a run a parameter is frozen: a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.errors import SolverError

Resolve = Callable[[int | str, str, int], Fraction]
"""Works out a duration of the spec in steps: (duration, path for messages, how many times it is taken)."""


@dataclass(frozen=True)
class Frozen:
    """The stretches in which a parameter does not move.

    Args:
        until: It is frozen before this point of the run, in optimiser steps.
        since: It is frozen from this point on; ``None`` for never.

    Example:
        >>> [step for step in range(10) if Frozen(until=Fraction(2), since=Fraction(15, 2)).at(step)]
        [0, 1, 8, 9]
    """

    until: Fraction = Fraction(0)
    since: Fraction | None = None

    def at(self, step: int) -> bool:
        """Whether it is frozen when a step (0-based) is taken."""
        return step < self.until or (self.since is not None and step >= self.since)

    def __str__(self) -> str:
        words = [f"until step {_shown(self.until)}"] if self.until else []
        words += [f"from step {_shown(self.since)}"] if self.since is not None else []
        return " and ".join(words) or "never"


def _shown(point: Fraction) -> str:
    return f"{float(point):g}" if point.denominator != 1 else f"{int(point):,}"


def freeze(says: Mapping[str, Any], where: str, resolve: Resolve, height: int) -> Frozen | bool:
    """What a rule makes of a parameter: ``True`` for left out, ``False`` for never frozen, or the stretches.

    Args:
        says: What :meth:`Rule.freezes` gives.
        where: Path of the rule, for messages.
        resolve: Works out durations.
        height: How many depths the parameter lies below the greatest one; read for ``unfreeze_every`` only.
    """
    if "frozen" in says:
        return bool(says["frozen"])
    if "unfreeze_every" in says:
        frozen = Frozen(resolve(says["unfreeze_every"], f"{where}.unfreeze_every", max(height, 0)))
    else:
        until, since = says.get("frozen_until"), says.get("frozen_from")
        frozen = Frozen(
            Fraction(0) if until is None else resolve(until, f"{where}.frozen_until", 1),
            None if since is None else resolve(since, f"{where}.frozen_from", 1),
        )
    if frozen.since is not None and frozen.since <= frozen.until:
        got = ", ".join(f"{name} {value}" for name, value in says.items())
        do = "let frozen_from come after frozen_until, or write frozen: true"
        raise SolverError(f"{where}.frozen_from", "leaves no step in which they are trained", got=got, do=do)
    return frozen if frozen.until or frozen.since is not None else False
