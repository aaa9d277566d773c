"""The schedules that follow a metric."""

from __future__ import annotations

import functools

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Phases, Settings, absolute
from lightning_solver.interop.transformers.ask import Ask
from lightning_solver.schedules import PerGroup, Plateau


def plateau(ask: Ask) -> Phases:
    """Torch's ``ReduceLROnPlateau``; a warm-up has no effect."""
    arguments = ask.arguments
    if ask.run.warmup:
        ask.notes.say("warmup", "has no effect with reduce_lr_on_plateau, as in transformers")
    factor = arguments.number("factor", 0.1)
    if not 0 < factor < 1:
        raise SolverError(arguments.path("factor"), "must lie between 0 and 1", got=repr(factor), do="correct it")
    lowest = ask.given.get("min_lr")
    make = functools.partial(
        Plateau,
        monitor=ask.monitor,
        mode=arguments.choice("mode", ("min", "max"), "min"),  # type: ignore[arg-type]
        factor=float(factor),
        patience=int(arguments.number("patience", 10, low=0)),
        threshold=float(arguments.number("threshold", 1e-4, low=0)),
        threshold_mode=arguments.choice("threshold_mode", ("rel", "abs"), "rel"),  # type: ignore[arg-type]
        cooldown=int(arguments.number("cooldown", 0, low=0)),
        eps=float(arguments.number("eps", 1e-8, low=0)),
    )
    if not isinstance(lowest, (list, tuple)):
        return make(min=absolute(arguments.number("min_lr", 0, low=0)))
    rates = Settings({str(i): rate for i, rate in enumerate(lowest)}, arguments.path("min_lr"), ask.notes)
    return PerGroup([make(min=absolute(rates.number(str(i), low=0))) for i in range(len(lowest))])


def greedy(ask: Ask) -> Phases:
    """Refused: there is no such schedule here."""
    do = "use reduce_lr_on_plateau, or a schedule that is known beforehand"
    what = "raises the rate whenever a metric improves, and starts over; there is no such schedule here"
    raise SolverError(ask.arguments.where, what, got="'greedy'", do=do)
