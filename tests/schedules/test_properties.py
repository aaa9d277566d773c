"""Properties of every schedule that can be written, on trees that hypothesis draws."""

import dataclasses
import json
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_solver import Duration, Rule, RunLength, SolverSpec
from lightning_solver.schedules import (
    Chain,
    Clip,
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Function,
    Inverse,
    Join,
    KeepZero,
    Linear,
    MultiStep,
    Noise,
    Over,
    PerGroup,
    Plateau,
    Polynomial,
    Product,
    Rex,
    Scale,
    Shift,
    Staircase,
    Step,
    Sum,
    Tanh,
    Warmup,
)
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay
from lightning_solver.schedules.plateau import Feed

OWN = 0.5  # the optimiser's own value of the option
BASES = (1.0, 0.3, 0.0)
TO_AN_END = (Linear, Cosine, Polynomial, Tanh, Rex)
SHAPES = (Constant, *TO_AN_END, Exponential, Inverse, Step, MultiStep, Function, Noise, *[Plateau] * 3)
MOVING = (Staircase, Shift, Scale, Cycle, Chain)  # where no metric can be followed
COMBINED = (Join, Product, *[Warmup] * 4, Sum, Clip, KeepZero, PerGroup, Over, *MOVING)


def wave(n: int, depth: float = 0.5) -> float:
    """A factor between 1 - depth and 1, for ``Function``."""
    return 1 - depth * (n % 3) / 2


@dataclass(frozen=True)
class Place:
    """Where in a run a schedule is drawn for: what it may say depends on that."""

    run: RunLength
    begin: Fraction
    end: Fraction
    plain: bool = False  # inside a factor of a product, which has no absolute values
    previous: bool = False  # a phase was before, and does not ask for the next
    next: bool = False  # a phase comes after, and does not ask for the previous
    metric: bool = True  # positions are those of the run
    groups: bool = True  # all groups are here, so that each may have its own
    percent: bool = False  # the run may be of any length: points are in percent of it

    def inside(self, **changes):
        return dataclasses.replace(self, **changes)


parts = st.fractions(min_value=0, max_value=1, max_denominator=24)
inner_parts = parts.filter(lambda x: 0 < x < 1)
factors = st.floats(0, 2).map(lambda x: round(x, 3)) | st.sampled_from([0.0, 1.0, 0.1, 1 / 3])
powers = st.sampled_from([1.0, 0.5, 2.0]) | st.floats(0.1, 4)


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
def points(draw, place, step):
    """The point ``step`` of a run, written in one of the units."""
    run = place.run
    units = ["%"] if place.percent else ["st", "%", "int", "sum", *["ep"] * run.epochs_known]
    unit = draw(st.sampled_from(units))
    if unit == "int" and step.denominator == 1:
        return int(step)
    if unit == "ep":
        return text(epochs_until(run, step), "ep")
    if unit == "%":
        return text(step * 100 / run.total_steps, "%")
    if unit == "sum":
        return f"{text(step + Fraction(1, 3), 'st')}-1/3"
    return text(step, "st")


@st.composite
def lengths(draw, place, most=60):
    """A length > 0 that is not so short that there are very many of them in the run."""
    run = place.run
    unit = draw(st.sampled_from(["st", "%", *["ep"] * (run.epochs_known and most == 60)]))
    if unit == "st":
        least = Fraction(run.total_steps) / most
        return text(least + draw(parts) * run.total_steps, "st")
    if unit == "ep":
        return text(draw(st.fractions(min_value=Fraction(1, 2), max_value=3, max_denominator=4)), "ep")
    return text(draw(st.fractions(min_value=Fraction(180, most), max_value=100, max_denominator=7)), "%")


@st.composite
def levels(draw, place):
    kinds = ["factor"] if place.plain else ["factor", "factor", "absolute", "optimizer", "sum"]
    kinds += ["previous"] * place.previous + ["next"] * place.next
    kind = draw(st.sampled_from(kinds))
    if kind in ("previous", "next"):
        return kind
    if kind == "sum":
        names = draw(st.sets(st.sampled_from(["base", "absolute", "optimizer", "scaled"]), min_size=2))
        return {name: draw(factors) for name in sorted(names)}
    return draw(factors) if kind == "factor" else {kind: draw(factors)}


@st.composite
def shapes(draw, place, until=None, choice=SHAPES):
    shape = draw(st.sampled_from([cls for cls in choice if cls is not Plateau or place.metric]))
    rest = {"until": until}
    if shape is Constant:
        return Constant(value=draw(levels(place)), **rest)
    if shape is Exponential and draw(st.booleans()):
        ends = st.floats(0.01, 2)
        return Exponential(start=draw(ends), end=draw(ends), **rest)
    rest["start"] = draw(levels(place))
    if shape in TO_AN_END:
        rest["end"] = draw(levels(place))
        if shape is Polynomial:
            rest["power"] = draw(powers)
        if shape in (Cosine, Polynomial):
            rest["time_power"] = draw(powers)
        if shape is Tanh:
            rest["lower"] = draw(st.floats(-8, 0.5))
        return shape(**rest)
    if shape is Plateau:
        numbers = {name: draw(st.integers(0, 2)) for name in ("patience", "cooldown")}
        return Plateau("m", factor=draw(st.floats(0.1, 0.9)), min=draw(factors), threshold=0.1, **numbers, **rest)
    if shape is Inverse:
        return Inverse(every=draw(lengths(place)), power=draw(powers), **rest)
    if shape is Function:
        args = draw(st.sampled_from([{}, {"depth": 1.0}]))
        return Function(f"{__name__}.wave", draw(lengths(place)), args, draw(st.booleans()), **rest)
    if shape is Noise:
        kind = draw(st.sampled_from(["normal", "uniform"]))
        every, seed = draw(lengths(place)), draw(st.integers(0, 9))
        return Noise(limit=draw(st.floats(0.1, 1)), distribution=kind, every=every, seed=seed, **rest)
    rest["gamma"] = draw(st.floats(0.01, 1))
    if shape is Exponential:
        return Exponential(every=draw(st.none() | lengths(place)), **rest)
    if shape is Step:
        return Step(every=draw(lengths(place)), **rest)
    at = sorted({part * place.end for part in draw(st.lists(parts.filter(lambda x: x < 1), min_size=1, max_size=3))})
    return MultiStep(at=[draw(points(place, point)) for point in at], **rest)


@st.composite
def phases(draw, place, depth):
    """A list of schedules that fills ``place``."""
    cuts = sorted(draw(st.sets(inner_parts, max_size=2)))
    bounds = [*(place.begin + cut * (place.end - place.begin) for cut in cuts), place.end]
    # at each cut, one of the two phases may ask for the value of the other
    forward = [place.previous, *(draw(st.booleans()) for _ in cuts)]
    backward = [*(not asked for asked in forward[1:]), place.next]
    found, begin = [], place.begin
    for i, bound in enumerate(bounds):
        here = place.inside(begin=begin, end=bound, previous=forward[i], next=backward[i])
        until = draw(points(place, bound)) if i < len(cuts) else None
        found.append(draw(schedules(here, depth, until)))
        begin = bound
        if i < len(cuts) and has(found[-1], Plateau):
            forward[i + 1] = False  # what it leaves is not known beforehand
    return tuple(found)


@st.composite
def schedules(draw, place, depth=2, until=None):
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return draw(shapes(place, until))
    refused = (PerGroup,) if place.plain or not place.groups else ()
    kind, below = draw(st.sampled_from([kind for kind in COMBINED if kind not in refused])), depth - 1

    def inner(**changes):
        here = place.inside(**changes)
        return draw(schedules(here, below) | phases(here, below))

    if kind is Join:
        return Join(draw(phases(place, below)), until=until)
    if kind is Product:
        factor = {"plain": True, "previous": False, "next": False}
        return Product((inner(), *(inner(**factor) for _ in range(draw(st.integers(1, 2))))), until=until)
    if kind is Sum:
        return Sum((inner(previous=False, next=False), inner(previous=False, next=False)), until=until)
    if kind is Warmup:
        return draw(warmups(place, below, until))
    if kind is Clip:
        low = draw(st.none() | factors)
        high = draw((st.none() if low is not None else st.nothing()) | factors.map(lambda x: x + (low or 0.0)))
        return Clip(inner(), min=low, max=high, until=until)
    if kind is KeepZero:
        return KeepZero(inner(groups=False), until=until)
    if kind is PerGroup:
        return PerGroup([inner(groups=False) for _ in BASES], until=until)
    if kind is Over:
        begin, end = place.begin, place.end
        total, given = Fraction(place.run.total_steps), {}
        if draw(st.booleans()):
            begin = draw(parts.filter(lambda x: x < 1)) * end
            given["begin"] = draw(points(place, begin))
        if not given or draw(st.booleans()):
            end = begin + draw(parts.filter(lambda x: x > 0)) * (total - begin)
            given["end"] = draw(points(place, end))
        return Over(inner(begin=begin, end=end), **given, until=until)
    if kind is Chain:
        floor = draw(factors)
        here = {"metric": False, "previous": False, "next": False}
        return Chain((inner(**here), Cosine(end=floor)), floors=draw(st.sampled_from([(), (0.0, floor)])), until=until)
    if kind is Staircase:
        return Staircase(inner(metric=False), every=draw(lengths(place)), until=until)
    if kind is Shift:
        by = draw(points(place, draw(parts) * place.run.total_steps))
        return Shift(inner(metric=False), **{draw(st.sampled_from(["later", "earlier"])): by}, until=until)
    if kind is Scale:
        by = draw(st.sampled_from([2, 4, 2.5, "1/3", "7/4", 0.1]))
        factor = Fraction(by) if by != 0.1 else Fraction(1, 10)
        run = place.run.scaled(factor)
        return Scale(inner(run=run, begin=place.begin * factor, end=place.end * factor, metric=False), by, until=until)
    every, grow = draw(lengths(place, most=12)), draw(st.sampled_from([1, 1, 1.5, 2]))
    run = RunLength(total_steps=Duration.parse(every).resolve(place.run), steps_per_epoch=place.run.steps_per_epoch)
    own = {"previous": False, "next": False, "metric": False, "percent": place.percent or grow > 1}
    of = inner(run=run, begin=Fraction(0), end=Fraction(run.total_steps), **own)
    times, decay = draw(st.none() | st.integers(1, 3)), draw(st.sampled_from([1.0, 0.5]))
    return Cycle(of, every, grow, decay, times, until=until)


@st.composite
def warmups(draw, place, depth, until):
    meets = draw(st.sampled_from(["delay", "multiply", "interpolate", "beneath"]))
    end = place.begin + draw(inner_parts) * (place.end - place.begin)
    here = place.inside(end=end, next=False)
    if meets == "multiply":
        here = here.inside(plain=True, previous=False)
    choice = (Constant, *TO_AN_END) if meets == "interpolate" else SHAPES
    ramp = draw(shapes(here, draw(points(place, end)), choice))
    rest = place.inside(begin=end, previous=not has(ramp, Plateau)) if meets == "delay" else place
    rest = rest.inside(metric=False) if meets == "interpolate" else rest
    return Warmup(ramp, draw(schedules(rest, depth) | phases(rest, depth)), meets, until=until)


def has(schedule, kind):
    """Whether there is a ``kind`` in a tree."""
    if isinstance(schedule, tuple):
        return any(has(inner, kind) for inner in schedule)
    if not dataclasses.is_dataclass(schedule):
        return False
    return isinstance(schedule, kind) or any(has(inner, kind) for inner in vars(schedule).values())


@st.composite
def cases(draw, groups=True):
    run = draw(run_lengths())
    place = Place(run, Fraction(0), Fraction(run.total_steps), groups=groups)
    schedule = draw(schedules(place) | phases(place, 2))
    spec = SolverSpec(optimizer={"name": "SGD", "args": {"lr": OWN}}, schedules={"lr": schedule})
    if has(spec.schedules["lr"], Chain):  # a recurrence may go below 0, which is refused
        assume(lay_over(spec, run, None).over(np.arange(run.total_steps)).min() >= 0)
    metrics = (
        draw(st.lists(st.sampled_from([1.0, 0.5]), min_size=3, max_size=20))
        if has(spec.schedules["lr"], Plateau)
        else None
    )
    return spec, run, metrics


def lay_over(spec, run, metrics, bases=BASES):
    feed = Feed()
    curve = lay(spec.schedules["lr"], run_window(bases, run, "schedules.lr", own=OWN, feed=feed))
    for step, value in validations(run, metrics):
        feed.take(step, {"m": value})
    return curve


def validations(run, metrics):
    """The step after which each epoch ends, and its metric."""
    return [(math.ceil(run.steps_at_epoch(Fraction(i + 1))), value) for i, value in enumerate(metrics or ())]


def hull(*intervals):
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def bounds(schedule, base, group, before=None, after=None):
    """Lowest and highest value that a schedule can have, by its levels alone.

    Args:
        before: Bounds of the phase before.
        after: Gives the bounds of the phase after.
    """

    def of(level):
        if level == "previous":
            return before
        if level == "next":
            return after()
        given = level if isinstance(level, dict) else {"base": level}
        units = {"base": base, "absolute": 1.0, "scaled": 1.0, "optimizer": OWN}
        value = sum(number * units[kind] for kind, number in given.items())
        return value, value

    def inner(schedule, base=base, **changes):
        return bounds(schedule, base, group, **{"before": before, "after": after, **changes})

    alone = {"before": None, "after": None}
    if isinstance(schedule, tuple):
        found = []
        for i, phase in enumerate(schedule):
            its_after = after if i == len(schedule) - 1 else lambda i=i: inner(schedule[i + 1 :], before=None)
            found.append(inner(phase, before=found[-1] if found else before, after=its_after))
        return hull(*found)
    match schedule:
        case Join():
            return inner(schedule.phases)
        case Product():
            low, high = inner(schedule.factors[0])
            for factor in schedule.factors[1:]:
                least, most = inner(factor, base=1.0, **alone)
                low, high = low * least, high * most
            return low, high
        case Sum():
            lows, highs = zip(*(inner(term) for term in schedule.terms))
            return sum(lows), sum(highs)
        case Warmup(meets="multiply"):
            low, high = inner(schedule.of)
            least, most = hull(inner(schedule.ramp, base=1.0, **alone), (1.0, 1.0))
            return low * least, high * most
        case Warmup(meets="delay"):
            rest = schedule.of if isinstance(schedule.of, tuple) else (schedule.of,)
            return inner((schedule.ramp, *rest))
        case Warmup():
            curve = inner(schedule.of)
            return hull(curve, inner(schedule.ramp, after=lambda: curve))
        case Clip():
            least = -math.inf if schedule.min is None else schedule.min * base
            most = math.inf if schedule.max is None else schedule.max * base
            low, high = inner(schedule.of)
            return min(max(low, least), most), min(max(high, least), most)
        case KeepZero():
            return inner(schedule.of) if BASES[group] else (0.0, 0.0)
        case PerGroup():
            return inner(schedule.of[group])
        case Cycle():
            return hull(*(inner(schedule.of, base=part, **alone) for part in (base, base * (schedule.decay == 1.0))))
        case Staircase() | Shift() | Scale() | Over():
            return inner(schedule.of)
        case Constant():
            return of(schedule.value)
        case Exponential(end=end) if end is not None:
            return hull(of(schedule.start), of(end))
        case Noise():
            low, high = of(schedule.start)
            return low * (1 - schedule.limit), high * (1 + schedule.limit)
    ends = hull(
        *(of(getattr(schedule, name)) for name in ("start", "end") if getattr(schedule, name, None) is not None)
    )
    return ends if isinstance(schedule, TO_AN_END) else (0.0, ends[1])


@given(cases())
@settings(max_examples=300, deadline=None)
def test_values_are_finite_and_within_the_levels(case):
    spec, run, metrics = case
    table = spec.curve("lr", BASES, run=run, metrics=metrics)
    assert table.shape == (run.total_steps, len(BASES))
    assert np.isfinite(table).all()
    if has(spec.schedules["lr"], Chain):
        return  # what a recurrence may reach is not that simple
    for group, (base, column) in enumerate(zip(BASES, table.T)):
        low, high = bounds(spec.schedules["lr"], base, group)
        assert (column >= low * (1 - 1e-12) - 1e-300).all()
        assert (column <= high * (1 + 1e-12)).all()


@given(cases())
@settings(max_examples=300, deadline=None)
def test_the_table_of_a_run_is_bit_for_bit_what_single_steps_give(case):
    spec, run, metrics = case
    curve = lay_over(spec, run, metrics)
    steps = np.array([curve.at(step) for step in range(run.total_steps)])
    assert spec.curve("lr", BASES, run=run, metrics=metrics).tobytes() == steps.tobytes()


@given(cases(groups=False))
@settings(max_examples=200, deadline=None)
def test_groups_do_not_see_each_other(case):
    spec, run, metrics = case
    together = spec.curve("lr", BASES, run=run, metrics=metrics)
    alone = np.hstack([lay_over(spec, run, metrics, [base]).over(np.arange(run.total_steps)) for base in BASES])
    assert together.tobytes() == alone.tobytes()


@given(cases())
@settings(max_examples=200, deadline=None)
def test_after_the_run_its_last_value_is_held(case):
    spec, run, metrics = case
    curve = lay_over(spec, run, metrics)
    end = curve.at(run.total_steps)
    assert [curve.at(step) for step in range(run.total_steps, 3 * run.total_steps + 1)] == [end] * (
        2 * run.total_steps + 1
    )
    positions = np.arange(run.total_steps, 3 * run.total_steps + 1)
    assert (curve.over(positions) == np.array(end)).all()


@given(cases())
@settings(max_examples=100, deadline=None)
def test_what_is_written_reads_back_as_the_same_spec_and_curve(case):
    spec, run, metrics = case
    read = SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert read == spec
    assert hash(read) == hash(spec)
    before = spec.curve("lr", BASES, run=run, metrics=metrics)
    assert read.curve("lr", BASES, run=run, metrics=metrics).tobytes() == before.tobytes()


@given(cases(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_run_that_is_resumed_at_any_step_is_bit_for_bit_a_straight_one(case, data):
    spec, run, metrics = case
    rules = [Rule(match=f"{i}.*", lr=base) for i, base in enumerate(BASES)]
    stop = data.draw(st.integers(0, run.total_steps - 1))

    def made():
        plan = spec.replace(rules=rules).plan(nn.Sequential(*(nn.Linear(1, 1) for _ in BASES)), run=run)
        assert [group.options["lr"] for group in plan.groups] == list(BASES)
        return plan.build()

    optimizer, scheduler = made()
    rows = []
    for step in range(run.total_steps):
        for at, value in validations(run, metrics):
            if at == step:
                scheduler.observe({"m": value})
        if step == stop:
            state = json.loads(json.dumps(scheduler.state_dict()))
            optimizer, scheduler = made()
            scheduler.load_state_dict(state)
        rows.append([group["lr"] for group in optimizer.param_groups])
        scheduler.go_to(step + 1)
    assert np.array(rows).tobytes() == spec.curve("lr", BASES, run=run, metrics=metrics).tobytes()


@st.composite
def to_an_end(draw):
    """A shape that arrives: its class and arguments but its levels."""
    power = st.floats(0.1, 5)
    return draw(
        st.sampled_from([(Linear, {}), (Rex, {}), (Exponential, {})])
        | st.builds(lambda x: (Cosine, {"time_power": x}), power)
        | st.builds(lambda x, y: (Polynomial, {"power": x, "time_power": y}), power, power)
    )


@given(
    run_lengths(), st.lists(to_an_end(), min_size=3, max_size=3), st.lists(st.floats(1e-6, 2), min_size=4), st.data()
)
@settings(max_examples=200, deadline=None)
def test_shapes_that_arrive_are_exact_at_joins_and_ends(run, shapes, levels, data):
    total = run.total_steps
    place = Place(run, Fraction(0), Fraction(total))
    cuts = sorted(data.draw(st.sets(inner_parts, min_size=2, max_size=2)))
    one, two = (cut * total for cut in cuts)
    (first, a), (second, b), (third, c) = shapes
    schedule = (
        first(start=levels[0], end="next", until=data.draw(points(place, one)), **a),
        second(start=levels[1], end=levels[2], until=data.draw(points(place, two)), **b),
        third(start="previous", end=levels[3], **c),
    )
    bases = [1.0, 0.3, 1e-5]

    def at(level):
        return [level * base for base in bases]

    curve = lay(schedule, run_window(bases, run, "schedules.lr"))
    assert curve.at(0) == at(levels[0])
    assert curve.at(total) == at(levels[3])
    if one.denominator == 1:
        assert curve.at(int(one)) == at(levels[1])
    if two.denominator == 1:
        assert curve.at(int(two)) == at(levels[2])
    # each phase alone, asked where it ends, between two steps or not
    for phase, start, end, level in ((schedule[0], 0, one, levels[1]), (schedule[1], one, two, levels[2])):
        alone = dataclasses.replace(phase, end=level, until=None)
        inside = run_window(bases, run, "x").inside(begin=Fraction(start), end=end, whole=False)
        assert lay(alone, inside).at(math.ceil(end)) == at(level)
