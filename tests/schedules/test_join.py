import math
import re

import pytest

from laid import UNEVEN, close, notes, over
from lightning_solver import RunLength, SolverError
from lightning_solver.schedules import Constant, Cosine, Exponential, Join, Linear
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay


def test_phases_one_after_another():
    values = over([Linear(start=0.0, until=4), Constant(until="60%"), Cosine()])
    assert values == close([0, 0.25, 0.5, 0.75, 1, 1, *((1 + math.cos(math.pi * i / 4)) / 2 for i in range(4))])


def test_the_step_at_until_has_the_next_phase_s_value():
    assert over([Constant(0.2, until=3), Constant(0.7)], total=5) == [0.2, 0.2, 0.2, 0.7, 0.7]
    assert over([Constant(0.2, until="7/2"), Constant(0.7)], total=5) == [0.2, 0.2, 0.2, 0.2, 0.7]


def test_a_list_is_a_join():
    phases = [Linear(start=0.0, until=4), Cosine()]
    assert over(Join(phases)) == over(phases)
    assert over([Join(phases)]) == over(phases)


def test_a_join_as_a_phase_ends_where_it_says():
    inner = Join([Linear(start=0.0, until=2), Linear(end=0.5)], until=6)
    assert over([inner, Constant(0.1)]) == close([0, 0.5, 1, 0.875, 0.75, 0.625, 0.1, 0.1, 0.1, 0.1])


def test_previous_reaches_into_a_join():
    values = over([Linear(end=0.4, until=5), Join([Linear(start="previous", end=0.0, until=9), Constant("previous")])])
    assert values[5:] == close([0.4, 0.3, 0.2, 0.1, 0.0])


def test_three_phases_by_epochs_of_different_length():
    phases = [Constant(0.1, until="1ep"), Constant(0.2, until="2.5ep"), Constant(0.3)]
    assert over(phases, total=16, epoch_ends=UNEVEN) == [0.1] * 3 + [0.2] * 6 + [0.3] * 7


def test_an_empty_join():
    with pytest.raises(SolverError, match=re.escape("Join.phases: is empty; got []; give at least one schedule")):
        Join([])


def test_a_middle_phase_without_an_end():
    message = "schedules.lr[1].until: a phase that is not the last has no end; say with until where it ends"
    with pytest.raises(SolverError, match=re.escape(message)):
        over([Linear(until=3), Constant(), Cosine()])


def test_a_middle_phase_of_a_nested_join_without_an_end():
    with pytest.raises(SolverError, match=re.escape("schedules.lr[1].phases[0].until: a phase that is not the last")):
        over([Linear(until=3), Join([Constant(), Cosine()])])


def test_until_that_does_not_grow():
    message = (
        "schedules.lr[1].until: ends before it begins, at step 5; got 3, which is step 3; "
        "until is a point of the run, not a length: let them grow"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        over([Linear(until="50%"), Constant(until=3), Cosine()])


def test_until_beyond_the_run():
    message = (
        "schedules.lr[0].until: reaches beyond the run, which ends at step 10; got 12, which is step 12; "
        "shorten it, train longer, or set beyond_run: allow"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        over([Linear(until=12), Cosine()])


def test_until_beyond_the_run_where_that_is_allowed():
    phases = [Linear(start=0.0, until=20), Cosine()]
    assert over(phases, beyond="allow") == close([i / 20 for i in range(10)])
    assert notes(phases, beyond="allow") == [
        "schedules.lr[0].until (20) reaches beyond the run, which ends at step 10",
        "schedules.lr[1]: never begins, as the run ends before step 20",
    ]


def test_the_last_phase_may_say_that_it_ends_with_the_run():
    assert over([Linear(until=4), Cosine(until="100%")]) == over([Linear(until=4), Cosine()])


def test_the_run_must_not_be_left_undefined():
    message = (
        "schedules.lr[1].until: leaves the run undefined from there to step 10; got '80%', which is step 8; "
        "leave out until of the last phase, or add a phase (Constant holds a value)"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        over([Linear(until=4), Cosine(until="80%")])


def test_a_single_schedule_must_not_leave_the_run_undefined():
    with pytest.raises(SolverError, match=re.escape("schedules.lr.until: leaves the run undefined from there to step")):
        over(Linear(until=4))


def test_an_endless_run_must_not_be_left_undefined():
    window = run_window([1.0], RunLength(), "schedules.lr")
    with pytest.raises(
        SolverError, match=re.escape("until: leaves the run undefined from there to the end of the run")
    ):
        lay((Linear(start=0.0, until=5), Constant(until=8)), window)


def test_an_endless_run_may_begin_with_phases():
    curve = lay((Linear(start=0.0, until=4), Constant()), run_window([1.0], RunLength(), "lr"))
    assert [curve.at(i)[0] for i in (0, 1, 4, 10**9)] == [0.0, 0.25, 1.0, 1.0]


def test_a_phase_of_no_length_is_left_out_and_noted():
    phases = [Linear(start=0.0, until=0), Cosine()]
    assert over(phases) == over(Cosine())
    assert notes(phases) == ["schedules.lr[0].until (0): the phase is empty and is left out"]
    assert notes([Linear(until=4), Constant(0.2, until="40%"), Constant()]) == [
        "schedules.lr[1].until (40%): the phase is empty and is left out"
    ]


def test_a_phase_between_two_steps_is_noted():
    phases = [Constant(until="9/4"), Constant(0.5, until="11/4"), Constant()]
    assert over(phases) == [1.0] * 10
    assert notes(phases)[0] == "schedules.lr[1]: no step falls into the phase"


def test_previous_after_a_phase_of_no_length_is_that_of_the_phase_before_it():
    phases = [Linear(end=0.5, until=4), Constant(0.9, until=4), Constant("previous")]
    assert over(phases)[4:] == [0.5] * 6


def test_a_phase_that_begins_with_the_end_of_the_run_is_noted():
    phases = [Linear(until="100%"), Cosine()]
    assert over(phases) == over(Linear())
    assert notes(phases) == ["schedules.lr[1]: never begins, as the run ends before step 10"]


def test_a_jump_is_noted():
    assert notes([Constant(0.5, until=4), Constant()]) == [
        "schedules.lr[1]: jumps from 0.5 to 1 at step 4 (base value 1)"
    ]


@pytest.mark.parametrize(
    "phases",
    [
        [Linear(start=0.0, until=4), Cosine()],
        [Linear(end=0.3, until="13/4"), Cosine(start=0.3)],
        [Cosine(end=0.3, until=4), Constant("previous")],
        [Exponential(0.1, until=5), Constant(0.1)],
    ],
)
def test_phases_that_meet_are_not_noted(phases):
    assert notes(phases) == []


def test_phases_that_meet_between_two_steps_are_not_noted():
    # 10% of 1005 steps are 100.5 steps: step 101 is the first of the cosine, which has moved a little by then.
    assert notes([Linear(start=0.0, until="10%"), Cosine()], total=1005) == []
