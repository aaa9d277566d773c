"""What every average has in common: when it takes in the weights, of which tensors, and what it is used for.

An average is a running one: after some of the real optimiser steps it moves towards the weights of that moment by a
share, ``average += share * (weights - average)``. A share of 1 copies them, one of 0 leaves the average as it is. The
share is a function of the number of the step, so that it can be drawn and nothing but counts has to be saved.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lightning_solver.durations import Duration, Rational, RunLength
from lightning_solver.errors import SolverError
from lightning_solver.plain import Plain
from lightning_solver.schedules.base import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lightning_solver.averaging.averaged import Averaged


@dataclass(frozen=True)
class UpdateBN(Plain):
    """How the running statistics of batch norms are estimated anew, for the averaged weights.

    Args:
        batches: How many batches of the training data each process looks at; all of an epoch by default.
        at: ``end`` of training, or before every ``validation`` too.
    """

    batches: int | None = None
    at: Literal["end", "validation"] = "end"

    def check(self) -> None:
        if self.batches is not None and self.batches < 1:
            raise self._error("batches", "must be at least 1", got=self.batches, do="correct it, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Average(Plain, ABC):
    """A running average of the weights.

    Steps are real optimiser steps, counted from 1: a step that a loss scaler skipped, or a batch without a loss, is
    none. Durations are those of the schedules (``500``, ``5ep``, ``75%``).

    Args:
        start: The number of steps after which the weights are taken in for the first time. ``0`` begins with the
            weights that the run begins with.
        until: The number of steps after which the weights are taken in for the last time; the average stays as it is
            then. By default the end of the run.
        every: How many steps lie between two updates; in epochs (``1ep``), the updates are at the ends of epochs.
        every_from: What steps between updates are counted from: the ``start`` of the average, or that of the ``run``,
            with which there is an update at ``start`` all the same. Ends of epochs are those of the run in any case.
        first: What the first update does: it copies the weights (``copy``), or takes in its share of them, the rest
            being the weights that the average was made of (``blend``).
        before: What the average is before ``start``: it follows the weights (``follow``), follows them at every update
            only (``every``), or stays what it was made of (``hold``). Whatever it is, nobody evaluates or keeps it
            before it has begun.
        only: Globs of the names of the parameters and buffers that are averaged; the others are used as they are.
        leave_out: Globs of names that are not averaged.
        buffers: ``average`` for floating-point buffers that are saved with the model, such as the statistics of batch
            norms; ``copy`` for the model's own ones at any time. Others (counts, masks, caches) are never averaged.
            With ``update_bn`` the statistics of batch norms are the average's own in any case.
        dtype: The type of the average: ``auto`` is float32 for weights in half precision and their own type otherwise,
            ``same`` is their own type, ``float32`` is that.
        device: Where the average lies: beside the weights (``same``), or on the ``cpu``, to which weights on a GPU are
            copied while training goes on.
        update_bn: Whether, and how, the statistics of batch norms are estimated anew for the averaged weights.
        evaluated: Whether this average is what is validated, tested, used for predictions and saved as the
            ``state_dict`` of checkpoints. At most one can be; by default the only one there is. The trained weights are
            evaluated where none is.
        evaluate_live: Whether validations and tests are made with the trained weights too; their metrics get the suffix
            ``_live``. A test of a checkpoint that is loaded for it has no trained weights.
        keep: What the module holds after ``fit``: the ``average`` that is evaluated, or the ``live`` weights.
        resume_from: What training goes on with after a checkpoint is loaded: the ``live`` weights, as if it had never
            stopped, or the ``average``.
        swap: ``auto`` exchanges the memory of weights and average where that is right and copies where it is not;
            ``copy`` always copies, for graphs that were captured by the user.
        snapshots: How often the average is written to a file of its own, for averages that are worked out after
            training (see ``PowerEMA``).
    """

    start: int | str = 1
    until: int | str | None = None
    every: int | str = 1
    every_from: Literal["start", "run"] = "start"
    first: Literal["copy", "blend"] = "copy"
    before: Literal["follow", "every", "hold"] = "follow"
    only: str | Sequence[str] | None = None
    leave_out: str | Sequence[str] | None = None
    buffers: Literal["average", "copy"] = "average"
    dtype: Literal["auto", "same", "float32"] = "auto"
    device: Literal["same", "cpu"] = "same"
    update_bn: bool | UpdateBN = False
    evaluated: bool | None = None
    evaluate_live: bool = False
    keep: Literal["average", "live"] = "average"
    resume_from: Literal["live", "average"] = "live"
    swap: Literal["auto", "copy"] = "auto"
    snapshots: int | str | None = None

    takes_last: ClassVar[bool] = False  # whether the weights at the end of the run are taken in, wherever that is

    def check(self) -> None:
        Duration.parse(self.start, f"{type(self).__name__}.start")
        if self.until is not None:
            Duration.parse(self.until, f"{type(self).__name__}.until")
        for field in ("every", "snapshots"):
            value = getattr(self, field)
            if value is not None:
                refuse_nothing(value, f"{type(self).__name__}.{field}")
        for field in ("only", "leave_out"):
            if getattr(self, field) == ():
                raise self._error(field, "is empty", got=[], do="give at least one glob, or leave it out")
        if self.evaluated is False:
            refuse_idle(self, type(self).__name__)

    @abstractmethod
    def share(self, moment: Moment) -> float:
        """The share of the present weights in an update, once the average has begun.

        Args:
            moment: The update.
        """

    def resolved(self, run: RunLength, where: str) -> Average:
        """The same with what :meth:`share` needs in steps.

        Args:
            run: The length of the run.
            where: The path of the average, for error messages.

        Raises:
            SolverError: The run does not know what a duration needs.
        """
        return self

    @property
    def needs_run(self) -> bool:
        """Whether something is said in a unit that only the length of the run gives a meaning."""
        fields = ("start", "until", "every", "half_life", "snapshots")
        given = [getattr(self, name, None) for name in fields]
        terms = [term for value in given if value is not None for term in Duration.parse(value).terms]
        return any(unit != "st" for _, unit in terms)

    def lay(self, run: RunLength | None = None, where: str = "average") -> Shares:
        """When this average takes in the weights, and how much of them, in a run.

        Args:
            run: The length of the run; not needed where all durations are in steps.
            where: The path of the average, for error messages.

        Raises:
            SolverError: The run does not know what a duration needs.
        """
        return Shares(self, run or RunLength(), where)

    def over(
        self,
        tensors: nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
        *,
        total_steps: int | None = None,
        steps_per_epoch: Rational | None = None,
        run: RunLength | None = None,
    ) -> Averaged:
        """This average of tensors, for any training loop: call ``update()`` on it after each optimiser step.

        Args:
            tensors: A module (its parameters, and its buffers as the average says), tensors by name, or tensors alone.
            total_steps: Optimiser steps of the run, where a duration needs it.
            steps_per_epoch: Optimiser steps of an epoch, where a duration needs it.
            run: The length of the run, in place of the two numbers.

        Raises:
            SolverError: The run does not know what a duration needs, or a glob matches nothing.

        Example:
            >>> import torch
            >>> from lightning_solver.averaging import EMA
            >>> weight = torch.zeros(1)
            >>> average = EMA(decay=0.5).over([weight])
            >>> for value in (1.0, 3.0):
            ...     _ = weight.fill_(value)
            ...     average.update()
            >>> average.values
            [tensor([2.])]
        """
        from lightning_solver.averaging.averaged import Averaged
        from lightning_solver.averaging.tensors import averaged_tensors

        run = run or RunLength(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        return Averaged(self, averaged_tensors(tensors, self), run)

    def curve(
        self,
        *,
        total_steps: int | None = None,
        steps_per_epoch: Rational | None = None,
        run: RunLength | None = None,
    ) -> Floats:
        """The share of the weights in the average, over a whole run.

        Returns:
            float64 array of shape (total_steps,): entry ``i`` is the share that the weights after step ``i`` (0-based)
            have in the update that follows it; 0 where none does.

        Raises:
            SolverError: The length of the run is not known.
        """
        run = run or RunLength(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        shares, count = self.lay(run), Count()
        shares.begin(count)
        values = np.zeros(int(run.known_total("total_steps")))
        for index in range(len(values)):
            values[index] = shares.take(count)
        return values


def check_name(name: object, where: str) -> None:
    """Refuse what cannot be the name of an average, and of its files.

    Args:
        name: The name.
        where: The path of the averages, for error messages.

    Raises:
        SolverError: It is no text of letters, digits, - and _.
    """
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_-]+", name):
        do = "give it a name of letters, digits, - and _"
        raise SolverError(where, "cannot be the name of an average", got=repr(name), do=do)


def find_evaluated(averages: Mapping[str, Average], where: str = "averages") -> str | None:
    """The name of the average that is evaluated; ``None`` if the trained weights are.

    Args:
        averages: The averages by name.
        where: Their path, for error messages.

    Raises:
        SolverError: It is not clear which one, or one that is not evaluated says what to do when it is.
    """
    chosen = [name for name, average in averages.items() if average.evaluated]
    open_ = [name for name, average in averages.items() if average.evaluated is None]
    if len(chosen) > 1 or (not chosen and len(open_) > 1):
        what = "only one of the averages can be evaluated, saved as state_dict and kept"
        do = "say evaluated: true for one of them"
        raise SolverError(where, what, got=", ".join(chosen or open_), do=do)
    name = next(iter(chosen or open_), None)
    for other, average in averages.items():
        if other != name:
            refuse_idle(average, f"{where}.{other}")
    return name


def refuse_idle(average: Average, where: str) -> None:
    """Refuse what only an average that is evaluated can have.

    Raises:
        SolverError: The average has it.
    """
    for field, idle in (("keep", "average"), ("evaluate_live", False)):
        value = getattr(average, field)
        if value != idle:
            what = "is for the average that is evaluated, and this one is not"
            raise SolverError(f"{where}.{field}", what, got=repr(value), do="drop it, or say evaluated: true here")


def refuse_nothing(duration: int | str, where: str) -> None:
    """Refuse a length of nothing, and what is no duration.

    Raises:
        SolverError: It is one of the two.
    """
    if all(value == 0 for value, _ in Duration.parse(duration, where).terms):
        raise SolverError(where, "must be longer than nothing", got=repr(duration), do="give a length > 0")


@dataclass
class Count:
    """How far an average has come; all that has to be saved beside its tensors.

    Args:
        steps: Real optimiser steps so far.
        began: The step after which the average began; ``None`` before.
        updates: Updates so far, that with which it began included.
        latest: The step of the latest update, or of what the average was made of.
    """

    steps: int = 0
    began: int | None = None
    updates: int = 0
    latest: int = 0


@dataclass(frozen=True)
class Moment:
    """An update of an average.

    Args:
        step: The real optimiser step that it follows, counted from 1.
        since: Steps since the average began; 0 in the update with which it does.
        elapsed: Steps since the update before, or since the average was made.
        updates: Updates before this one.
    """

    step: int
    since: int
    elapsed: int
    updates: int


class Grid:
    """The steps at which something happens that happens every so often.

    Args:
        every: How often; in epochs, at the ends of epochs.
        run: The length of the run.
        start: The step that the others are counted from, where ``every`` is not in epochs.
        where: Its path, for error messages.

    Example:
        >>> [step for step in range(12) if Grid("1ep", RunLength(steps_per_epoch=4), 0, "every").due(step)]
        [4, 8]
    """

    def __init__(self, every: int | str, run: RunLength, start: int, where: str) -> None:
        duration = Duration.parse(every, where)
        self._run, self._start, self._epochs = run, start, duration.epochs
        self._steps = Fraction(1)
        if self._epochs is None:
            self._steps = duration.length(run, where)
        else:
            run.steps_at_epoch(self._epochs, where)
        self.always = self._epochs is None and self._steps <= 1
        self._known = (-1, -1)  # a step, and the first one from it on at which it happens

    def due(self, step: int) -> bool:
        """Whether it happens after a step (counted from 1; 0 is before the first)."""
        if self.always:
            return True
        low, high = self._known
        if not low <= step <= high:
            high = self.next(step)
            self._known = (step, high)
        return step == high and step > 0

    def next(self, step: int) -> int:
        """The first step from this one on at which it happens."""
        if self._epochs is None:
            which = math.floor((step - 1 - self._start) / self._steps) + 1  # the first point after the step before
            return math.ceil(self._start + which * self._steps)
        which = math.ceil(self._run.epochs_at_step(Fraction(step)) / self._epochs)
        before = math.ceil(self._run.steps_at_epoch(max(which - 1, 0) * self._epochs))
        return before if before >= step else math.ceil(self._run.steps_at_epoch(which * self._epochs))


class Shares:
    """When an average takes in the weights in a run, and how much of them.

    Args:
        average: The average.
        run: The length of the run.
        where: The path of the average, for error messages.

    Attributes:
        start: The step with whose weights it begins.
        until: The last step whose weights it may take in; ``None``: there is no such limit.
    """

    def __init__(self, average: Average, run: RunLength, where: str = "average") -> None:
        self._average = average.resolved(run, where)
        self.start = math.ceil(Duration.parse(average.start, f"{where}.start").resolve(run, f"{where}.start"))
        self.until = None
        if average.until is not None:
            self.until = math.floor(Duration.parse(average.until, f"{where}.until").resolve(run, f"{where}.until"))
        self._from_run = average.every_from == "run"
        self._grid = Grid(average.every, run, 0 if self._from_run else self.start, f"{where}.every")
        self._end = run.total_steps
        self._updates: dict[int, int] = {}  # by the length of a run
        self._snapshots = None
        if average.snapshots is not None:
            self._snapshots = Grid(average.snapshots, run, 0, f"{where}.snapshots")

    @property
    def first(self) -> int:
        """The step of the first update."""
        if self.start == 0 and self._copies_first():
            return 0
        if self._from_run:
            return max(self.start, 1)
        step = self._grid.next(max(self.start, 1))
        return step if self._end is None or not self._average.takes_last else min(step, max(self.start, int(self._end)))

    def due(self, step: int) -> bool:
        """Whether an update follows a step (counted from 1; 0 is before the first)."""
        if step < self.start or (self.until is not None and step > self.until):
            return False
        extra = (self._from_run and step == self.start) or (self._average.takes_last and step == self._end)
        return extra or self._grid.due(step)

    def snapshot_due(self, step: int) -> bool:
        """Whether the average is written to a file after a step."""
        return self._snapshots is not None and (self._snapshots.due(step) or step == self._end)

    def updates(self, total: int) -> int:
        """How many updates there are in a run.

        Args:
            total: Its length in steps.
        """
        if total not in self._updates:
            self._updates[total] = self._count_updates(total)
        return self._updates[total]

    def _count_updates(self, total: int) -> int:
        last = total if self.until is None else min(total, self.until)
        copied, start = int(self.start == 0 and self._copies_first()), max(self.start, 1)
        if self._grid.always:
            return max(last - start + 1, 0) + copied
        step, found = start, copied
        while (step := self._grid.next(step)) <= last:
            found, step = found + 1, step + 1
        extra = {total} if self._average.takes_last and total == self._end else set()
        extra |= {start} if self._from_run and self.start else set()
        return found + sum(start <= step <= last and not self._grid.due(step) for step in extra)

    def begin(self, count: Count) -> bool:
        """Begin, if the average begins with the weights that are there before the next step.

        Returns:
            Whether the weights are to be copied.
        """
        if count.began is not None or self.start > count.steps or not self._copies_first():
            return False
        if self.until is not None and count.steps > self.until:
            return False
        count.began = count.latest = count.steps
        count.updates = 1
        return True

    def take(self, count: Count, steps: int = 1) -> float:
        """Count steps, and give the share of the present weights in the update after them; 0 if there is none.

        Args:
            count: How far the average has come; it is moved on.
            steps: How many steps were made since the last call.
        """
        share = 0.0
        for _ in range(steps):
            count.steps += 1
            own = self._share(count)
            share = own if share == 0.0 else 1.0 - (1.0 - share) * (1.0 - own)
        return share

    def conclude(self, count: Count) -> float:
        """The share of the weights at the end of a run that ended earlier than was planned; 0 if they are not due.

        Args:
            count: How far the average has come; it is moved on.
        """
        step = count.steps
        inside = self.start <= step and (self.until is None or step <= self.until)
        seen = count.began is not None and count.latest == step
        return self._take_in(count) if self._average.takes_last and inside and not seen else 0.0

    def _share(self, count: Count) -> float:
        step = count.steps
        if count.began is None and not self.due(step):
            share = self._before(step)
            count.latest = step if share else count.latest
            return share
        return self._take_in(count) if self.due(step) else 0.0

    def _take_in(self, count: Count) -> float:
        """An update after the present step."""
        step = count.steps
        first = count.updates == 0
        if first:
            count.began = step
        elapsed, count.latest = step - count.latest, step
        began = count.began if count.began is not None else step
        moment = Moment(step, step - began, elapsed, count.updates)
        count.updates += 1
        return 1.0 if first and self._copies_first() else self._average.share(moment)

    def _copies_first(self) -> bool:
        return self._average.first == "copy"

    def _before(self, step: int) -> float:
        if self._average.before == "hold":
            return 0.0
        return 1.0 if self._average.before == "follow" else float(self._grid.due(step))


def globs(patterns: Any) -> tuple[str, ...]:
    """A glob, several or none as a tuple.

    Example:
        >>> globs("head.*"), globs(None)
        (('head.*',), ())
    """
    return () if patterns is None else (patterns,) if isinstance(patterns, str) else tuple(patterns)
