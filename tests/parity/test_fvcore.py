"""Schedulers of fvcore, drawn at random, nested, and run side by side: the same factors at every step."""

import math

import fvcore.common.param_scheduler as fvcore
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.detectron2 import from_detectron2
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay


class WarmupParamScheduler(fvcore.CompositeParamScheduler):
    """What detectron2's class of this name does, which is not on the package index."""

    def __init__(self, scheduler, warmup_factor, warmup_length, warmup_method="linear", rescale_interval=False):
        first, then = warmup_factor * scheduler(0.0), scheduler(0.0 if rescale_interval else warmup_length)
        if isinstance(then, complex):  # which rounding can make of the end of a polynomial
            raise TypeError("a complex number is no rate")
        linear = fvcore.LinearParamScheduler(first, then)
        ramp = linear if warmup_method == "linear" else fvcore.ConstantParamScheduler(first)
        scaling = ["rescaled", "rescaled" if rescale_interval else "fixed"]
        super().__init__([ramp, scheduler], [warmup_length, 1 - warmup_length], scaling)


KNOWN = {name: getattr(fvcore, name) for name in fvcore.__all__} | {"WarmupParamScheduler": WarmupParamScheduler}

levels = st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.42, 0.5, 1.0, 2.0]) | st.floats(0.0, 2.0, allow_subnormal=False)
positive = st.sampled_from([0.001, 0.1, 0.5, 0.8, 0.9, 1.0, 2.0, 3])
shares = st.sampled_from([0.0, 0.05, 0.1, 1 / 9, 0.25, 1 / 3, 0.5, 0.067, 1.0]) | st.floats(0.001, 0.999)


@st.composite
def milestones(draw):
    updates = draw(st.integers(6, 200))
    points = sorted(draw(st.sets(st.integers(1, updates - 1), min_size=1, max_size=4)))
    gamma = draw(st.sampled_from([None, 0.1, 0.5, 0.7]))
    values = [draw(levels) if gamma is None else gamma**k for k in range(len(points) + 1)]
    form = draw(st.sampled_from(["apart", "last", "even"]))
    if form == "apart":
        return f"MultiStepParamScheduler({values}, {updates}, {points})"
    if form == "last":
        return f"MultiStepParamScheduler({values}, milestones={[*points, updates]})"
    return f"MultiStepParamScheduler(num_updates={updates}, values={values})"


leaves = st.one_of(
    levels.map(lambda value: f"ConstantParamScheduler({value})"),
    st.tuples(levels, levels).map(lambda ends: f"CosineParamScheduler({ends[0]}, {ends[1]})"),
    st.tuples(levels, levels).map(lambda ends: f"LinearParamScheduler(start_value={ends[0]}, end_value={ends[1]})"),
    st.tuples(levels, positive).map(lambda both: f"ExponentialParamScheduler({both[0]}, {both[1]})"),
    st.tuples(levels, positive).map(lambda both: f"PolynomialDecayParamScheduler({both[0]}, {both[1]})"),
    st.lists(levels, min_size=1, max_size=5).map(lambda values: f"StepParamScheduler(10, {values})"),
    st.tuples(positive, st.integers(1, 6), positive).map(
        lambda three: f"StepWithFixedGammaParamScheduler({three[0]}, {three[1]}, {three[2]}, 100)"
    ),
    milestones(),
)


@st.composite
def composite(draw, inner):
    count = draw(st.integers(1, 4))
    cuts = sorted(draw(shares) for _ in range(count - 1))
    lengths = [b - a for a, b in zip([0.0, *cuts], [*cuts, 1.0])]
    if draw(st.booleans()):
        lengths = [round(length, 2) for length in lengths]
        lengths[-1] = round(1 - sum(lengths[:-1]), 2)
    scaling = [draw(st.sampled_from(["fixed", "rescaled"])) for _ in range(count)]
    parts = ", ".join(draw(inner) for _ in range(count))
    return f"CompositeParamScheduler([{parts}], {lengths}, {scaling})"


@st.composite
def warmup(draw, inner):
    method, rescale = draw(st.sampled_from(["linear", "constant"])), draw(st.booleans())
    length = draw(shares | st.integers(1, 60).map(lambda steps: steps / 120))
    return f"WarmupParamScheduler({draw(inner)}, {draw(levels)}, {length}, {method!r}, {rescale})"


schedulers = st.recursive(leaves, lambda inner: composite(inner) | warmup(inner), max_leaves=5)


def peer(text, total, steps):
    """The factors of the real thing; ``None`` if it refuses."""
    try:
        scheduler = eval(text, dict(KNOWN))
        # A line that rises from 0 may begin a step early, and so 1e-6 below 0, which no rate here can be.
        return [max(0.0, scheduler(step / total)) for step in steps]
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError):
        return None


def compare(text, total, steps, form):
    config = {"bare": text, "fvcore": {"param_scheduler": text}}.get(
        form, {"lr_multiplier": text, "train": {"max_iter": total}}
    )
    expected = peer(text, total, steps)
    try:
        imported = from_detectron2(config, facts=None if form == "lazy" else {"total_iters": total})
    except SolverError as error:
        if "has no length" in str(error):
            return  # by which fvcore divides; it may be one of 1e-17 by rounding
        assert expected is None or peer(text, total, range(total)) is None
        return
    if expected is None:
        pytest.fail(f"the peer refuses {text} for {total}, the importer does not")
    phases = imported.spec.schedules["lr"]
    curve = lay(phases, run_window([1.0], RunLength(total_steps=total), "schedules.lr", beyond="allow"))
    values = curve.over(np.array(steps))[:, 0]
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=f"{text} for {total}: {phases}")


check = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
forms = st.sampled_from(["bare", "fvcore", "lazy"])


@check
@given(schedulers, st.integers(1, 150) | st.sampled_from([90, 100, 120]), forms)
def test_every_step_of_a_short_run(text, total, form):
    compare(text, total, list(range(total)), form)


@check
@given(
    schedulers, st.sampled_from([100_000, 999_999, 1_000_000, 1_000_001, 3_000_000, 4_000_000, 5_123_457]), st.data()
)
def test_around_the_switches_of_a_long_run(text, total, data):
    """Where fvcore's margin of 1e-6 is longer than a step."""
    scheduler = peer(text, 1, [])
    steps = {0, 1, 2, total // 2, total - 1}
    for part in {*map(float, (0.05, 0.1, 1 / 9, 0.25, 1 / 3, 0.5, 2 / 3, 0.75))} if scheduler is not None else ():
        near = math.floor(part * total)
        steps |= set(range(near - 7, near + 8))
    steps |= set(data.draw(st.lists(st.integers(0, total - 1), max_size=20)))
    expected_ends = [total - k for k in range(1, 9)]  # even values run out there
    compare(text, total, sorted(step for step in {*steps, *expected_ends} if 0 <= step < total), "lazy")


@pytest.mark.parametrize(
    ("text", "total", "step", "values"),
    [
        ("MultiStepParamScheduler([1, 0.1], 4000000, [3000000])", 4_000_000, 2_999_996, [1.0, 0.1]),
        (
            "CompositeParamScheduler([ConstantParamScheduler(1), ConstantParamScheduler(0.5)], [0.5, 0.5], ['fixed', 'fixed'])",
            2_000_000,
            999_999,
            [1.0, 0.5],
        ),
    ],
)
def test_a_switch_comes_early_in_a_long_run(text, total, step, values):
    assert peer(text, total, [step - 1, step]) == values
    compare(text, total, [step - 1, step], "lazy")
