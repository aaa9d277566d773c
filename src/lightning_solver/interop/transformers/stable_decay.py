"""The schedule ``warmup_stable_decay``."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from lightning_solver.durations import Duration, exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Phases, length
from lightning_solver.interop.transformers.ask import Ask, Part
from lightning_solver.interop.transformers.waves import waves
from lightning_solver.schedules import Constant, Cosine, Linear, Over, Polynomial, Schedule, Shift


def warmup_stable_decay(ask: Ask) -> Phases:
    """A warm-up from ``m``, the full rate, and a decay to ``m``, each by a shape of its own."""
    run, arguments = ask.run, ask.arguments
    arguments.needed("num_decay_steps")
    decay = exact(arguments.number("num_decay_steps", low=0))
    stable = arguments.number("num_stable_steps")
    low = float(arguments.number("min_lr_ratio", 0.0, low=0))
    shapes = ("linear", "cosine", "1-sqrt")
    rising = arguments.choice("warmup_type", shapes, "linear")
    falling = arguments.choice("decay_type", shapes, "cosine")
    cycles = abs(exact(arguments.number("num_cycles", 0.5)))
    warmup: Part = (_RISING[rising](low), run.warmup)

    def curve(begin: Fraction | None) -> Schedule:
        if falling != "cosine":
            return Linear(end=low) if falling == "linear" else Polynomial(end=low, time_power=0.5)
        return _part_of_wave(cycles, low, begin, decay)

    if stable is None and run.total is None:
        if not run.relative:
            what = "needs one of num_training_steps and num_stable_steps"
            raise SolverError(arguments.path("num_stable_steps"), what, got="neither", do="give one")
        begin = str(Duration(((Fraction(100), "%"), (-decay, "st")))) if decay else None
        return run.phases([warmup, (Constant(), begin), (curve(None), None)], Constant(low))
    if stable is not None and run.total is not None:
        what = "num_stable_steps decides, not num_training_steps, as in transformers"
        ask.notes.say(arguments.path("num_stable_steps"), what)
    if stable is None:
        assert run.total is not None
        stable = run.total - run.warmup - decay
    first = run.warmup + exact(stable)  # step of the decay
    end = first + decay
    if first >= run.warmup:
        return run.phases([warmup, (Constant(), first), (curve(first), end)], Constant(low))
    ask.notes.say(
        arguments.path("num_decay_steps"), "the warm-up covers the beginning of the decay, as in transformers"
    )
    if end <= run.warmup:
        return run.phases([warmup], Constant(low))
    if first >= 0:
        return run.phases([warmup, (Over(curve(first), begin=length(first), end=length(end)), end)], Constant(low))
    begun = Shift(Over(curve(Fraction(0)), begin=0, end=length(decay)), earlier=length(-first))
    return run.phases([warmup, (begun, end)], Constant(low))


_RISING: dict[str, Callable[[float], Schedule]] = {
    "linear": lambda low: Linear(start=low),
    "cosine": lambda low: Cosine(start=low, end=1.0),
    "1-sqrt": lambda low: Polynomial(power=0.5, start=low, end=1.0),
}


def _part_of_wave(cycles: Fraction, low: float, begin: Fraction | None, steps: Fraction) -> Schedule:
    """A cosine of ``cycles`` waves over ``steps`` steps; ``begin`` is ``None`` where it ends with the run."""
    if cycles == 0:
        return Constant()
    if cycles == Fraction(1, 2) or not steps:
        return Cosine(end=low)
    if cycles > Fraction(1, 2):
        return waves(Cosine(end=low), Cosine(start=low, end=1.0), length(steps / cycles))
    half = steps / cycles / 2
    end = length(begin + half) if begin is not None else str(Duration(((Fraction(100), "%"), (half - steps, "st"))))
    return Over(Cosine(end=low), end=end)
