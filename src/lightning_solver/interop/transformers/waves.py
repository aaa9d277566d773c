"""The cosines. ``W`` is the number of warm-up steps and ``T`` that of the training steps."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

from lightning_solver.durations import Duration, exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Phases, length
from lightning_solver.interop.transformers.ask import Ask, Part, Run, relative_to_default
from lightning_solver.schedules import Constant, Cosine, Cycle, Linear, Over, Schedule, Shift


def cosine(ask: Ask) -> Phases:
    """``(1 + cos(2 pi c x)) / 2`` with ``x = (t - W) / max(1, T - W)``, which goes up and down for ever."""
    return ask.run.warmed_up(*_wave(ask, 0.0))


def cosine_with_min_lr(ask: Ask) -> Phases:
    """The same between the full rate and a lowest one."""
    return ask.run.warmed_up(*_wave(ask, _lowest(ask)))


def _lowest(ask: Ask) -> float:
    """The lowest rate as a factor: ``min_lr`` is relative to the optimiser's own rate, not to the group's."""
    arguments = ask.arguments
    rate, factor = arguments.number("min_lr", low=0), arguments.number("min_lr_rate", low=0)
    if (rate is None) == (factor is None):
        got = "neither" if rate is None else f"{rate!r} and {factor!r}"
        raise SolverError(arguments.path("min_lr"), "needs one of min_lr and min_lr_rate", got=got, do="give one")
    if factor is not None:
        return float(factor)
    return relative_to_default(ask, "min_lr", rate)


def _wave(ask: Ask, low: float) -> tuple[list[Part], Schedule]:
    """A cosine of ``num_cycles`` waves after the warm-up, and how it goes on."""
    run, cycles = ask.run, abs(exact(ask.arguments.number("num_cycles", 0.5)))
    if cycles == 0:
        return [], Constant()
    down, up = Cosine(end=low), Cosine(start=low, end=1.0)
    if run.decay is None:  # the run is of unknown length, and the schedule ends with it
        return [(down, None)] if cycles == Fraction(1, 2) else [(waves(down, up, _share(ask, cycles)), None)], HOLD
    wave = run.decay / cycles
    if cycles > Fraction(1, 2):
        return [], waves(down, up, length(wave))
    return [(down, run.warmup + wave / 2)], waves(up, down, length(wave))


def waves(first: Cosine, second: Cosine, every: int | str) -> Cycle:
    """Two half waves by turns."""
    return Cycle([first.ending("50%"), second], every=every)


def _share(ask: Ask, parts: Fraction) -> str:
    """The length of one of ``parts`` equal parts of what comes after the warm-up of a run of unknown length."""
    if parts < 1:
        ask.need_steps(ask.arguments.path("num_cycles"))
    terms: list[Any] = [(100 / parts, "%"), (-ask.run.warmup / parts, "st")]
    return str(Duration(tuple(term for term in terms if term[0])))


def cosine_with_restarts(ask: Ask) -> Phases:
    """``(1 + cos(pi (c x mod 1))) / 2``, and 0 from ``x = 1`` on."""
    run, cycles = ask.run, exact(ask.arguments.number("num_cycles", 1, low=0))
    if cycles == 0:
        return run.warmed_up([(Constant(), run.end)], Constant(0.0))
    if cycles == 1:
        return run.warmed_up([(Cosine(), run.end)], Constant(0.0))
    if run.decay is None:
        return run.warmed_up([(Cycle(Cosine(), every=_share(ask, cycles)), None)], HOLD)
    late = _late_restarts(run, cycles)
    if late is not None:
        ask.notes.say(ask.arguments.path("num_cycles"), "transformers restarts a step late here and there, by rounding")
        return run.warmed_up(late, Constant(0.0))
    return run.warmed_up([(Cycle(Cosine(), every=length(run.decay / cycles)), run.end)], Constant(0.0))


def _late_restarts(run: Run, cycles: Fraction) -> list[Part] | None:
    """The cycles one by one where rounding delays a restart: the floating-point ``c * x`` falls short of it."""
    assert run.decay is not None
    restarts = [run.warmup + run.decay * k / cycles for k in range(1, math.ceil(cycles))]
    first = [math.ceil(point) for point in restarts]  # steps
    for k, step in enumerate(first):
        if float(cycles) * (float(step - run.warmup) / float(run.decay)) < k + 1:
            first[k] += 1
    if first == [math.ceil(point) for point in restarts]:
        return None
    begins, ends = [run.warmup, *restarts], [*restarts, run.warmup + run.decay * math.ceil(cycles) / cycles]
    arcs = [Over(Cosine(), begin=length(begin), end=length(end)) for begin, end in zip(begins, ends)]
    return list(zip(arcs, [*map(Fraction, first), run.end]))


def cosine_warmup_with_min_lr(ask: Ask) -> Phases:
    """The cosine with a lowest rate, all of it one step ahead; its warm-up may begin at a rate of its own."""
    run, arguments = ask.run, ask.arguments
    if run.warmup.denominator != 1:
        what, do = "must be a whole number of steps for cosine_warmup_with_min_lr", "round it"
        raise SolverError("num_warmup_steps", what, got=str(float(run.warmup)), do=do)
    low, start = _lowest(ask), arguments.number("warmup_lr_rate", low=0)
    ask.notes.say(arguments.where, "cosine_warmup_with_min_lr is one step ahead of the other schedules")
    if start is None or run.warmup == 0:
        return Shift(run.warmed_up(*_wave(ask, low)), earlier=1)
    parts, after = _wave(ask, low)
    ends: list[Part] = [(part, "100%-1st" if end is None else Fraction(end) - 1) for part, end in parts]
    ahead = dataclasses.replace(run, relative=False)
    if run.relative and parts and parts[-1][1] == run.total:
        after = HOLD
    if run.warmup > 1:
        return ahead.phases([(Linear(start=float(start)), run.warmup - 1), *ends], after)
    # One step of warm-up: the cosine has begun, unseen, at that step.
    opening: Part = (Constant(float(start)), Fraction(1))
    if not ends:
        return ahead.phases([opening], Over(after, begin=0))
    if ends[0][1] == 1 and after is HOLD:  # the cosine ends where the warm-up does
        return ahead.phases([opening], Constant(low))
    arc = Over(
        ends[0][0], begin=0, end=ends[0][1] if isinstance(ends[0][1], str) else length(Fraction(ends[0][1] or 0))
    )
    return ahead.phases([opening, (arc, ends[0][1])], after)
