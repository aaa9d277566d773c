"""When a hook updates its average: it counts batches, an average here counts optimiser steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.interop.base import Settings, length


@dataclass(frozen=True)
class Updates:
    """The updates of a hook, as updates after optimiser steps.

    The weights are the same from a step to the next, so that the batches between them move an average towards the same
    point. All of these moves are one here, after the step: the average is then what the hook's is before the next step.

    Args:
        start: The step after which the first one is; ``0`` is before the first step.
        first: The same as a number, where that is known.
        every: How many steps lie between two.
        times: How many updates of the hook make one.
        batches: How many batches make an optimiser step.
        exact: Whether ``times`` is the same for all of them.
        even: Whether it is so for the very first one too, which copies the weights however often it is repeated.
    """

    start: int | str
    first: int | None
    every: int
    times: Fraction
    batches: Fraction
    exact: bool
    even: bool

    def decay(self, share: float) -> float:
        """The decay of one of these updates.

        Args:
            share: The share of the present weights in one update of the hook.
        """
        return float((1.0 - share) ** (self.times.numerator if self.times.denominator == 1 else self.times))

    def say(self, hook: Settings, peer: str, buffers: str | None = None) -> None:
        """Note what comes of counting steps.

        Args:
            hook: The settings of the hook.
            peer: What the peer is called.
            buffers: The key that says that buffers are averaged, which may change with every batch; ``None`` where it
                says that they are not.
        """
        if self.batches != 1 and buffers is not None:
            what = "is not mapped exactly: buffers that change with every batch are averaged after steps only"
            hook.notes.unmapped(hook.path(buffers), what)
        if self.batches != 1:
            what = f"counts batches, {self.batches} of which make one optimiser step: after a step the average is what"
            hook.notes.say(hook.where, f"{what} {peer}'s is before the next step")
        if not self.exact:
            what = f"is not mapped exactly, as neither {self.batches} batches of a step nor interval divides the other"
            hook.notes.unmapped(hook.path("interval"), f"{what}: the average moves after every step, equally fast")


def updates_of(batch: int, interval: int, per_step: Any, *, epochs: int = 0, per_epoch: Any = None) -> Updates:
    """The updates of a hook that makes its first one after some batch, and one every so many batches from there on.

    Args:
        batch: The batch of its first update, counted from 1; from the beginning of an epoch, if ``epochs`` is given.
        interval: Batches from one update to the next.
        per_step: How many batches make an optimiser step.
        epochs: How many epochs go before.
        per_epoch: Batches of an epoch, where that is known.

    Example:
        >>> updates_of(500, 2, 1).start, updates_of(500, 2, 4).start, updates_of(1, 2, 4).times
        (500, 125, Fraction(2, 1))
        >>> updates_of(1, 1, 1, epochs=3).start, updates_of(1, 1, 4, epochs=3).start
        ('3ep+1st', '3ep-0.5st')
    """
    by = exact(per_step)
    known: Fraction | int | None = batch
    start: int | str = math.floor(batch / by)
    if epochs:  # the last step that is over after that batch, written as what is rounded up to a whole step
        known = None if per_epoch is None else epochs * exact(per_epoch) + batch
        rest = (batch + 1 - by) / by
        amount = str(length(abs(rest))).removesuffix("st")
        start = f"{epochs}ep" if not rest else f"{epochs}ep{'+' if rest > 0 else '-'}{amount}st"
    first = None if known is None else math.floor(known / by)
    even = by == 1 or (known is not None and known % by == 0)
    ratio = interval / by
    if ratio.denominator == 1:
        return Updates(start, first, int(ratio), Fraction(1), by, True, True)
    return Updates(start, first, 1, 1 / ratio, by, ratio.numerator == 1, even)
