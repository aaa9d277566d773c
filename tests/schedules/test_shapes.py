import math
import re
from fractions import Fraction

import numpy as np
import pytest
from lightning_solver.schedules.join import lay

from lightning_solver import RunLength, SolverError, SolverSpec
from lightning_solver.schedules import Constant, Cosine, Exponential, Linear, MultiStep, Polynomial, Step
from lightning_solver.schedules.base import Axis, run_window

UNEVEN = [3, 8, 10, 16]


def over(schedule, total=10, base=1.0, *, beyond="error", optimizer=None, **run):
    spec = SolverSpec(schedules={"lr": schedule}, beyond_run=beyond, optimizer=optimizer)
    return spec.curve("lr", [base], run=RunLength(total_steps=total, **run))[:, 0].tolist()


def close(values):
    return pytest.approx(values, rel=2e-15, abs=1e-16)


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
    (Step(every=3), [0.1 ** (i // 3) for i in range(10)]),
    (Step(every=1, gamma=0.5, start=4.0), [4.0 * 0.5**i for i in range(10)]),
    (Step(every="5/2", gamma=0.5), [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]),
    (Step(every="30%", gamma=0.5), [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]),
    (Step(every=100), [1.0] * 10),
    (MultiStep(at=[3, 7]), [1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1**2, 0.1**2, 0.1**2]),
    (MultiStep(at=["25%", "75%"], gamma=0.5), [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
    (MultiStep(at=[0, 9], gamma=2.0, start=0.5), [1.0] * 9 + [2.0]),
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
    ],
    ids=repr,
)
@pytest.mark.parametrize("base", [1.0, 0.3, 1e-5])
def test_ends_are_exact(schedule, base):
    curve = lay(schedule, run_window([base], RunLength(total_steps=7), "lr"))
    assert curve.at(0) == [schedule.start * base]
    assert curve.at(7) == [schedule.end * base]


@pytest.mark.parametrize("shape", [Linear, Cosine, Polynomial])
def test_equal_ends_stay_equal(shape):
    assert set(over(shape(start=0.3, end=0.3), total=37, base=0.7)) == {0.3 * 0.7}


@pytest.mark.parametrize("shape", [Linear, Cosine, Polynomial, lambda until: Exponential(0.01, until=until)])
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


# ------------------------------------------------------------------ levels


def test_absolute_levels_are_the_same_for_every_group():
    spec = SolverSpec(schedules={"lr": Linear(start={"absolute": 0.0}, end={"absolute": 1.0})})
    table = spec.curve("lr", [0.1, 5.0], total_steps=4)
    assert table.tolist() == [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.75]]


def test_absolute_end_below_a_scaled_base():
    spec = SolverSpec(schedules={"lr": Linear(end={"absolute": 0.5})})
    table = spec.curve("lr", [1.0, 0.1], total_steps=2)
    assert table == close(np.array([[1.0, 0.1], [0.75, 0.3]]))


def test_optimizer_levels_are_factors_of_the_optimiser_s_own_value():
    spec = SolverSpec(optimizer={"name": "SGD", "args": {"lr": 0.4}}, schedules={"lr": Linear(end={"optimizer": 0.25})})
    table = spec.curve("lr", [0.4, 0.1], total_steps=2)
    assert table == close(np.array([[0.4, 0.1], [0.25, 0.1]]))


def test_optimizer_level_follows_the_lr_of_the_spec():
    spec = SolverSpec(
        optimizer={"name": "SGD", "args": {"lr": 0.4}}, lr=0.8, schedules={"lr": Constant({"optimizer": 0.5})}
    )
    assert spec.curve("lr", [1.0], total_steps=1).tolist() == [[0.4]]


def test_optimizer_level_without_an_optimiser():
    with pytest.raises(
        SolverError,
        match=re.escape(
            "schedules.lr.end: needs the optimiser's own value, which is not known; got {'optimizer': 0.5}"
        ),
    ):
        over(Linear(end={"optimizer": 0.5}))


def test_previous_goes_on_from_what_was_left():
    values = over([Linear(end=0.5, until=4), Cosine(start="previous")])
    assert values[4:] == close([0.5 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)])
    assert over([Linear(end=0.5, until=4), Constant("previous")])[4:] == [0.5] * 6


def test_previous_after_a_fractional_end():
    # The step that follows 2.5 is 3, and the line has arrived by then.
    values = over([Linear(end=0.5, until="5/2"), Constant("previous")], total=5)
    assert values == close([1.0, 0.8, 0.6, 0.5, 0.5])


@pytest.mark.parametrize(
    ("schedule", "where"),
    [
        (Constant("previous"), "schedules.lr.value"),
        (Cosine(start="previous"), "schedules.lr.start"),
        ([Linear(end="previous", until=3), Constant()], "schedules.lr[0].end"),
    ],
    ids=repr,
)
def test_previous_without_a_phase_before(schedule, where):
    message = f"{where}: there is no phase before this one; got 'previous'; give a number"
    with pytest.raises(SolverError, match=re.escape(message)):
        over(schedule)


# ------------------------------------------------------------------ epochs


def test_step_by_even_epochs():
    values = over(Step(every="1ep", gamma=0.5), total=12, steps_per_epoch=4)
    assert values == [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_step_by_fractional_epochs():
    values = over(Step(every="1ep", gamma=0.5), total=10, steps_per_epoch=Fraction(5, 2))
    assert values == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    ("every", "drops"),
    [("1ep", [3, 8, 10]), ("2ep", [8]), ("1/2ep", [1.5, 3, 5.5, 8, 9, 10, 13]), ("3/2ep", [5.5, 10])],
)
def test_step_by_uneven_epochs(every, drops):
    values = over(Step(every=every, gamma=0.5), total=16, epoch_ends=UNEVEN)
    assert values == [0.5 ** sum(step >= drop for drop in drops) for step in range(16)]


def test_step_by_uneven_epochs_counts_from_the_start_of_its_phase():
    # The phase begins at step 5, which is 1.4 epochs: the first drop is at 2.4 epochs, step 8.8.
    values = over([Constant(until=5), Step(every="1ep", gamma=0.5)], total=16, epoch_ends=UNEVEN)
    assert values == [1.0] * 9 + [0.5] * 4 + [0.25] * 3


def test_step_counts_from_the_start_of_its_phase():
    values = over([Constant(until=4), Step(every=3, gamma=0.5)])
    assert values == [1.0] * 7 + [0.5] * 3


def test_multi_step_by_uneven_epochs():
    values = over(MultiStep(at=["1ep", "2.5ep"], gamma=0.5), total=16, epoch_ends=UNEVEN)
    assert values == [1.0] * 3 + [0.5] * 6 + [0.25] * 7


def test_multi_step_counts_from_the_start_of_the_run():
    values = over([Constant(until=4), MultiStep(at=[2, 6], gamma=0.5)])
    assert values == [1.0] * 4 + [0.5] * 2 + [0.25] * 4


def test_exponential_counts_from_the_start_of_its_phase():
    assert over([Constant(until=4), Exponential(gamma=0.5, every=1)])[4:] == [0.5**i for i in range(6)]


def test_an_epoch_of_unknown_length_is_an_error_only_where_it_is_needed():
    assert over(Step(every=5))[5] == 0.1
    with pytest.raises(SolverError, match=re.escape("schedules.lr.every: needs the length of an epoch")):
        over(Step(every="1ep"))
    with pytest.raises(SolverError, match=re.escape("schedules.lr.at[1]: needs the length of an epoch")):
        over(MultiStep(at=[2, "1ep"]))


# ------------------------------------------------------------------ where the run's length is not known


@pytest.mark.parametrize("shape", [Linear(), Cosine(), Polynomial(), Exponential(0.1)], ids=repr)
def test_a_shape_that_ends_with_the_run_needs_its_length(shape):
    window = run_window([1.0], RunLength(unknown="the loader has no length"), "schedules.lr")
    with pytest.raises(SolverError, match=r"schedules\.lr: needs the length of the run; got the loader has no length"):
        lay(shape, window)


@pytest.mark.parametrize(
    "shape", [Constant(), Exponential(0.5, every=4), Step(every=4), MultiStep(at=[4, 8])], ids=repr
)
def test_a_shape_without_an_end_does_not_need_it(shape):
    endless = lay(shape, run_window([1.0], RunLength(), "lr"))
    long = lay(shape, run_window([1.0], RunLength(total_steps=1000), "lr"))
    assert [endless.at(i) for i in range(30)] == [long.at(i) for i in range(30)]


# ------------------------------------------------------------------ multi-step points


def test_multi_step_points_must_grow():
    message = "schedules.lr.at[1]: does not come after the point before it; got 3; sort the list"
    for points in ([5, 3], [3, 3], ["50%", 3]):
        with pytest.raises(SolverError, match=re.escape(message)):
            over(MultiStep(at=points))


def test_multi_step_point_beyond_the_run():
    message = (
        "schedules.lr.at[1]: lies at step 10, beyond step 10 where its phase ends; got 10; "
        "move it, or set beyond_run: allow"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        over(MultiStep(at=[5, 10]))


def test_multi_step_point_beyond_the_run_becomes_a_note_where_that_is_allowed():
    window = run_window([1.0], RunLength(total_steps=10), "schedules.lr", beyond="allow")
    curve = lay(MultiStep(at=[5, "25/2"], gamma=0.5), window)
    assert [curve.at(i)[0] for i in range(14)] == [1.0] * 5 + [0.5] * 9
    assert window.notes == ["schedules.lr.at[1] (25/2) lies at step 12.5, beyond step 10 where its phase ends"]


def test_multi_step_point_beyond_its_phase():
    with pytest.raises(SolverError, match=re.escape("schedules.lr[0].at[0]: lies at step 5, beyond step 4 where its")):
        over([MultiStep(at=[5], until=4), Constant()])


# ------------------------------------------------------------------ bad values


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(gamma=0.0), "Exponential.gamma: must be a factor > 0; got 0.0"),
        (lambda: Exponential(gamma=-0.5), "Exponential.gamma: must be a factor > 0; got -0.5"),
        (lambda: Step(every=1, gamma=0), "Step.gamma: must be a factor > 0; got 0.0"),
        (lambda: MultiStep(at=[1], gamma=-1), "MultiStep.gamma: must be a factor > 0; got -1.0"),
        (lambda: Step(every=1, gamma="half"), "Step.gamma: must be a number; got 'half' (str)"),
        (lambda: Exponential(gamma=None), "Exponential.gamma: needs one of gamma and end; got (None, None)"),
        (lambda: Exponential(gamma=float("nan")), "Exponential.gamma: must be a finite number; got nan"),
        (lambda: Step(every=0), "Step.every: must be longer than nothing; got 0; give a length > 0"),
        (lambda: Step(every="0ep"), "Step.every: must be longer than nothing; got '0ep'"),
        (lambda: Exponential(gamma=0.5, every="0%"), "Exponential.every: must be longer than nothing; got '0%'"),
        (lambda: Step(every="5 ep"), "Step.every: is not a duration; got '5 ep'; write 500 or 500st"),
        (lambda: Step(every=True), "Step.every: must be a duration such as 500, 5ep or 10%; got True (bool)"),
        (lambda: Step(every=2.5), "Step.every: must be a duration such as 500, 5ep or 10%; got 2.5 (float)"),
        (lambda: Polynomial(power=0), "Polynomial.power: must be > 0; got 0.0"),
        (lambda: Polynomial(power=-2.0), "Polynomial.power: must be > 0; got -2.0"),
        (lambda: Polynomial(power=float("inf")), "Polynomial.power: must be a finite number; got inf"),
        (lambda: MultiStep(at=[]), "MultiStep.at: has no points; got []; give at least one"),
        (lambda: MultiStep(at=[1, "x"]), "MultiStep.at[1]: is not a duration; got 'x'"),
        (
            lambda: MultiStep(at=[1, True]),
            "MultiStep.at[1]: must be a duration such as 500, 5ep or 10%; got True (bool)",
        ),
        (
            lambda: MultiStep(at=5),
            "MultiStep.at: must be a list (each item a duration such as 500, 5ep or 10%); got 5 (int)",
        ),
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


LEVELS = [(Constant, "value"), (Linear, "start"), (Linear, "end"), (Cosine, "start"), (Cosine, "end")]
LEVELS += [(Polynomial, "start"), (Polynomial, "end")]


@pytest.mark.parametrize(("shape", "name"), LEVELS)
@pytest.mark.parametrize(
    ("level", "message"),
    [
        (-0.1, "must not be negative; got -0.1; give a value >= 0"),
        ({"absolute": -1.0}, "must not be negative; got {'absolute': -1.0}"),
        ({"optimizer": -1.0}, "must not be negative; got {'optimizer': -1.0}"),
        ({"absolut": 1.0}, "is not a value; got {'absolut': 1.0}; give a factor of the group's base value, {absolute:"),
        ({"absolute": 1.0, "optimiser": 1.0}, "is not a value; got {'absolute': 1.0, 'optimiser': 1.0}"),
        ({}, "is not a value; got {}"),
        ("prev", "is not a value; got 'prev'; give a factor of the group's base value"),
        ("0.1", "is not a value; got '0.1'"),
        (float("nan"), "must be a finite number; got nan"),
    ],
)
def test_bad_levels(shape, name, level, message):
    with pytest.raises(SolverError, match=re.escape(f"{shape.__name__}.{name}: {message}")):
        shape(**{name: level})


@pytest.mark.parametrize("shape", [Exponential(0.5, start=0.0), Step(1, start=0.0), MultiStep([1], start=0.0)])
def test_a_decay_may_start_from_nothing(shape):
    assert over(shape) == [0.0] * 10


@pytest.mark.parametrize("schedule", [Step(every=1, gamma=10.0), Exponential(gamma=10.0, every=1)], ids=repr)
def test_growth_that_no_float_holds_is_an_error_and_not_found_at_step_n(schedule):
    with pytest.raises(SolverError, match=re.escape("schedules.lr")):
        lay(schedule, run_window([1.0], RunLength(total_steps=400), "schedules.lr"))


# ------------------------------------------------------------------ after the end of the run


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in EXPECTED], ids=repr)
def test_held_after_the_end_of_the_run(schedule):
    curve = lay(schedule, run_window([0.3], RunLength(total_steps=10), "lr"))
    assert {curve.at(i)[0] for i in range(10, 31)} == {curve.at(10)[0]}


# ------------------------------------------------------------------ positions as floats


def test_axis_divides_once():
    axis = Axis.between(Fraction(1, 3), Fraction(7, 2), 6)
    assert [axis(n) for n in (0, 2, 9, 23, 99)] == [0.0, 0.0, 1 / 3, 1.0, 1.0]
    assert axis(np.array([0, 2, 9, 23, 99])).tolist() == [axis(n) for n in (0, 2, 9, 23, 99)]


def test_axis_of_numbers_too_large_for_floats():
    axis = Axis.between(Fraction(1, 3), Fraction(10**17 + 1, 7), 10**9)
    positions = [0, 10**9, 10**15, 10**18]
    assert axis(np.array(positions)).tolist() == [axis(n) for n in positions]
    assert axis(10**18) == float(Fraction(10**9 * 3 - 1, 3) / Fraction(10**17 + 1, 7))


@pytest.mark.parametrize("until", ["3/2", "5/2", "7/3"])
def test_a_decay_ends_where_its_phase_ends_between_two_steps(until):
    # The number of periods that fit into the phase is a fraction, and the value that is left is exact all the same.
    phases = [Exponential(0.5, every=1, until=until), Constant("previous")]
    values = lay(phases, run_window([1.0], RunLength(total_steps=6), "lr")).over(np.arange(6))[:, 0]
    assert values[-1] == pytest.approx(0.5 ** float(Fraction(until)), rel=1e-15)
