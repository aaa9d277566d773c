"""The schedulers that begin with a warm-up of length ``W``."""

from __future__ import annotations

import dataclasses

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Phases, single
from lightning_solver.interop.composer.ask import Ask, Part, joined
from lightning_solver.interop.composer.curves import multi_step, power_curve
from lightning_solver.interop.composer.span import Span
from lightning_solver.interop.composer.times import Time
from lightning_solver.schedules import Constant, Cosine, Inverse, Linear, Over, Schedule, Sum


def _ramp(ask: Ask, top: float) -> tuple[list[Part], Span]:
    """The warm-up from 0, and where it ends; with ``scale_warmup`` its slope is scaled, but not its end."""
    scale = ask.arguments.flag("scale_warmup", False)
    end = ask.span("t_warmup", scaled=False, empty=True)
    if end.empty:
        ask.notes.say(ask.arguments.path("t_warmup"), "is nothing: there is no warm-up")
        return [], end
    slope = ask.span("t_warmup") if scale else end
    ramp, where = Linear(start=0.0, end=top), ask.arguments.path("scale_warmup")
    if slope.before(end):
        ask.notes.say(where, "the slope of the warm-up is scaled, not its end: the rate is held in between")
        return [(ramp, dataclasses.replace(slope, whole=False)), (Constant(top), end)], end
    if end.before(slope) and slope.place([slope, end]) is not None:
        ask.notes.say(where, "the slope of the warm-up is scaled, not its end: the rate jumps there")
        return [(Over(ramp, end=slope.text), end)], end
    return [(ramp, end)], end


def _warmed_up(ask: Ask, top: float, curve: Schedule) -> Phases:
    """A warm-up to ``top``, and a curve from there to ``t_max``."""
    ramp, warmup = _ramp(ask, top)
    end, where = ask.span("t_max", "1dur", empty=True), ask.arguments.path("t_max")
    if ask.clock.run is not None and warmup.unit != end.unit:
        got = f"t_warmup in {warmup.unit}, t_max in {end.unit}"
        do = "give both in one unit; dur counts what max_duration does, in batches where that is in epochs"
        raise SolverError(where, "must be in the unit of t_warmup", got=got, do=do)
    ask.clock.covers(ask.arguments.take("t_max", "1dur"), end, where)
    if isinstance(curve, Constant) or not ask.before(warmup, end):
        return joined(ramp, Constant(top))
    return joined([*ramp, (curve, end)], HOLD)


def multi_step_with_warmup(ask: Ask) -> Phases:
    """A warm-up, then the milestones, which count from the start of the run."""
    return joined(_ramp(ask, 1.0)[0], single(multi_step(ask)))


def constant_with_warmup(ask: Ask) -> Phases:
    """A warm-up to ``alpha``, which stays."""
    alpha = ask.factor("alpha", 1.0)
    return _warmed_up(ask, alpha, Constant(alpha))


def linear_with_warmup(ask: Ask) -> Phases:
    """A warm-up to ``alpha_i``, then a line to ``alpha_f``."""
    first, last = ask.factor("alpha_i", 1.0), ask.factor("alpha_f", 0.0)
    return _warmed_up(ask, first, Constant(first) if first == last else Linear(start=first, end=last))


def cosine_with_warmup(ask: Ask) -> Phases:
    """A warm-up, then half a cosine."""
    return _warmed_up(ask, 1.0, Cosine(end=ask.factor("alpha_f", 0.0)))


def polynomial_with_warmup(ask: Ask) -> Phases:
    """A warm-up, then a polynomial."""
    return _warmed_up(ask, 1.0, power_curve(ask, 2.0))


def inverse_sqrt_with_warmup(ask: Ask) -> Phases:
    """llm-foundry's: a warm-up, ``f + (1 - f) / sqrt(1 + (t - W) / t_scale)``, and a straight cool-down at the end."""
    arguments, clock = ask.arguments, ask.clock
    floor, last = ask.factor("alpha_f_decay", 0.0), ask.factor("alpha_f_cooldown", 0.0)
    if floor < last:
        got = f"{floor:g} and {last:g}"
        raise SolverError(arguments.path("alpha_f_decay"), "lies below alpha_f_cooldown", got=got, do="swap them")
    for key in ("t_warmup", "t_scale", "t_cooldown"):
        unit = Time.parse(arguments.needed(key), arguments.path(key)).unit
        if unit == "dur" or (clock.given is not None and unit != clock.given.unit):
            do = "give it in ep, ba or sp, as max_duration is"
            raise SolverError(arguments.path(key), "must be in the unit of max_duration", got=unit, do=do)
    warmup, scale = ask.span("t_warmup", scaled=False, empty=True), ask.span("t_scale")
    end, cooldown = ask.span("t_max", "1dur", empty=True), ask.span("t_cooldown", empty=True)
    decay: Schedule = Inverse(every=scale.text, power=0.5, start=1.0 - floor)
    if floor:
        decay = Sum([Constant(floor), decay])
    ramp: list[Part] = [(Linear(start=0.0), warmup)]
    if clock.run is not None and end.unit != warmup.unit:
        do = f"give it in {clock.run.unit}, or as a share of the run"
        raise SolverError(arguments.path("t_max"), "must be in the unit of max_duration", got=end.unit, do=do)
    begin = end if cooldown.empty else ask.moved(end, cooldown, -1)
    if not ask.before(warmup, begin):
        fall = (Linear(end=last), ask.moved(warmup, cooldown, 1))
        return joined(ramp, Constant()) if cooldown.empty else joined([*ramp, fall], HOLD)
    if cooldown.empty:
        return joined([*ramp, (decay, end)], HOLD)
    return joined([*ramp, (decay, begin), (Linear(start="previous", end=last), end)], HOLD)
