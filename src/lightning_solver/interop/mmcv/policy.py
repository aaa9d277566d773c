"""An ``lr_config`` or ``momentum_config`` as it is read, and what several policies do with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Phases, Settings, absolute, length
from lightning_solver.interop.mmcv.run import Run
from lightning_solver.schedules import Staircase
from lightning_solver.schedules.base import Level


@dataclass(frozen=True)
class Policy:
    """An ``lr_config`` or ``momentum_config`` as it is read."""

    option: str
    data: Settings
    unit: str
    run: Run
    facts: Facts
    notes: Notes

    @property
    def total(self) -> int | None:
        """Length of the run in the policy's own unit, where it is known."""
        return self.run.total(self.unit)

    def stairs(self, phases: Phases) -> Phases:
        """What moves with every epoch, or with every iteration."""
        return Staircase(phases) if self.unit == "ep" else phases

    def until(self, share: Fraction, minus: Fraction | int = 0) -> int | str:
        """The point of the run after a share of it, less some epochs or iterations."""
        if self.run.last_is_short:  # the run that is counted in steps is longer than this one
            name = "epochs" if self.unit == "ep" else "total_batches"
            total = self.total or self.facts.need(name, self.data.where or "lr_config", "names a share of the run")
            return length(share * total - minus, self.unit)
        terms = [min(share, Fraction(1))] + ([share - 1] if share > 1 else [])
        text = "+".join(str(length(term * 100, "%")) for term in terms)
        if minus == 0:
            return text
        number = str(length(abs(minus), self.unit))
        number += "" if number.endswith(self.unit) else self.unit
        return f"{text}{'-' if minus > 0 else '+'}{number}"

    def floor(self) -> Level:
        """``min_lr``, the same for every group, or ``min_lr_ratio``, a share of its own."""
        keys = f"min_{self.option}", f"min_{self.option}_ratio"
        values = [self.data.number(key, low=0) for key in keys]
        if (values[0] is None) == (values[1] is None):
            what = f"one of {keys[0]} and {keys[1]} must be given"
            raise SolverError(self.data.path(keys[0]), what, got=f"{values[0]} and {values[1]}", do="give one of them")
        return absolute(values[0]) if values[0] is not None else float(values[1])

    def error(self, key: str, what: str, got: Any, do: str = "correct it") -> SolverError:
        """The error that a key of the policy is wrong."""
        return SolverError(self.data.path(key), what, got=repr(got), do=do)


def product(*factors: float | Fraction) -> float:
    """What a human gets: 1e-5 times 0.1 is 1e-6."""
    return float(math.prod(map(exact, factors)))


def note_rounding(policy: Policy, key: str) -> None:
    """Say that MMCV rounds a point of a run of unknown length."""
    what = "MMCV rounds this point of the run to a whole iteration; give facts total_iters to have it rounded here"
    policy.notes.say(policy.data.path(key), what)


def is_number(value: Any) -> bool:
    """Whether it is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
