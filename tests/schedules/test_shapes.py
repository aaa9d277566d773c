import math
import re
from fractions import Fraction

import numpy as np
import pytest

from laid import close, laid, over, table
from lightning_solver import RunLength, SolverError, SolverSpec
from lightning_solver.schedules import Constant, Cosine, Exponential, Inverse, Linear, Polynomial, Rex, Tanh
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay

# ------------------------------------------------------------------ formulas

EXPECTED = [
    (Constant(), [1.0] * 10),
    (Constant(0.3), [0.3] * 10),
    (Constant({"absolute": 0.7}), [0.7] * 10),
    (Linear(start=0.0), [i / 10 for i in range(10)]),
    (Linear(end=0.0), [1 - i / 10 for i in range(10)]),
    (Linear(start=0.2, end=0.8), [0.2 + 0.6 * i / 10 for i in range(10)]),
    (Linear(), [1.0] * 10),
    (Cosine(), [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]),
    (Cosine(start=0.5, end=2.0), [2.0 - 1.5 * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]),
    (Polynomial(), [1 - i / 10 for i in range(10)]),
    (Polynomial(power=2.0), [(1 - i / 10) ** 2 for i in range(10)]),
    (Polynomial(power=0.9, end=0.1), [0.1 + 0.9 * (1 - i / 10) ** 0.9 for i in range(10)]),
    (Polynomial(power=3, start=0.0, end=1.0), [1 - (1 - i / 10) ** 3 for i in range(10)]),
    (Exponential(gamma=0.01), [0.01 ** (i / 10) for i in range(10)]),
    (Exponential(gamma=0.5, every=1), [0.5**i for i in range(10)]),
    (Exponential(gamma=0.5, every=4), [0.5 ** (i / 4) for i in range(10)]),
    (Exponential(gamma=0.5, every="50%", start=3.0), [3.0 * 0.5 ** (i / 5) for i in range(10)]),
    (Exponential(gamma=2.0, every="5/2"), [2.0 ** (i / 2.5) for i in range(10)]),
    (Cosine(time_power=2.0), [(1 + math.cos(math.pi * (i / 10) ** 2)) / 2 for i in range(10)]),
    (Polynomial(power=0.9, time_power=0.5, end=0.1), [0.1 + 0.9 * (1 - (i / 10) ** 0.5) ** 0.9 for i in range(10)]),
    (Polynomial(time_power=0.5), [1 - math.sqrt(i / 10) for i in range(10)]),
    (Polynomial(power=0.5, start=0.0, end=1.0), [1 - math.sqrt(1 - i / 10) for i in range(10)]),
    (Exponential(end=0.01), [0.01 ** (i / 10) for i in range(10)]),
    (Exponential(start=0.2, end=3.0), [0.2 * 15 ** (i / 10) for i in range(10)]),
    (Inverse(every=3), [1 / (1 + i / 3) for i in range(10)]),
    (Inverse(every="40%", power=0.5, start=2.0), [2 / math.sqrt(1 + i / 4) for i in range(10)]),
    (Tanh(), [(1 - math.tanh(-7 + i)) / 2 for i in range(10)]),
    (Tanh(lower=-2, upper=6, start=0.1, end=0.5), [0.3 + 0.2 * math.tanh(0.8 * i - 2) for i in range(10)]),
    (Rex(), [(1 - i / 10) / (1 - i / 20) for i in range(10)]),
    (Rex(start=0.2, end=1.2), [1.2 - (1 - i / 10) / (1 - i / 20) for i in range(10)]),
]


@pytest.mark.parametrize(("schedule", "values"), EXPECTED, ids=lambda x: repr(x) if not isinstance(x, list) else "")
def test_formula(schedule, values):
    assert over(schedule) == close(values)


@pytest.mark.parametrize(("schedule", "values"), EXPECTED, ids=lambda x: repr(x) if not isinstance(x, list) else "")
def test_factors_go_with_each_group_s_own_base(schedule, values):
    absolute = schedule == Constant({"absolute": 0.7})
    expected = np.full((10, 3), 0.7) if absolute else np.outer(values, [0.1, 0.0, 3.0])
    table = SolverSpec(schedules={"lr": schedule}).curve("lr", [0.1, 0.0, 3.0], total_steps=10)
    np.testing.assert_allclose(table, expected, rtol=2e-15, atol=1e-16)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in EXPECTED], ids=repr)
def test_array_is_float64_of_steps_by_groups(schedule):
    table = SolverSpec(schedules={"lr": schedule}).curve("lr", [0.1, 0.2], total_steps=11)
    assert table.shape == (11, 2)
    assert table.dtype == np.float64


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(start=0.1, end=0.7),
        Cosine(start=0.1, end=0.7),
        Polynomial(start=0.1, end=0.7),
        Polynomial(power=0.9, start=0.1, end=0.7),
        Linear(start=0.7, end=0.1),
        Cosine(start=0.7, end=0.1),
        Polynomial(power=3.0, start=0.7, end=0.1),
        Cosine(time_power=0.3, start=0.7, end=0.1),
        Polynomial(power=0.5, time_power=3.0, start=0.1, end=0.7),
        Exponential(start=0.1, end=0.7),
        Exponential(start=0.7, end=0.1),
        Rex(start=0.7, end=0.1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("base", [1.0, 0.3, 1e-5])
def test_ends_are_exact(schedule, base):
    curve = lay(schedule, run_window([base], RunLength(total_steps=7), "lr"))
    assert curve.at(0) == [schedule.start * base]
    assert curve.at(7) == [schedule.end * base]


@pytest.mark.parametrize("shape", [Linear, Cosine, Polynomial, Exponential, Tanh, Rex])
def test_equal_ends_stay_equal(shape):
    assert set(over(shape(start=0.3, end=0.3), total=37, base=0.7)) == {0.3 * 0.7}


@pytest.mark.parametrize("shape", [Linear, Cosine, Polynomial, Tanh, Rex, lambda until: Exponential(0.01, until=until)])
def test_a_phase_takes_its_own_length(shape):
    values = over([shape(until=4), Constant(0.5)])
    assert values[:4] == over(shape(until=None), total=4)
    assert values[4:] == [0.5] * 6


def test_a_fractional_end_is_not_rounded():
    values = over([Linear(start=0.0, until="25/4"), Constant()])
    assert values == close([*(i / 6.25 for i in range(7)), 1, 1, 1])


def test_one_step_has_the_first_value():
    assert over(Linear(start=0.25), total=1) == [0.25]
    assert over(Cosine(), total=1) == [1.0]


def test_last_step_has_not_reached_the_end():
    assert over(Linear(end=0.0), total=4)[-1] == 0.25


# ------------------------------------------------------------------ epochs


def test_exponential_counts_from_the_start_of_its_phase():
    assert over([Constant(until=4), Exponential(gamma=0.5, every=1)])[4:] == [0.5**i for i in range(6)]


# ------------------------------------------------------------------ where the run's length is not known


@pytest.mark.parametrize(
    "shape",
    [Linear(), Cosine(), Polynomial(), Exponential(0.1), Exponential(end=0.1), Tanh(), Rex()],
    ids=repr,
)
def test_a_shape_that_ends_with_the_run_needs_its_length(shape):
    window = run_window([1.0], RunLength(unknown="the loader has no length"), "schedules.lr")
    with pytest.raises(SolverError, match=r"schedules\.lr: needs the length of the run; got the loader has no length"):
        lay(shape, window)


@pytest.mark.parametrize("shape", [Constant(), Exponential(0.5, every=4), Inverse(every=4)], ids=repr)
def test_a_shape_without_an_end_does_not_need_it(shape):
    endless = lay(shape, run_window([1.0], RunLength(), "lr"))
    long = lay(shape, run_window([1.0], RunLength(total_steps=1000), "lr"))
    assert [endless.at(i) for i in range(30)] == [long.at(i) for i in range(30)]


# ------------------------------------------------------------------ multi-step points


# ------------------------------------------------------------------ bad values


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(gamma=0.0), "Exponential.gamma: must be a factor > 0; got 0.0"),
        (lambda: Exponential(gamma=-0.5), "Exponential.gamma: must be a factor > 0; got -0.5"),
        (lambda: Exponential(gamma=None), "Exponential.gamma: needs one of gamma and end; got (None, None)"),
        (lambda: Exponential(gamma=0.5, end=0.1), "Exponential.gamma: needs one of gamma and end; got (0.5, 0.1)"),
        (
            lambda: Exponential(end=0.1, every=2),
            "Exponential.every: says how often gamma is applied, and there is none",
        ),
        (lambda: Cosine(time_power=0), "Cosine.time_power: must be > 0; got 0.0"),
        (lambda: Polynomial(time_power=-1), "Polynomial.time_power: must be > 0; got -1.0"),
        (lambda: Inverse(every=4, power=0), "Inverse.power: must be > 0; got 0.0"),
        (lambda: Inverse(every="0%"), "Inverse.every: must be longer than nothing; got '0%'"),
        (lambda: Inverse(every="x"), "Inverse.every: is not a duration; got 'x'"),
        (lambda: Tanh(lower=3, upper=3), "Tanh.lower: must be below upper; got (3.0, 3.0)"),
        (lambda: Tanh(lower=4, upper=3), "Tanh.lower: must be below upper; got (4.0, 3.0)"),
        (lambda: Tanh(upper=float("inf")), "Tanh.upper: must be a finite number; got inf"),
        (lambda: Rex(end=-0.5), "Rex.end: must not be negative; got -0.5"),
        (lambda: Exponential(gamma=float("nan")), "Exponential.gamma: must be a finite number; got nan"),
        (lambda: Exponential(gamma=0.5, every="0%"), "Exponential.every: must be longer than nothing; got '0%'"),
        (lambda: Polynomial(power=0), "Polynomial.power: must be > 0; got 0.0"),
        (lambda: Polynomial(power=-2.0), "Polynomial.power: must be > 0; got -2.0"),
        (lambda: Polynomial(power=float("inf")), "Polynomial.power: must be a finite number; got inf"),
        (lambda: Linear(until="-1ep"), "Linear.until: is not a duration; got '-1ep'"),
        (lambda: Linear(until="110%"), "Linear.until: is more than the whole run; got '110%'"),
        (
            lambda: Cosine(until=5.0),
            "Cosine.until: must be a duration such as 500, 5ep or 10%, or nothing; got 5.0 (float)",
        ),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("shape", [Exponential(0.5, start=0.0), Exponential(start=0.0, end=0.0), Inverse(1, start=0.0)])
def test_a_decay_may_start_from_nothing(shape):
    assert over(shape) == [0.0] * 10


def test_growth_that_no_float_holds_is_an_error_and_not_found_at_step_n():
    with pytest.raises(
        SolverError, match=re.escape("schedules.lr.gamma: grows beyond what a float holds within 400 p")
    ):
        laid(Exponential(gamma=10.0, every=1), 400)


# ------------------------------------------------------------------ after the end of the run


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in EXPECTED], ids=repr)
def test_held_after_the_end_of_the_run(schedule):
    curve = lay(schedule, run_window([0.3], RunLength(total_steps=10), "lr"))
    assert {curve.at(i)[0] for i in range(10, 31)} == {curve.at(10)[0]}


# ------------------------------------------------------------------ what each of the newer ones promises


def test_a_constant_rate_needs_values_that_one_can_reach():
    for schedule, got in [
        (Exponential(end=0.0), "from 1 to 0 (base value 1)"),
        (Exponential(start=0.0, end=0.1), "from 0 to 0.1 (base value 1)"),
        (Exponential(start=1e-300, end=1e300), "from 1e-300 to 1e+300 (base value 1)"),
    ]:
        with pytest.raises(SolverError, match=re.escape(f"schedules.lr.end: no constant rate leads there; got {got}")):
            over(schedule)
    with pytest.raises(SolverError, match=re.escape("got from 0 to 0.1 (base value 0); give values > 0")):
        table(Exponential(end={"absolute": 0.1}), [1.0, 0.0])
    assert table(Exponential(end=0.1), [1.0, 0.0])[:, 1].tolist() == [0.0] * 10


def test_a_constant_rate_is_that_of_its_gamma():
    assert over(Exponential(end=0.3)) == close(over(Exponential(gamma=0.3)), rel=1e-14)


def test_inverse_counts_from_the_start_of_its_phase():
    assert over([Constant(until=4), Inverse(every=2)])[4:] == close([1 / (1 + i / 2) for i in range(6)])


def test_the_inverse_square_root_of_vaswani_et_al():
    values = over([Linear(start=0.0, until=4), Inverse(every=4, power=0.5)], total=50)
    assert values == close([min(i / 4, math.sqrt(4 / max(i, 1))) for i in range(50)], rel=1e-14)


@pytest.mark.parametrize(("lower", "upper"), [(-7.0, 3.0), (-1.0, 2.0)])
def test_tanh_misses_its_ends_by_what_it_says(lower, upper):
    curve, _ = laid(Tanh(lower=lower, upper=upper, start=0.8, end=0.2))
    assert curve.at(0) == close([0.8 - 0.6 * (1 + math.tanh(lower)) / 2])
    assert curve.at(10) == close([0.2 + 0.6 * (1 - math.tanh(upper)) / 2])


def test_time_power_1_changes_nothing():
    assert over(Cosine(time_power=1)) == over(Cosine())
    assert over(Polynomial(power=0.9, time_power=1.0)) == over(Polynomial(power=0.9))


def test_growth_to_an_end_is_no_error_however_long_the_run():
    assert max(over(Exponential(start=1e-6, end=1e6), total=1000)) < 1e6


@pytest.mark.parametrize("until", ["3/2", "5/2", "7/3"])
def test_a_decay_ends_where_its_phase_ends_between_two_steps(until):
    # The number of periods that fit into the phase is a fraction, and the value that is left is exact all the same.
    phases = [Exponential(0.5, every=1, until=until), Constant("previous")]
    values = lay(phases, run_window([1.0], RunLength(total_steps=6), "lr")).over(np.arange(6))[:, 0]
    assert values[-1] == pytest.approx(0.5 ** float(Fraction(until)), rel=1e-15)
