"""The schedulers without a warm-up; ``T`` is the length of the schedule."""

from __future__ import annotations

import math
from fractions import Fraction

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import HOLD, Phases, length, simple
from lightning_solver.interop.composer.ask import Ask, joined
from lightning_solver.interop.composer.span import Span
from lightning_solver.schedules import (
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Linear,
    MultiStep,
    Polynomial,
    Product,
    Schedule,
    Step,
)


def step(ask: Ask) -> Phases:
    """``gamma ** floor(t / step_size)``."""
    return Step(every=ask.span("step_size").text, gamma=ask.gamma())


def multi_step(ask: Ask) -> Phases:
    """``gamma`` for every milestone that is reached, in any order, one given twice counting twice."""
    given = ask.arguments.needed("milestones")
    if not isinstance(given, (list, tuple)):
        raise SolverError(ask.arguments.path("milestones"), "must be a list", got=repr(given), do="write [6ep, 9ep]")
    paths = [f"{ask.arguments.path('milestones')}[{i}]" for i in range(len(given))]
    spans = [ask.clock.span(time, path) for time, path in zip(given, paths)]
    spans_given = list(spans)
    if len(spans) > 1 and spans[0].place(spans) is None:
        fact = (
            "samples_per_iter" if ask.clock.samples is None and "sp" in {s.unit for s in spans} else "iters_per_epoch"
        )
        fact = "total_iters" if ask.clock.run is None else fact
        ask.clock.facts.need(fact, ask.arguments.path("milestones"), "are to be sorted, by their length in batches")
        do = "give max_duration, or the milestones in one unit"
        raise SolverError(ask.arguments.path("milestones"), "cannot be compared", got=repr(given), do=do)
    spans.sort(key=lambda span: span.place(spans_given) or Fraction(0))
    layers: list[list[Span]] = []  # each with every milestone once
    for span in spans:
        layer = next((layer for layer in layers if layer[-1].before(span)), None)
        layers.append([span]) if layer is None else layer.append(span)
    curves = [MultiStep(at=[span.text for span in layer], gamma=ask.gamma()) for layer in layers]
    return Product(curves) if len(curves) > 1 else curves[0] if curves else Constant()


def constant(ask: Ask) -> Phases:
    """``alpha`` until ``t_max``, then 1."""
    alpha, end = ask.factor("alpha", 1.0), ask.span("t_max", "1dur", empty=True)
    return Constant() if alpha == 1 else joined([(Constant(alpha), end)], Constant())


def linear(ask: Ask) -> Phases:
    """``alpha_i + (alpha_f - alpha_i) * min(1, t / T)``."""
    return ask.until_end(Linear(start=ask.factor("alpha_i", 1.0), end=ask.factor("alpha_f", 0.0)))


def exponential(ask: Ask) -> Phases:
    """``gamma ** (t / decay_period)``, between the periods too."""
    return Exponential(gamma=ask.gamma(None), every=ask.span("decay_period", "1ep").text)


def cosine(ask: Ask) -> Phases:
    """``alpha_f + (1 - alpha_f) * (1 + cos(pi * min(1, t / T))) / 2``."""
    return ask.until_end(Cosine(end=ask.factor("alpha_f", 0.0)))


def polynomial(ask: Ask) -> Phases:
    """``alpha_f + (1 - alpha_f) * (1 - min(1, t / T)) ** power``."""
    ask.arguments.needed("power")
    return ask.until_end(power_curve(ask, None))


def power_curve(ask: Ask, default: float | None) -> Schedule:
    """A polynomial from 1 to ``alpha_f``."""
    power, end = float(ask.arguments.number("power", default, low=0)), ask.factor("alpha_f", 0.0)
    if power in (0, 1):
        return Linear(end=end) if power else Constant()
    return Polynomial(power=power, end=end)


def warm_restarts(ask: Ask) -> Phases:
    """Cosines from 1 to ``alpha_f``, each ``t_mult`` times as long as the one before it, rounded down."""
    first, times = ask.span("t_0"), ask.arguments.number("t_mult", 1.0, low=0)
    arc = Cosine(end=ask.factor("alpha_f", 0.0))
    if times >= 1 and int(times) == times:
        return Cycle(arc, every=first.text, grow=int(times))
    where, clock = ask.arguments.path("t_mult"), ask.clock
    if first.count is None:
        clock.facts.need("iters_per_epoch", where, "rounds the length of every cycle down to whole batches")
    assert first.count is not None
    per = Fraction(1) if first.unit == "ba" else clock.samples
    if per is None:
        per = exact(clock.facts.need("samples_per_iter", where, "rounds the length of every cycle down by itself"))
    run = clock.steps if clock.steps is not None or clock.length is None else math.ceil(clock.length)
    if run is None and times > 1:
        run = int(clock.facts.need("total_iters", where, "rounds the length of every cycle down by itself"))
    lengths, ends = [first.count], [first.count]
    while (run is None or ends[-1] < run * per) and lengths[-1]:
        lengths.append(int(times * lengths[-1]))
        ends.append(ends[-1] + lengths[-1])
    if lengths[-1] == 0:
        end = ends.pop() / per
        if run is not None and end <= run - 1:
            what = f"lets the cycles shrink to nothing at batch {float(end):g}, where Composer fails"
            raise SolverError(where, what, got=repr(times), do="give a factor >= 1, or a longer t_0")
        ask.notes.say(where, f"the cycles shrink to nothing at batch {float(end):g}, where Composer fails")
    if times > 1 and all(exact(times) ** k * first.count == count for k, count in enumerate(lengths)):
        return Cycle(arc, every=first.text, grow=float(times))
    ask.notes.say(where, "the length of every cycle is rounded down: they are written out one by one")
    arcs = [arc.ending(length(end / per)) for end in ends]
    if run is not None and ends[-1] == run * per:
        return simple([*arcs[:-1], arc])
    return (*arcs, HOLD)
