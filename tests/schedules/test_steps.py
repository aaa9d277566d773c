import re
from fractions import Fraction

import numpy as np
import pytest

from laid import UNEVEN, after, close, laid, over, table
from lightning_solver import RunLength, SolverError
from lightning_solver.schedules import Constant, MultiStep, Step
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay

EXPECTED = [
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
    rows = table(schedule, [0.1, 0.0, 3.0])
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows, np.outer(values, [0.1, 0.0, 3.0]), rtol=2e-15, atol=1e-16)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in EXPECTED], ids=repr)
def test_held_after_the_end_of_the_run(schedule):
    end, later = after(schedule)
    assert all(value == end for value in later)


@pytest.mark.parametrize("shape", [Step(every=4), MultiStep(at=[4, 8])], ids=repr)
def test_the_length_of_the_run_is_not_needed(shape):
    (endless, _), (long, _) = laid(shape, None), laid(shape, 1000)
    assert [endless.at(i) for i in range(30)] == [long.at(i) for i in range(30)]


@pytest.mark.parametrize("shape", [Step(1, start=0.0), MultiStep([1], start=0.0)], ids=repr)
def test_a_decay_may_start_from_nothing(shape):
    assert over(shape) == [0.0] * 10


def test_growth_that_no_float_holds_is_an_error_and_not_found_at_step_n():
    with pytest.raises(
        SolverError, match=re.escape("schedules.lr.gamma: grows beyond what a float holds within 400 p")
    ):
        laid(Step(every=1, gamma=10.0), 400)


# ------------------------------------------------------------------ where they count from


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


def test_an_epoch_of_unknown_length_is_an_error_only_where_it_is_needed():
    assert over(Step(every=5))[5] == 0.1
    with pytest.raises(SolverError, match=re.escape("schedules.lr.every: needs the length of an epoch")):
        over(Step(every="1ep"))
    with pytest.raises(SolverError, match=re.escape("schedules.lr.at[1]: needs the length of an epoch")):
        over(MultiStep(at=[2, "1ep"]))


# ------------------------------------------------------------------ points


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
        (lambda: Step(every=1, gamma=0), "Step.gamma: must be a factor > 0; got 0.0"),
        (lambda: MultiStep(at=[1], gamma=-1), "MultiStep.gamma: must be a factor > 0; got -1.0"),
        (lambda: Step(every=1, gamma="half"), "Step.gamma: must be a number; got 'half' (str)"),
        (lambda: Step(every=0), "Step.every: must be longer than nothing; got 0; give a length > 0"),
        (lambda: Step(every="0ep"), "Step.every: must be longer than nothing; got '0ep'"),
        (lambda: Step(every="5 ep"), "Step.every: is not a duration; got '5 ep'; write 500 or 500st"),
        (lambda: Step(every=True), "Step.every: must be a duration such as 500, 5ep or 10%; got True (bool)"),
        (lambda: Step(every=2.5), "Step.every: must be a duration such as 500, 5ep or 10%; got 2.5 (float)"),
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
    ],
)
def test_bad_values(make, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("every", ["100%-30%-70%", "10st-1ep"])
def test_a_length_that_comes_to_nothing_in_this_run(every):
    with pytest.raises(SolverError, match=re.escape("schedules.lr.every: must be longer than nothing; got '")):
        over(Step(every=every), steps_per_epoch=10)
