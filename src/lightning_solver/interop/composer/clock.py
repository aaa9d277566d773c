"""The clock of a training: how long it is, and what its units come to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Settings, length
from lightning_solver.interop.composer.span import Span
from lightning_solver.interop.composer.times import Time


@dataclass(frozen=True)
class Clock:
    """The clock of a training: how long it is, and what its units come to.

    Args:
        given: ``max_duration`` as it is written.
        run: The same times ``ssr``, rounded down.
        ratio: ``ssr``.
        batches: Batches of an epoch, where it is known.
        samples: Samples of a batch, where it is known.
        steps: Batches of the run, where a fact says it.
        facts: What the config leaves open.
        notes: Takes notes.
    """

    given: Time | None
    run: Time | None
    ratio: float
    batches: int | None
    samples: Fraction | None
    steps: int | None
    facts: Facts
    notes: Notes

    @classmethod
    def of(cls, settings: Settings, ratio: float, facts: Facts, notes: Notes) -> Clock:
        """The clock of a trainer with these arguments."""
        given = run = None
        longest = settings.take("max_duration")
        if longest is not None:
            given = Time.parse(longest, "max_duration", whole="ep")
            if given.unit == "dur" or given.value == 0:
                do = "give a length such as 10ep or 1000ba"
                raise SolverError("max_duration", "is no length of a run", got=repr(longest), do=do)
            run = Time(int(given.value * ratio), given.unit)
            if run.value == 0:
                do = "give a higher scale_schedule_ratio, or a length in batches"
                raise SolverError("max_duration", f"is nothing once scaled by {ratio:g}", got=str(given), do=do)
        batches, samples, steps = (facts.get(name) for name in ("iters_per_epoch", "samples_per_iter", "total_iters"))
        return cls(
            given=given,
            run=run,
            ratio=float(ratio),
            batches=None if batches is None else int(batches),
            samples=None if samples is None else exact(samples),
            steps=None if steps is None else int(steps),
            facts=facts,
            notes=notes,
        )

    @property
    def length(self) -> Fraction | None:
        """Length of the run in batches by ``max_duration``, where it is known; the last one may be cut."""
        if self.run is None or self.run.unit == "ba":
            return None if self.run is None else Fraction(self.run.value)
        if self.run.unit == "ep":
            return None if self.batches is None else Fraction(self.run.value * self.batches)
        return None if self.samples is None else Fraction(self.run.value) / self.samples

    @property
    def agrees(self) -> bool:
        """Whether the run is as long as ``max_duration`` says, as far as is known."""
        return self.steps is None or self.length is None or math.ceil(self.length) == self.steps

    def explain(self) -> None:
        """Say how long the run has to be."""
        if self.run is None:
            what = "is not given: the schedule is made for the whole run, whatever its length"
        elif not self.agrees:
            what = f"is {self.run}, but the run has {self.steps} batches (facts.total_iters): ends are written out"
        elif self.run.unit == "ep":
            what = f"the schedule is made for {self.run}: Trainer(max_epochs={self.run.value})"
        elif self.length is not None:
            what = f"the schedule is made for {self.run}: Trainer(max_steps={math.ceil(self.length)})"
        else:
            what = f"the schedule is made for {self.run}: give the Trainer as many steps"
        self.notes.say("max_duration", what)

    def span(self, given: Any, where: str, *, scaled: bool = True) -> Span:
        """A time of the schedule as Composer converts it; ``scaled`` by ``ssr`` or not."""
        time = Time.parse(given, where)
        ratio = self.ratio if scaled else 1.0
        if time.unit == "dur":
            return self._share(float(time.value), where)
        if time.unit == "ep":
            epochs = exact(time.value) * exact(ratio)
            return self._whole_batches(epochs, lambda batches: int(time.value * batches * ratio), where)
        count = int(time.value * ratio)
        return self._batches(count) if time.unit == "ba" else self._samples(count)

    def _batches(self, count: int, text: int | str | None = None) -> Span:
        epochs = None if self.batches is None else Fraction(count, self.batches)
        whole = self.agrees and count == self.length
        return Span(count if text is None else text, "ba", count, Fraction(count), epochs, whole)

    def _samples(self, count: int, text: int | str | None = None) -> Span:
        if self.samples is None:
            return Span(f"{count}sp", "sp", count)
        steps = count / self.samples
        epochs = None if self.batches is None else steps / self.batches
        # The run goes on to the end of its last batch, the schedule does not.
        whole = self.agrees and self.run == Time(count, "sp") and steps.denominator == 1
        return Span(length(steps) if text is None else text, "sp", count, steps, epochs, whole)

    def _whole_batches(
        self, epochs: Fraction, count: Callable[[int], int], where: str, text: int | str | None = None
    ) -> Span:
        """A number of epochs, of which Composer makes whole batches by ``count`` of the batches of an epoch."""
        text = length(epochs, "ep") if text is None else text
        if self.batches is not None:
            batches = count(self.batches)
            return self._batches(batches, text if batches == epochs * self.batches else batches)
        if epochs.denominator != 1:
            self.facts.need("iters_per_epoch", where, f"is {float(epochs):g} epochs, rounded down to whole batches")
        whole = self.agrees and self.run is not None and self.run.unit == "ep" and epochs == self.run.value
        return Span(text, "ba", epochs=epochs, whole=whole)

    def _share(self, value: float, where: str) -> Span:
        """A share of the run, which Composer rounds down to whole batches, or samples."""
        run, share = self.run, exact(value)
        percent = length(share * 100, "%") if share <= 1 and self.agrees else None
        if run is None:
            if percent is None:
                raise SolverError(where, "is more than the whole run", got=f"{value:g}dur", do="give max_duration")
            if share not in (0, 1):
                self.notes.say(where, "Composer rounds it down to whole batches or samples of max_duration")
            return Span(percent, "ba", 0 if share == 0 else None, whole=share == 1, share=share)
        if run.unit == "ep":
            epochs = share * int(run.value)
            if self.batches is None and epochs.denominator == 1 and share.denominator & (share.denominator - 1):
                what = "Composer may round it down by one batch more; facts={'iters_per_epoch': ...} would tell"
                self.notes.say(where, what)
            return self._whole_batches(epochs, lambda batches: int(value * batches * run.value), where, percent)
        count = int(value * run.value)
        exactly = count == share * run.value
        if run.unit == "ba":
            return self._batches(count, percent if exactly else None)
        even = self.length is not None and self.length.denominator == 1
        return self._samples(count, percent if exactly and even else None)

    def covers(self, given: Any, span: Span, where: str) -> None:
        """Refuse a schedule with a warm-up that ends before the run: before it is scaled, and after."""
        time = Time.parse(given, where)
        for longest in (self.given, self.run):
            if longest is None:
                continue
            have: Fraction | int | float | None = span.count
            need = longest.value
            if time.unit == "dur":
                have, need = time.value, 1
            elif longest.unit == "ep" and span.unit == "ba":
                have = span.epochs
            elif longest.unit != span.unit:
                continue  # what cannot be compared is let through
            if have is not None and have < need:
                what = f"must be at least max_duration ({longest}), as Composer asks of a schedule with a warm-up"
                raise SolverError(
                    where, what, got=f"{given!r} (times {self.ratio:g})", do="lengthen it, or leave it out"
                )
