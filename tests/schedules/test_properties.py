"""Properties of every schedule that can be written, on trees that hypothesis draws."""

import json
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_solver.schedules.join import lay

from lightning_solver import RunLength, SolverSpec
from lightning_solver.schedules import (
    Constant,
    Cosine,
    Exponential,
    Join,
    Linear,
    MultiStep,
    Polynomial,
    Product,
    Scale,
    Shift,
    Staircase,
    Step,
)
from lightning_solver.schedules.base import run_window

OWN = 0.5  # the optimiser's own value of the option
BASES = (1.0, 0.3, 0.0)
SHAPES = (Constant, Linear, Cosine, Polynomial, Exponential, Step, MultiStep)
COMBINED = (Join, Product, Staircase, Shift, Scale)


@dataclass(frozen=True)
class Place:
    """Where in a run a schedule is drawn for: what it may say depends on that."""

    run: RunLength
    begin: Fraction
    end: Fraction
    plain: bool = False  # inside a factor of a product, which has no absolute values
    previous: bool = False  # a phase was before

    def inside(self, **changes):
        return Place(**{**vars(self), **changes})


parts = st.fractions(min_value=0, max_value=1, max_denominator=24)
inner_parts = parts.filter(lambda x: 0 < x < 1)
factors = st.floats(0, 2).map(lambda x: round(x, 3)) | st.sampled_from([0.0, 1.0, 0.1, 1 / 3])


@st.composite
def run_lengths(draw):
    total = draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["even", "fractional", "uneven"]))
    if kind == "even":
        return RunLength(total_steps=total, steps_per_epoch=draw(st.integers(1, 20)))
    if kind == "fractional":
        length = draw(st.fractions(min_value=Fraction(1, 2), max_value=20, max_denominator=6))
        return RunLength(total_steps=total, steps_per_epoch=length)
    ends, at = [], 0
    for length in draw(st.lists(st.integers(1, 15), min_size=1, max_size=5)):
        at += length
        ends.append(at)
    return RunLength(total_steps=total, epoch_ends=ends)


def text(value: Fraction, unit: str) -> str:
    return f"{value.numerator}/{value.denominator}{unit}" if value.denominator > 1 else f"{value.numerator}{unit}"


def epochs_until(run: RunLength, step: Fraction) -> Fraction:
    whole = 0
    while run.steps_at_epoch(Fraction(whole + 1)) <= step:
        whole += 1
    low, high = run.steps_at_epoch(Fraction(whole)), run.steps_at_epoch(Fraction(whole + 1))
    return whole + (step - low) / (high - low)


@st.composite
def points(draw, run, step):
    """The point ``step`` of a run, written in one of the units."""
    unit = draw(st.sampled_from(["st", "ep", "%", "int"]))
    if unit == "int" and step.denominator == 1:
        return int(step)
    if unit == "ep":
        return text(epochs_until(run, step), "ep")
    if unit == "%":
        return text(step * 100 / run.total_steps, "%")
    return text(step, "st")


@st.composite
def lengths(draw, run):
    """A length > 0 that is not so short that there are very many of them in the run."""
    unit = draw(st.sampled_from(["st", "ep", "%"]))
    if unit == "st":
        least = Fraction(run.total_steps, 60)
        return text(least + draw(parts) * run.total_steps, "st")
    if unit == "ep":
        return text(draw(st.fractions(min_value=Fraction(1, 2), max_value=3, max_denominator=4)), "ep")
    return text(draw(st.fractions(min_value=3, max_value=100, max_denominator=7)), "%")


@st.composite
def levels(draw, place):
    kinds = ["factor"] if place.plain else ["factor", "factor", "absolute", "optimizer"]
    kind = draw(st.sampled_from([*kinds, "previous"] if place.previous else kinds))
    if kind == "previous":
        return "previous"
    return draw(factors) if kind == "factor" else {kind: draw(factors)}


@st.composite
def shapes(draw, place, until=None):
    shape = draw(st.sampled_from(SHAPES))
    rest = {"until": until}
    if shape is Constant:
        return Constant(value=draw(levels(place)), **rest)
    rest["start"] = draw(levels(place))
    if shape in (Linear, Cosine):
        return shape(end=draw(levels(place)), **rest)
    if shape is Polynomial:
        return Polynomial(power=draw(st.floats(0.1, 4)), end=draw(levels(place)), **rest)
    rest["gamma"] = draw(st.floats(0.01, 1))
    if shape is Exponential:
        return Exponential(every=draw(st.none() | lengths(place.run)), **rest)
    if shape is Step:
        return Step(every=draw(lengths(place.run)), **rest)
    at = sorted({part * place.end for part in draw(st.lists(parts.filter(lambda x: x < 1), min_size=1, max_size=3))})
    return MultiStep(at=[draw(points(place.run, point)) for point in at], **rest)


@st.composite
def phases(draw, place, depth):
    """A list of schedules that fills ``place``."""
    cuts = sorted(draw(st.sets(inner_parts, max_size=2)))
    bounds = [place.begin + cut * (place.end - place.begin) for cut in cuts]
    found, begin, previous = [], place.begin, place.previous
    for bound in bounds:
        here = place.inside(begin=begin, end=bound, previous=previous)
        found.append(draw(schedules(here, depth, draw(points(place.run, bound)))))
        begin, previous = bound, True
    found.append(draw(schedules(place.inside(begin=begin, previous=previous), depth)))
    return tuple(found)


@st.composite
def schedules(draw, place, depth=2, until=None):
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return draw(shapes(place, until))
    kind, below = draw(st.sampled_from(COMBINED)), depth - 1
    if kind is Join:
        return Join(draw(phases(place, below)), until=until)
    if kind is Product:
        factor = place.inside(plain=True, previous=False)
        others = draw(st.lists(schedules(factor, below) | phases(factor, below), min_size=1, max_size=2))
        return Product((draw(schedules(place, below) | phases(place, below)), *others), until=until)
    if kind is Staircase:
        of = draw(schedules(place, below) | phases(place, below))
        return Staircase(of, every=draw(lengths(place.run)), until=until)
    if kind is Shift:
        of = draw(schedules(place, below) | phases(place, below))
        by = draw(points(place.run, draw(parts) * place.run.total_steps))
        return Shift(of, **{draw(st.sampled_from(["later", "earlier"])): by}, until=until)
    by = draw(st.sampled_from([2, 4, 2.5, "1/3", "7/4", 0.1]))
    factor = Fraction(by)
    inside = place.inside(run=place.run.scaled(factor), begin=place.begin * factor, end=place.end * factor)
    return Scale(draw(schedules(inside, below) | phases(inside, below)), by=by, until=until)


@st.composite
def cases(draw):
    run = draw(run_lengths())
    place = Place(run, Fraction(0), Fraction(run.total_steps))
    schedule = draw(schedules(place) | phases(place, 2))
    spec = SolverSpec(optimizer={"name": "SGD", "args": {"lr": OWN}}, schedules={"lr": schedule})
    return spec, run


def lay_over(spec, run, bases=BASES):
    return lay(spec.schedules["lr"], run_window(bases, run, "schedules.lr", own=OWN))


def bounds(schedule, base, before=(0.0, 0.0)):
    """Lowest and highest value that a schedule can have, by its levels alone."""
    if isinstance(schedule, tuple):
        low, high = [], []
        for phase in schedule:
            before = bounds(phase, base, before)
            low.append(before[0])
            high.append(before[1])
        return min(low), max(high)
    if isinstance(schedule, Join):
        return bounds(schedule.phases, base, before)
    if isinstance(schedule, Product):
        low, high = bounds(schedule.factors[0], base, before)
        for factor in schedule.factors[1:]:
            least, most = bounds(factor, 1.0)
            low, high = low * least, high * most
        return low, high
    if isinstance(schedule, (Staircase, Shift, Scale)):
        return bounds(schedule.of, base, before)
    decays = isinstance(schedule, (Exponential, Step, MultiStep))
    names = ["value"] if isinstance(schedule, Constant) else ["start"] if decays else ["start", "end"]
    found = []
    for level in (getattr(schedule, name) for name in names):
        if level == "previous":
            found += before
        elif isinstance(level, dict):
            found.append(level.get("absolute", level.get("optimizer", 0.0) * OWN))
        else:
            found.append(level * base)
    return (0.0 if decays else min(found)), max(found)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_values_are_finite_and_within_the_levels(case):
    spec, run = case
    table = spec.curve("lr", BASES, run=run)
    assert table.shape == (run.total_steps, len(BASES))
    assert np.isfinite(table).all()
    for base, column in zip(BASES, table.T):
        low, high = bounds(spec.schedules["lr"], base)
        assert (column >= low * (1 - 1e-12)).all()
        assert (column <= high * (1 + 1e-12)).all()


@given(cases())
@settings(max_examples=200, deadline=None)
def test_the_table_of_a_run_is_bit_for_bit_what_single_steps_give(case):
    spec, run = case
    curve = lay_over(spec, run)
    steps = np.array([curve.at(step) for step in range(run.total_steps)])
    assert spec.curve("lr", BASES, run=run).tobytes() == steps.tobytes()


@given(cases())
@settings(max_examples=200, deadline=None)
def test_groups_do_not_see_each_other(case):
    spec, run = case
    together = spec.curve("lr", BASES, run=run)
    alone = np.hstack([spec.curve("lr", [base], run=run) for base in BASES])
    assert together.tobytes() == alone.tobytes()


@given(cases())
@settings(max_examples=200, deadline=None)
def test_after_the_run_its_last_value_is_held(case):
    spec, run = case
    curve = lay_over(spec, run)
    end = curve.at(run.total_steps)
    assert [curve.at(step) for step in range(run.total_steps, 3 * run.total_steps + 1)] == [end] * (
        2 * run.total_steps + 1
    )
    positions = np.arange(run.total_steps, 3 * run.total_steps + 1)
    assert (curve.over(positions) == np.array(end)).all()


@given(cases())
@settings(max_examples=100, deadline=None)
def test_what_is_written_reads_back_as_the_same_spec_and_curve(case):
    spec, run = case
    read = SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert read == spec
    assert hash(read) == hash(spec)
    assert read.curve("lr", BASES, run=run).tobytes() == spec.curve("lr", BASES, run=run).tobytes()
