"""Gradient accumulation: how many batches make an optimiser step, and where the steps of a run then lie."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import Duration
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.plain import Plain

Amount = int | dict[int | str, int]

_FIELDS = ("batches", "samples", "weigh_by", "keep_gradients")


@dataclass(frozen=True)
class Accumulation(Plain):
    """How many batches make an optimiser step.

    A window is the batches of one step. It never reaches into the next epoch, and its gradient is the mean over what it
    really holds: the last window of an epoch, if it is short, is divided by its own length.

    Args:
        batches: The number of batches, or a mapping of points of the run to numbers: ``{0: 1, 5ep: 4}`` takes 4 from
            the sixth epoch on, ``{0: 1, 1000: 4}`` from step 1000 (0-based) on. Points are all in epochs or all in
            optimiser steps; a window that has begun is finished first.
        samples: In place of ``batches``: the samples of a step over all devices, a multiple of those of one batch.
        weigh_by: What batches count by, where it is not equally: the name of an attribute of the module, a number that
            ``training_step`` sets (of tokens, say), or of a method that gives it for a batch. The loss must be a mean
            over what is counted, finite also where that is nothing; batches of a window, over all devices, are then
            weighted as one large batch would be.
        keep_gradients: Whether a checkpoint in mid-window holds the gradients gathered so far, of every process, so
            that a resumed run is bitwise the straight one. Without them the rest of the window makes the step.
    """

    batches: Amount | None = None
    samples: Amount | None = None
    weigh_by: str | None = None
    keep_gradients: bool = False

    def check(self) -> None:
        if self.batches is not None and self.samples is not None:
            got = f"batches {self.batches!r} and samples {self.samples!r}"
            raise SolverError("Accumulation.batches", "is given beside samples", got=got, do="give one of them")
        for field in ("batches", "samples"):
            if getattr(self, field) is not None:
                milestones(getattr(self, field), f"Accumulation.{field}")
        if self.weigh_by is not None and not self.weigh_by.isidentifier():
            do = "give the name of an attribute or a method of the module"
            raise self._error("weigh_by", "is not a name", got=self.weigh_by, do=do)

    @property
    def constant(self) -> int | None:
        """The number of batches, where it is written as one number for the whole run."""
        if self.samples is not None:
            return None
        if self.batches is None or isinstance(self.batches, int):
            return self.batches or 1
        amounts = set(self.batches.values())
        return amounts.pop() if len(amounts) == 1 else None

    @property
    def first(self) -> int | None:
        """The number of batches with which a run begins; ``None`` for a target in samples."""
        if self.samples is not None:
            return None
        return next(iter(self.batches.values())) if isinstance(self.batches, Mapping) else self.batches or 1

    def windows(self, samples_per_batch: int | None, where: str = "accumulate") -> Windows:
        """The windows, in batches.

        Args:
            samples_per_batch: Samples of a batch over all devices.
            where: The path of the setting, for error messages.

        Raises:
            SolverError: ``samples`` that no whole number of batches makes, or batches of unknown size.
        """
        if self.samples is None:
            return Windows.of(milestones(self.batches or 1, where))
        if samples_per_batch is None:
            do = "give batches, or a loader with a batch size"
            raise SolverError(f"{where}.samples", "needs the number of samples of a batch, which is not known", do=do)
        found = []
        for point, samples in milestones(self.samples, f"{where}.samples"):
            if samples % samples_per_batch:
                below = samples - samples % samples_per_batch
                near = [str(one) for one in (below, below + samples_per_batch) if one]
                what = f"is no multiple of the {samples_per_batch} samples of a batch over all devices"
                raise SolverError(f"{where}.samples", what, got=str(samples), do=f"give {' or '.join(near)}")
            found.append((point, samples // samples_per_batch))
        return Windows.of(found)

    def describe(self) -> str:
        """The accumulation in a few words, as tables show it.

        Example:
            >>> Accumulation({0: 1, "5ep": 4}).describe()
            '1 batch a step, 4 from 5ep on'
        """
        of_batches = self.samples is None
        amount = (self.batches or 1) if of_batches else self.samples
        pairs = [*amount.items()] if isinstance(amount, Mapping) else [(0, amount)]
        word = "batch" if of_batches else "sample"
        first = pairs[0][1]
        plural = "" if first == 1 else "es" if of_batches else "s"
        told = [f"{first} {word}{plural} a step", *(f"{number} from {point} on" for point, number in pairs[1:])]
        told += [f"weighted by {self.weigh_by}"] if self.weigh_by else []
        return ", ".join(told)


def milestones(amount: Amount, where: str) -> list[tuple[Duration, int]]:
    """Points of the run, in order, and the amounts from there on.

    Args:
        amount: A number, or a mapping of points to numbers.
        where: Its path, for error messages.

    Raises:
        SolverError: Points that are not in order or of several units, no first one, or numbers below 1.
    """
    pairs: Mapping[Any, int] = amount if isinstance(amount, Mapping) else {0: amount}
    if not pairs:
        raise SolverError(where, "names no point", got="{}", do="begin with 0, as in {0: 1, 5ep: 4}, or leave it out")
    found: list[tuple[Duration, int]] = []
    unit: str | None = None
    for point, number in pairs.items():
        path = f"{where}.{point}" if isinstance(amount, Mapping) else where
        if number < 1:
            raise SolverError(path, "must be at least 1", got=str(number), do="correct it")
        if isinstance(point, str) and point.isidentifier():  # a duration begins with a number
            do = f"{suggestion(point, _FIELDS, 'keys')}; or give points of the run such as 5ep or 1000"
            raise SolverError(path, "unknown key", got=repr(point), do=do)
        duration = Duration.parse(point, path)
        ((value, own),) = duration.terms if len(duration.terms) == 1 else ((Fraction(-1), ""),)
        if own not in ("st", "ep") or value < 0:
            do = "give points such as 5ep (epochs) or 1000 (optimiser steps)"
            raise SolverError(path, "is not a point in epochs or in optimiser steps", got=str(point), do=do)
        if value and unit not in (None, own):
            do = "give all points in epochs, or all in steps"
            raise SolverError(path, "is in another unit than a point before it", got=str(point), do=do)
        unit = own if value else unit
        if found and value <= found[-1][0].terms[0][0]:
            raise SolverError(path, "does not come after the point before it", got=str(point), do="put them in order")
        found.append((duration, number))
    if not found or found[0][0].terms[0][0] != 0:
        got = next(iter(pairs), None)
        do = "begin with 0, as in {0: 1, 5ep: 4}"
        raise SolverError(where, "does not say what holds from the start", got=str(got), do=do)
    return found


@dataclass(frozen=True)
class Windows:
    """How many batches make a step, along a run.

    Args:
        unit: What the points are in: ``st``, optimiser steps, or ``ep``, epochs.
        starts: The points from which on each size holds; the first is 0.
        sizes: The sizes, in batches.
    """

    unit: str
    starts: tuple[Fraction, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, points: list[tuple[Duration, int]]) -> Windows:
        """From points and sizes; see :func:`milestones`.

        Args:
            points: Them.
        """
        terms = [duration.terms[0] for duration, _ in points]
        unit = terms[-1][1] if len(terms) > 1 else "st"
        return cls(unit, tuple(Fraction(value) for value, _ in terms), tuple(size for _, size in points))

    @property
    def constant(self) -> int | None:
        """The size, where it never changes."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None

    @property
    def within_epochs(self) -> bool:
        """Whether a size may change within an epoch by a point that is in epochs: their length must be known then."""
        return self.unit == "ep" and any(start.denominator != 1 for start in self.starts)

    def size_at(self, step: int, epoch: int, batch: int, batches: int | None) -> int:
        """The size of a window that begins now.

        Args:
            step: The number of the optimiser step (0-based).
            epoch: The number of the epoch (0-based).
            batch: The number of the batch in the epoch (0-based).
            batches: Batches of the epoch; ``None`` if that is not known.
        """
        if len(self.sizes) == 1:
            return self.sizes[0]
        position = Fraction(step) if self.unit == "st" else Fraction(epoch)
        if self.unit == "ep" and batch and batches:
            position += Fraction(batch, batches)
        index = max(i for i, start in enumerate(self.starts) if start <= position)
        return self.sizes[index]

    def steps_in_epoch(self, step: int, epoch: int, batches: int, *, whole_only: bool = False) -> int:
        """How many optimiser steps an epoch makes.

        Args:
            step: The number of its first step (0-based).
            epoch: The number of the epoch (0-based).
            batches: Its batches.
            whole_only: Whether a short window at its end makes none.
        """
        batch, made = 0, 0
        while batch < batches:
            size = self.size_at(step + made, epoch, batch, batches)
            left = math.ceil(Fraction(batches - batch, size))
            until = self._until(step + made, epoch, batch, batches, size)
            count = left if until is None else max(1, min(left, until))
            batch += count * size
            made += count
        return made - 1 if whole_only and batch > batches and made > 1 else made

    def _until(self, step: int, epoch: int, batch: int, batches: int, size: int) -> int | None:
        """How many windows begin before the next point."""
        position = Fraction(step) if self.unit == "st" else epoch + Fraction(batch, batches)
        later = [start for start in self.starts if start > position]
        if not later:
            return None
        if self.unit == "st":
            return math.ceil(later[0] - position)
        return math.ceil((later[0] - position) * batches / size)


class Accumulates(ABC):
    """What accumulates gradients in a run: the one among the Trainer's callbacks says how many batches make a step."""

    @property
    def where(self) -> str:
        """The path of the setting, for error messages."""
        return "accumulate"

    @abstractmethod
    def accumulation(self, module: Any) -> Accumulation | None:
        """How it accumulates for a module; ``None`` if it does not.

        Args:
            module: The LightningModule.
        """
