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
Unit = Literal["st", "ep", "%", "ba", "sp"]

_TERM = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?|[0-9]+/[1-9][0-9]*)(?P<unit>st|ep|%|ba|sp)?")
_FORMS = (
    "write 500 or 500st (optimiser steps), 5ep (epochs) or 10% (of the run), 64ba (batches) or 4096sp (samples), or a "
    "sum such as 5ep+100st or 30%-1st; numbers may be 2.5 or 1/3"
)


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
        terms: What is added up: (how many, of which unit). Units are ``st`` optimiser steps, ``ep`` epochs, ``%`` of
            the whole run, ``ba`` batches and ``sp`` samples (over all devices). All but the first may be negative.

    Example:
        >>> Duration.parse("5ep+3st").resolve(RunLength(total_steps=100, steps_per_epoch=10))
        Fraction(53, 1)
        >>> str(Duration.parse(500)), str(Duration.parse("30%-1"))
        ('500st', '30%-1st')
    """

    terms: tuple[tuple[Fraction, Unit], ...]

    @classmethod
    def parse(cls, text: int | str, where: str = "duration") -> Duration:
        """Read ``500``, ``"500st"``, ``"5ep"``, ``"10%"``, ``"64ba"``, ``"4096sp"`` or a sum of these.

        A number may be a decimal or a fraction (``1/3ep``).

        Raises:
            SolverError: Anything else: other units, a sign in front, exponents, blanks, more than 100%.
        """
        parts = [""] if isinstance(text, bool) or not isinstance(text, (int, str)) else re.split("([+-])", str(text))
        found = [_TERM.fullmatch(part) for part in parts[::2]]
        if not all(found):
            raise SolverError(where, "is not a duration", got=repr(text), do=_FORMS)
        terms: list[tuple[Fraction, Unit]] = []
        for sign, term in zip(["+", *parts[1::2]], found):
            assert term is not None
            value = Fraction(term["number"])
            unit: Unit = term["unit"] or "st"  # type: ignore[assignment]
            terms.append((-value if sign == "-" else value, unit))
        if any(unit == "%" and value > 100 for value, unit in terms):
            raise SolverError(where, "is more than the whole run", got=repr(text), do="give at most 100%")
        return cls(tuple(terms))

    @property
    def epochs(self) -> Fraction | None:
        """How many epochs it is, where it is given in epochs alone."""
        return self.terms[0][0] if len(self.terms) == 1 and self.terms[0][1] == "ep" else None

    def __str__(self) -> str:
        words = [f"{'-' if value < 0 else '+'}{_written(abs(value))}{unit}" for value, unit in self.terms]
        return "".join(words).removeprefix("+")

    def resolve(self, run: RunLength, where: str = "duration") -> Fraction:
        """The duration in optimiser steps, measured from the start of ``run``; exact, so perhaps not whole.

        Raises:
            SolverError: ``run`` does not know what a unit needs, or the sum is negative.
        """
        steps = sum((_steps(abs(value), unit, run, where) * (1 if value >= 0 else -1) for value, unit in self.terms))
        if steps < 0:
            do = "lengthen the run, or take less away"
            raise SolverError(where, "is negative in this run", got=f"{self}, which is {float(steps):g} steps", do=do)
        return Fraction(steps)

    def length(self, run: RunLength, where: str) -> Fraction:
        """Like :meth:`resolve`, for a length that must not be nothing and is the same wherever it begins.

        Raises:
            SolverError: It is nothing in this run, or in epochs where these differ.
        """
        if run.epoch_ends is not None and any(unit == "ep" for _, unit in self.terms):
            raise SolverError(where, "is in epochs, which differ in length", got=repr(str(self)), do="give it in steps")
        steps = self.resolve(run, where)
        if steps == 0:
            raise SolverError(where, "must be longer than nothing", got=repr(str(self)), do="give a length > 0")
        return steps


def _steps(value: Fraction, unit: Unit, run: RunLength, where: str) -> Fraction:
    if unit == "st":
        return value
    if unit == "%":
        return value * Fraction(run.known_total(where)) / 100
    if unit == "ep":
        return run.steps_at_epoch(value, where)
    per_step, what = (run.batches_per_step, "batches") if unit == "ba" else (run.samples_per_step, "samples")
    if per_step is None:
        do = f"give RunLength({what}_per_step=...), or write the duration in steps (500st)"
        raise SolverError(
            where, f"needs the number of {what} in a step, which is not known", got=f"{value}{unit}", do=do
        )
    if run.batches_per_epoch is None or run.batches_per_step is None:
        return value / Fraction(per_step)
    size = Fraction(run.batches_per_step)
    return _steps_of_batches(value if unit == "ba" else value / Fraction(per_step) * size, size, run.batches_per_epoch)


def _steps_of_batches(batches: Fraction, size: Fraction, per_epoch: int) -> Fraction:
    """Steps that are over after some batches, where the last one of an epoch is made of those that are left.

    Args:
        batches: How many batches are over.
        size: How many make a step.
        per_epoch: How many an epoch has.
    """
    epochs, rest = divmod(batches, per_epoch)
    whole, left = divmod(Fraction(per_epoch), size)
    within = rest / size if rest <= whole * size else whole + (rest - whole * size) / left
    return epochs * (whole + (left > 0)) + within


def _written(value: Fraction) -> str:
    """A decimal where a short one is exact, a fraction where it is not."""
    for digits in range(13):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            text = f"{scaled.numerator:0{digits + 1}d}"
            return f"{text[: len(text) - digits]}{'.' * (digits > 0)}{text[len(text) - digits :]}"
    return str(value)


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
        batches_per_epoch: Batches of an epoch, where the last step of each is made of fewer than the others.
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
    batches_per_epoch: int | None = None
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
            batches_per_step=None if self.batches_per_step is None else exact(self.batches_per_step) / by,
            samples_per_step=None if self.samples_per_step is None else exact(self.samples_per_step) / by,
            unknown=self.unknown,
        )

    def known_total(self, where: str) -> int | Fraction:
        """``total_steps``, or an error that says what to do where it is not known."""
        if self.total_steps is None:
            what = "needs the length of the run" if self.unknown else "needs the length of the run, which is not given"
            do = "give total_steps, or durations in steps (500st), which need no end"
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

    def epochs_at_step(self, step: Fraction, where: str = "epoch") -> Fraction:
        """How many epochs are over after ``step`` steps, the part of the present one included; exact."""
        whole = self.epoch_at_step(step, where)
        begin, end = (self.steps_at_epoch(Fraction(epoch), where) for epoch in (whole, whole + 1))
        return whole + (step - begin) / (end - begin)

    def epoch_at_step(self, step: int | Fraction, where: str = "epoch") -> int:
        """The epoch (0-based) that holds ``step`` (0-based)."""
        if self.epoch_ends is not None:
            ends: Sequence[Fraction] = self.epoch_ends  # type: ignore[assignment]
            if step < ends[-1]:
                return bisect_right(ends, step)
            last = ends[-1] - ends[-2]
            return len(ends) + int((step - ends[-1]) // last)
        return int(Fraction(step) // self.steps_at_epoch(Fraction(1), where))
