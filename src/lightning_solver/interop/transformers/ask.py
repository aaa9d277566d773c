"""A schedule that is asked for, and where it lies in its run.

``W`` is the number of warm-up steps and ``T`` that of the training steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from lightning_solver.interop.base import Notes, Phases, Settings, length, simple
from lightning_solver.schedules import Linear, Schedule

Part = tuple[Schedule, Fraction | str | None]
"""A phase without its end, and the end: a step, a duration, or ``None`` for that of a run of unknown length."""


@dataclass(frozen=True)
class Run:
    """Where a schedule lies in its run, in optimiser steps.

    Args:
        warmup: ``W``.
        total: ``T``; ``None`` where it is the unknown length of the run, or where there is none.
        relative: Whether the run ends where the schedule does, so that its last phase needs no end.
        steps: Length of the run, where a fact says it.
        where: Path of the key that says ``T``.
    """

    warmup: Fraction = Fraction(0)
    total: Fraction | None = None
    relative: bool = False
    steps: int | None = None
    where: str = "num_training_steps"

    @property
    def decay(self) -> Fraction | None:
        """Length of what comes after the warm-up, at least one step as transformers has it."""
        return None if self.total is None else max(self.total - self.warmup, Fraction(1))

    @property
    def end(self) -> Fraction | None:
        """Where it ends: ``T``, but after a warm-up that takes all of it a step later."""
        return None if self.decay is None else self.warmup + self.decay

    def phases(self, parts: Sequence[Part], after: Schedule) -> Phases:
        """The parts one after another, and what transformers does after them where the run reaches that."""
        written: list[Schedule] = []
        begin: Fraction | str | None = Fraction(0)
        for schedule, end in parts:
            if end is not None and end == begin:
                continue
            if self.relative and end == self.total:
                return simple([*written, schedule])
            assert end is not None
            written.append(schedule.ending(end if isinstance(end, str) else length(end)))
            begin = end
        return simple([*written, after])

    def warmed_up(self, parts: Sequence[Part], after: Schedule) -> Phases:
        """The same behind the straight warm-up from 0."""
        return self.phases([(Linear(start=0.0), self.warmup), *parts], after)

    def explain(self, policy: Policy, notes: Notes) -> None:
        """Say how long the run has to be."""
        if "num_training_steps" not in policy.order or self.total is None:
            return
        if self.relative:
            notes.say(self.where, f"the schedule is made for {self.total} steps: Trainer(max_steps={self.total})")
        elif self.steps is not None:
            what = "what transformers does after it is written out" if self.steps > self.total else "it is cut short"
            notes.say(self.where, f"the schedule is made for {self.total} steps, the run has {self.steps}: {what}")


@dataclass(frozen=True)
class Ask:
    """A schedule that is asked for.

    Args:
        name: Value of ``lr_scheduler_type``.
        arguments: The schedule's own arguments.
        given: The same as they are.
        run: Where it lies.
        default_lr: Gives the rate of the optimiser itself, for a key that needs it.
        need_steps: Raises the error that the length of the run has to be known, for a key that needs it.
        notes: Takes notes.
        monitor: Metric that a plateau follows.
        optimizer: Fields of the spec that say the optimiser and the groups.
    """

    name: str
    arguments: Settings
    given: Mapping[str, Any]
    run: Run
    default_lr: Callable[[str], float]
    need_steps: Callable[[str], Any]
    notes: Notes
    monitor: str = "eval_loss"
    optimizer: Mapping[str, Any] = field(default_factory=dict)


def relative_to_default(ask: Ask, key: str, rate: float) -> float:
    """A rate as a factor of the optimiser's own rate."""
    default = ask.default_lr(ask.arguments.path(key))
    what = f"is {rate:g} for a group at the optimiser's own rate of {default:g}, and in proportion for the others"
    ask.notes.say(ask.arguments.path(key), what)
    return float(Fraction(repr(rate)) / Fraction(repr(default)))


@dataclass(frozen=True)
class Policy:
    """A schedule of transformers.

    Args:
        function: The function that makes it.
        order: The function's arguments after the optimiser, in order.
        make: Gives the native schedule.
    """

    function: str
    order: tuple[str, ...]
    make: Callable[[Ask], Phases]
