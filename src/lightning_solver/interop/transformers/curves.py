"""The schedules that are no cosines. ``W`` is the number of warm-up steps and ``T`` that of the training steps."""

from __future__ import annotations

import math
from fractions import Fraction

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Phases, length
from lightning_solver.interop.transformers.ask import Ask, relative_to_default
from lightning_solver.schedules import Constant, Inverse, Linear, Polynomial, Schedule


def constant(ask: Ask) -> Phases:
    """The group's own rate; a warm-up has no effect."""
    if ask.run.warmup:
        ask.notes.say("warmup", "has no effect with constant, as in transformers; constant_with_warmup has one")
    return Constant()


def constant_with_warmup(ask: Ask) -> Phases:
    """``t / W``, then 1."""
    return ask.run.warmed_up([], Constant())


def linear(ask: Ask) -> Phases:
    """``t / W``, then ``max(0, (T - t) / max(1, T - W))``."""
    run = ask.run
    if run.total is None or run.total - run.warmup >= 1:
        return run.warmed_up([(Linear(end=0.0), run.total)], HOLD)
    if run.total <= run.warmup:
        return run.warmed_up([], Constant(0.0))
    return run.warmed_up([(Linear(start=float(run.total - run.warmup), end=0.0), run.total)], HOLD)


def polynomial(ask: Ask) -> Phases:
    """``(1 - e) (1 - x) ** power + e`` with ``e = lr_end / lr``, of the optimiser's own rate."""
    run, arguments = ask.run, ask.arguments
    rate, power = arguments.number("lr_end", 1e-7, low=0), arguments.number("power", 1.0, low=0)
    end = relative_to_default(ask, "lr_end", rate)
    if end >= 1:
        got = f"{rate:g}, with a rate of {ask.default_lr(arguments.path('lr_end')):g}"
        raise SolverError(arguments.path("lr_end"), "must be below the optimiser's own rate", got=got, do="lower it")
    if run.total is not None and run.total <= run.warmup:
        if run.total == run.warmup == int(run.total) and run.steps is not None and run.steps > run.total:
            do = "make the warm-up shorter, or train longer"
            what = "transformers divides by zero at the end of a warm-up that takes all the steps"
            raise SolverError(run.where, what, got=str(run.total), do=do)
        return run.warmed_up([], Constant(end))
    if power == 0:  # 1 at T itself too, as 0 ** 0 is
        last = run.total if run.relative or run.total is None else Fraction(math.floor(run.total) + 1)
        return run.warmed_up([(Constant(), last)], Constant(end))
    curve: Schedule = Linear(end=end) if power == 1 else Polynomial(power=float(power), end=end)
    return run.warmed_up([(curve, run.total)], HOLD)


def inverse_sqrt(ask: Ask) -> Phases:
    """``t / W``, then ``1 / sqrt(1 + (t - W) / timescale)``; the time scale is ``W``, or 10000 without a warm-up."""
    scale = ask.arguments.number("timescale")
    if scale is not None and scale <= 0:
        raise SolverError(ask.arguments.path("timescale"), "must be > 0", got=repr(scale), do="correct it")
    if scale is None:
        scale = ask.run.warmup or 10_000
    return ask.run.warmed_up([], Inverse(every=length(scale), power=0.5))
