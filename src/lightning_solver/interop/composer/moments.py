"""When an algorithm that waits for a time is asked first: at the end of a batch, or of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import length
from lightning_solver.interop.composer.clock import Clock
from lightning_solver.interop.composer.times import Time


@dataclass(frozen=True)
class Moment:
    """An end of a batch or of an epoch.

    Args:
        text: As a duration; where epochs are counted, the end of an epoch that follows it.
        count: Its number, from 1, in what is counted; ``None`` where that is not known.
    """

    text: int | str
    count: int | None = None


@dataclass(frozen=True)
class Moments:
    """The ends of batches or epochs at which an algorithm is asked.

    At the end of a batch the clock has its number already, but its epoch is not over, not even after the last batch of
    it. So what begins after an epoch begins with the first batch of the next one; the same holds for a share of a run
    that is given in epochs.

    Args:
        clock: The clock of the training.
        by_epoch: Whether it is asked at the ends of epochs.
    """

    clock: Clock
    by_epoch: bool

    @property
    def run(self) -> Time | None:
        """The length of the run; of whole epochs unless it is known to be of something else."""
        clock = self.clock
        if clock.run is not None:
            return clock.run
        epochs = clock.facts.get("epochs")
        if epochs is None and clock.steps is not None and clock.batches is not None:
            epochs = Fraction(clock.steps, clock.batches)
        if epochs is not None and exact(epochs).denominator == 1:
            return Time(int(epochs), "ep")
        return None if clock.steps is None else Time(clock.steps, "ba")

    @property
    def total(self) -> int | None:
        """How many there are in the run; an epoch that its end cuts short has none."""
        epochs = self._epochs
        if self.by_epoch:
            return None if epochs is None else math.floor(epochs)
        return None if self._batches is None else math.ceil(self._batches)

    @property
    def even(self) -> bool:
        """Whether the run ends with one."""
        return not self.by_epoch or self._epochs is None or self._epochs.denominator == 1

    @property
    def _epochs(self) -> Fraction | None:
        run, batches = self.run, self._batches
        if run is not None and run.unit == "ep":
            return Fraction(int(run.value))
        return None if batches is None or self.clock.batches is None else batches / self.clock.batches

    @property
    def _batches(self) -> Fraction | None:
        clock, run = self.clock, self.run
        if clock.steps is not None:
            return Fraction(clock.steps)
        if run is not None and run.unit == "ep" and clock.batches is not None:
            return Fraction(int(run.value) * clock.batches)
        return clock.length

    def first(self, time: Time, where: str) -> Moment:
        """The first one at which a time has been reached.

        Args:
            time: The time.
            where: Its path.

        Raises:
            SolverError: It lies beyond the run, or its length in batches has to be known.
        """
        if time.value == 0:
            return self._at(1)
        if time.unit == "dur":
            return self._share(float(time.value), where)
        if time.unit == "ep":
            return self._epoch(int(time.value))
        return self._batch(int(time.value) if time.unit == "ba" else math.ceil(time.value / self._samples(where)))

    def _samples(self, where: str) -> Fraction:
        return exact(self.clock.facts.need("samples_per_iter", where, "is in samples"))

    def _at(self, count: int) -> Moment:
        return Moment(length(count, "ep" if self.by_epoch else "st"), count)

    def _epoch(self, epoch: int) -> Moment:
        """The first one after the end of an epoch, or that end itself."""
        if self.by_epoch:
            return self._at(epoch)
        if self.clock.batches is None:
            return Moment(f"{epoch}ep+1st")
        return self._at(epoch * self.clock.batches + 1)

    def _batch(self, batch: int) -> Moment:
        if not self.by_epoch:
            return self._at(batch)
        if self.clock.batches is None:
            return Moment(batch)
        return self._at(-(-batch // self.clock.batches))

    def _share(self, share: float, where: str) -> Moment:
        """The first one with ``share`` of the run behind it, as floats compare."""
        run = self.run
        if share > 1:
            do = "give a share of the run, such as 0.5dur"
            raise SolverError(where, "lies beyond the end of the run", got=f"{share:g}dur", do=do)
        percent = length(exact(share) * 100, "%")
        if run is None:
            if self.by_epoch:
                return Moment(percent)
            self.clock.notes.say(where, "is taken to be a whole number of epochs: max_duration would tell")
            return Moment(f"{percent}+1st")
        of = int(run.value)
        if run.unit == "ep":
            return self._epoch(_least(share, of))
        if run.unit == "ba":
            return self._batch(_least(share, of))
        return self._batch(math.ceil(_least(share, of) / self._samples(where)))


def _least(share: float, of: int) -> int:
    """The least ``k`` for which ``k / of`` is no less than ``share``, as floats compare."""
    k = math.ceil(share * of)
    while k > 0 and (k - 1) / of >= share:
        k -= 1
    while k / of < share:
        k += 1
    return k
