"""Durations that carry their unit, and the length of a run that resolves them to optimiser steps.

A step is one optimiser step, whatever number of batches it is made of. Arithmetic is exact (rational numbers): a third
of 100 steps is 100/3, and only the question whether a step has reached it compares.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Any, Literal

from lightning_solver.errors import SolverError

Rational = int | float | Fraction
Unit = Literal["st", "ep", "%"]

_GRAMMAR = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?|[0-9]+/[1-9][0-9]*)(?P<unit>st|ep|%)?")
_FORMS = "write 500 or 500st (optimiser steps), 5ep (epochs) or 10% (of the run); numbers may be 2.5 or 1/3"


def exact(value: Rational) -> Fraction:
    """The fraction that a number stands for; a float stands for the simplest fraction that rounds to it.

    Example:
        >>> exact(10 / 3), exact(6.25)
        (Fraction(10, 3), Fraction(25, 4))
    """
    fraction = Fraction(value)
    if isinstance(value, float):
        simple = fraction.limit_denominator(1_000_000)
        return simple if float(simple) == value else fraction
    return fraction


@dataclass(frozen=True)
class Duration:
    """A length of training or a point in it, with its unit.

    Args:
        value: How many of the unit, >= 0; at most 100 for ``%``.
        unit: ``st`` optimiser steps, ``ep`` epochs, ``%`` of the whole run.

    Example:
        >>> Duration.parse("5ep").resolve(RunLength(total_steps=100, steps_per_epoch=10))
        Fraction(50, 1)
        >>> str(Duration.parse(500))
        '500st'
    """

    value: Fraction
    unit: Unit

    @classmethod
    def parse(cls, text: int | str, where: str = "duration") -> Duration:
        """Read ``500``, ``"500st"``, ``"5ep"`` or ``"10%"``; the number may be a decimal or a fraction (``1/3ep``).

        Raises:
            SolverError: Anything else: other units, signs, exponents, blanks, more than 100%.
        """
        found = None if isinstance(text, bool) else _GRAMMAR.fullmatch(str(text))
        if found is None or not isinstance(text, (int, str)):
            raise SolverError(where, "is not a duration", got=repr(text), do=_FORMS)
        unit: Unit = found["unit"] or "st"  # type: ignore[assignment]
        value = Fraction(found["number"])
        if unit == "%" and value > 100:
            raise SolverError(where, "is more than the whole run", got=repr(text), do="give at most 100%")
        return cls(value, unit)

    def __str__(self) -> str:
        # A decimal where a short one is exact, a fraction where it is not.
        for digits in range(13):
            scaled = self.value * 10**digits
            if scaled.denominator == 1:
                text = f"{scaled.numerator:0{digits + 1}d}"
                return f"{text[: len(text) - digits]}{'.' * (digits > 0)}{text[len(text) - digits :]}{self.unit}"
        return f"{self.value}{self.unit}"

    def resolve(self, run: RunLength, where: str = "duration") -> Fraction:
        """The duration in optimiser steps, measured from the start of ``run``; exact, so perhaps not whole.

        Raises:
            SolverError: ``run`` does not know what the unit needs.
        """
        if self.unit == "st":
            return self.value
        if self.unit == "%":
            return self.value * Fraction(run.known_total(where)) / 100
        return run.steps_at_epoch(self.value, where)


@dataclass(frozen=True)
class RunLength:
    """How long a run is and where its epochs end.

    Args:
        total_steps: Optimiser steps of the whole run, a whole number (a ``Fraction`` only inside a schedule that counts
            something else than steps); ``None`` where nothing says when the run ends.
        steps_per_epoch: Optimiser steps of every epoch, where all are equally long; may be fractional where a peer
            counts batches. A float stands for the simplest fraction that rounds to it.
        epoch_ends: Where epochs differ: the number of steps taken when each epoch ends, strictly growing. An epoch that
            ``total_steps`` cuts short is given its full length. Past the last entry epochs are as long as the last one.
        batches_per_step: Batches that make one step (accumulation), where it is the same for the whole run.
        samples_per_step: Samples that make one step, over all devices.
        unknown: Why ``total_steps`` is ``None``, and the ways out; for the error message.

    Raises:
        SolverError: Lengths that are not positive, or both ``steps_per_epoch`` and ``epoch_ends``.

    Example:
        >>> run = RunLength(total_steps=25, epoch_ends=[10, 15, 20, 25])
        >>> run.steps_at_epoch(Fraction(3, 2)), run.epoch_at_step(12)
        (Fraction(25, 2), 1)
    """

    total_steps: int | Fraction | None = None
    steps_per_epoch: Rational | None = None
    epoch_ends: Sequence[Rational] | None = None
    batches_per_step: Rational | None = None
    samples_per_step: Rational | None = None
    unknown: str | None = None

    def __post_init__(self) -> None:
        total: Any = self.total_steps
        whole = isinstance(total, Integral) and not isinstance(self.total_steps, bool)  # numpy's whole numbers too
        if total is not None and not ((whole or isinstance(total, Fraction)) and total > 0):
            raise SolverError("total_steps", "must be a whole number >= 1", got=repr(total), do="correct it")
        if whole:
            object.__setattr__(self, "total_steps", int(total))
        for field in ("steps_per_epoch", "batches_per_step", "samples_per_step"):
            value = getattr(self, field)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)) or not 0 < value < float("inf"):
                raise SolverError(field, "must be a number > 0", got=repr(value), do="correct it")
            object.__setattr__(self, field, exact(value))
        if self.epoch_ends is None:
            return
        if self.steps_per_epoch is not None:
            do = "give epoch_ends where epochs differ, steps_per_epoch where they do not"
            raise SolverError("epoch_ends", "contradicts steps_per_epoch", got=str(self.steps_per_epoch), do=do)
        try:
            ends = tuple(exact(end) for end in self.epoch_ends)
        except (TypeError, ValueError, OverflowError):
            do = "give the number of steps taken when each epoch ends"
            raise SolverError("epoch_ends", "must be a list of numbers", got=repr(self.epoch_ends), do=do) from None
        if not ends or any(later <= earlier for earlier, later in zip((Fraction(0), *ends), ends)):
            do = "give the number of steps taken when each epoch ends"
            raise SolverError("epoch_ends", "must be positive and grow", got=repr(self.epoch_ends), do=do)
        lengths = {later - earlier for earlier, later in zip((Fraction(0), *ends), ends)}
        if len(lengths) == 1:
            object.__setattr__(self, "steps_per_epoch", lengths.pop())
            object.__setattr__(self, "epoch_ends", None)
        else:
            object.__setattr__(self, "epoch_ends", ends)

    @property
    def epochs_known(self) -> bool:
        """Whether a number of epochs can be turned into steps."""
        return self.steps_per_epoch is not None or self.epoch_ends is not None

    def scaled(self, by: Fraction) -> RunLength:
        """This run counted in something of which ``by`` pass in one step, such as batches."""
        return RunLength(
            total_steps=None if self.total_steps is None else Fraction(self.total_steps) * by,
            steps_per_epoch=None if self.steps_per_epoch is None else exact(self.steps_per_epoch) * by,
            epoch_ends=None if self.epoch_ends is None else [exact(end) * by for end in self.epoch_ends],
            unknown=self.unknown,
        )

    def known_total(self, where: str) -> int | Fraction:
        """``total_steps``, or an error that says what to do where it is not known."""
        if self.total_steps is None:
            what = "needs the length of the run" if self.unknown else "needs the length of the run, which is not given"
            do = "give total_steps, or a schedule in steps (500st) that needs no end"
            raise SolverError(where, what, got=self.unknown, do=do)
        return self.total_steps

    def steps_at_epoch(self, epoch: Fraction, where: str = "epoch") -> Fraction:
        """Steps taken when ``epoch`` epochs are over (0-based: 0 is the start of the run)."""
        if self.epoch_ends is not None:
            bounds: list[Fraction] = [Fraction(0), *self.epoch_ends]  # type: ignore[list-item]
            whole = min(int(epoch), len(bounds) - 2)
            return bounds[whole] + (epoch - whole) * (bounds[whole + 1] - bounds[whole])
        if self.steps_per_epoch is None:
            do = "give steps_per_epoch, or write the duration in steps (500st)"
            raise SolverError(where, "needs the length of an epoch, which is not known", do=do)
        return epoch * Fraction(self.steps_per_epoch)

    def epoch_at_step(self, step: int | Fraction, where: str = "epoch") -> int:
        """The epoch (0-based) that holds ``step`` (0-based)."""
        if self.epoch_ends is not None:
            ends: Sequence[Fraction] = self.epoch_ends  # type: ignore[assignment]
            if step < ends[-1]:
                return bisect_right(ends, step)
            last = ends[-1] - ends[-2]
            return len(ends) + int((step - ends[-1]) // last)
        return int(Fraction(step) // self.steps_at_epoch(Fraction(1), where))
