import math
import re
from fractions import Fraction

import numpy as np
import pytest
from lightning_solver.schedules.join import lay

from laid import UNEVEN, after, close, laid, notes, over, table
from lightning_solver import RunLength, SolverError, SolverSpec
from lightning_solver.schedules import *
from lightning_solver.schedules.base import run_window


# ------------------------------------------------------------------ Staircase


def test_staircase_by_steps():
    assert over(Staircase(Linear(end=0.0), every=4)) == close([1, 1, 1, 1, 0.6, 0.6, 0.6, 0.6, 0.2, 0.2])


def test_staircase_by_a_fraction_of_a_step():
    # Stairs begin at 0, 2.5, 5 and 7.5; a step has the value of the stair's beginning, not of the step.
    values = over(Staircase(Linear(end=0.0), every="5/2"))
    assert values == close([1, 1, 1, 0.75, 0.75, 0.5, 0.5, 0.5, 0.25, 0.25])


def test_staircase_by_even_epochs():
    assert over(Staircase(Linear(end=0.0)), total=12, steps_per_epoch=4) == close([1] * 4 + [2 / 3] * 4 + [1 / 3] * 4)


def test_staircase_by_uneven_epochs():
    values = over(Staircase(Linear(end=0.0)), total=16, epoch_ends=UNEVEN)
    assert values == close([1] * 3 + [13 / 16] * 5 + [8 / 16] * 2 + [6 / 16] * 6)


def test_staircase_by_two_uneven_epochs():
    values = over(Staircase(Linear(end=0.0), every="2ep"), total=16, epoch_ends=UNEVEN)
    assert values == close([1] * 8 + [0.5] * 8)


def test_staircase_by_half_an_uneven_epoch():
    values = over(Staircase(Linear(end=0.0), every="1/2ep"), total=16, epoch_ends=UNEVEN)
    begin = [0, 0, 1.5, 3, 3, 3, 5.5, 5.5, 8, 9, 10, 10, 10, 13, 13, 13]
    assert values == close([1 - at / 16 for at in begin])


def test_staircase_of_phases():
    values = over(Staircase([Linear(start=0.0, until=4), Linear(end=0.5)], every=2))
    assert values == close([0, 0, 0.5, 0.5, 1, 1, 1 - 1 / 6, 1 - 1 / 6, 1 - 2 / 6, 1 - 2 / 6])


def test_staircase_as_a_phase_counts_from_the_start_of_the_run():
    values = over([Constant(until=3), Staircase(Linear(end=0.0), every=4)])
    assert values == close([1, 1, 1, 1, 6 / 7, 6 / 7, 6 / 7, 6 / 7, 2 / 7, 2 / 7])


def test_staircase_of_nothing():
    message = "Staircase.every: must be longer than nothing; got '0ep'; give a length > 0"
    with pytest.raises(SolverError, match=re.escape(message)):
        Staircase(Linear(), every="0ep")


def test_staircase_needs_the_length_of_an_epoch():
    with pytest.raises(SolverError, match=re.escape("schedules.lr.every: needs the length of an epoch")):
        over(Staircase(Linear()))



# ------------------------------------------------------------------ Shift


def test_shift_later():
    values = over(Shift(Linear(end=0.0), later=3))
    assert values == close([1, 1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])


def test_shift_earlier():
    values = over(Shift(Linear(end=0.0), earlier=3))
    assert values == close([0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0])


@pytest.mark.parametrize("by", ["1/2", "25/4", "10%", "1/2ep"])
def test_shift_by_a_part_of_a_step_or_other_units(by):
    run = RunLength(total_steps=10, steps_per_epoch=5)
    steps = {"1/2": 0.5, "25/4": 6.25, "10%": 1.0, "1/2ep": 2.5}[by]
    later = over(Shift(Linear(end=0.0), later=by), steps_per_epoch=run.steps_per_epoch)
    earlier = over(Shift(Linear(end=0.0), earlier=by), steps_per_epoch=run.steps_per_epoch)
    assert later == close([1 - max(i - steps, 0) / 10 for i in range(10)])
    assert earlier == close([1 - min(i + steps, 10) / 10 for i in range(10)])


def test_shift_moves_steps_and_phases():
    phases = [Constant(0.1, until=2), Step(every=3, gamma=0.5)]
    straight = over(phases)
    assert over(Shift(phases, later=2)) == [0.1, 0.1, *straight[:-2]]
    assert over(Shift(phases, earlier=2))[:8] == straight[2:]


def test_shift_of_uneven_epochs():
    values = over(Shift(MultiStep(at=["1ep", "2ep"], gamma=0.5), later=1), total=16, epoch_ends=UNEVEN)
    assert values == [1.0] * 4 + [0.5] * 5 + [0.25] * 7


@pytest.mark.parametrize(
    ("given", "got"), [({}, "(None, None)"), ({"later": 1, "earlier": 2}, "(1, 2)")], ids=["none", "both"]
)
def test_shift_needs_one_direction(given, got):
    with pytest.raises(SolverError, match=re.escape(f"Shift.later: needs one of later and earlier; got {got}; give")):
        Shift(Linear(), **given)


def test_shift_by_what_is_no_duration():
    with pytest.raises(SolverError, match=re.escape("Shift.earlier: is not a duration; got '-3'")):
        Shift(Linear(), earlier="-3")



# ------------------------------------------------------------------ Scale


def test_scale_runs_through_its_schedule_in_its_own_count():
    # 4 batches a step: a warm-up of 25 batches is 6.25 steps long.
    values = over(Scale([Linear(start=0.0, until=25), Constant()], by=4))
    assert values == close([*(4 * i / 25 for i in range(7)), 1, 1, 1])


def test_scale_ends_with_the_run():
    assert over(Scale(Cosine(), by=4)) == over(Cosine())
    assert over(Scale(Cosine(), by="1/3")) == over(Cosine())


def test_scale_slower():
    assert over(Scale(Step(every=2, gamma=0.5), by="1/2")) == [1.0] * 4 + [0.5] * 4 + [0.25] * 2


def test_scale_by_a_decimal():
    assert over(Scale(MultiStep(at=[5], gamma=0.5), by=2.5)) == [1.0] * 2 + [0.5] * 8


def test_scale_does_not_change_epochs_and_percent():
    phases = [Linear(start=0.0, until="1ep"), Constant(until="60%"), Cosine()]
    assert over(Scale(phases, by=4), steps_per_epoch=5) == over(phases, steps_per_epoch=5)
    assert over(Scale(phases, by=4), total=16, epoch_ends=UNEVEN) == over(phases, total=16, epoch_ends=UNEVEN)


def test_scale_as_a_phase():
    values = over([Constant(until=4), Scale(Linear(end=0.0), by=3)])
    assert values == over([Constant(until=4), Linear(end=0.0)])


def test_staircase_inside_a_scale_counts_in_its_own_count():
    # 3 batches a step, a stair each 2 batches: steps 0 .. 9 are batches 0, 3, 6, ... looked up at 0, 2, 6, 8, ...
    values = over(Scale(Staircase(Linear(end=0.0), every=2), by=3))
    assert values == close([1 - (3 * i // 2 * 2) / 30 for i in range(10)])


def test_scale_inside_a_scale():
    assert over(Scale(Scale(MultiStep(at=[24], gamma=0.5), by=3), by=2)) == [1.0] * 4 + [0.5] * 6


@pytest.mark.parametrize("by", [0.1, "1/10", 0.3, 10 / 3], ids=repr)
def test_scale_in_a_long_run(by):
    # The decimal 0.1 is a fraction of large numbers, or is taken for the tenth that it was written as.
    values = over(Scale(Linear(end=0.0), by=by), total=10_000)
    assert values == pytest.approx([1 - i / 10_000 for i in range(10_000)], abs=1e-12)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (0, "Scale.by: must be > 0; got 0; correct it"),
        (-1.5, "Scale.by: must be > 0; got -1.5"),
        ("-1/3", "Scale.by: must be > 0; got '-1/3'"),
        ("four", "Scale.by: is not a number; got 'four'; write 4, 2.5 or '1/3'"),
        ("1/0", "Scale.by: is not a number; got '1/0'"),
        (float("inf"), "Scale.by: must be a finite number; got inf"),
        (True, "Scale.by: must be a whole number, a number or a text; got True (bool)"),
    ],
)
def test_scale_by_a_bad_factor(by, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Scale(Linear(), by=by)


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    "schedule",
    [
        [Linear(start=0.0, until=4), Cosine(end=0.2)],
        Product([Linear(end=0.3), Step(every=4)]),
        Staircase(Linear(end=0.0), every=4),
        Staircase(Linear(end=0.0), every="1ep"),
        Shift(Linear(end=0.0), later=3),
        Shift(Linear(end=0.0), earlier=3),
        Scale(Polynomial(), by=3),
        Scale(Step(every=4), by=3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("epochs", [{"steps_per_epoch": 4}, {"epoch_ends": [3, 8, 12]}], ids=["even", "uneven"])
def test_held_after_the_end_of_the_run(schedule, epochs):
    end, later = after(schedule, **epochs)
    assert all(value == end for value in later)
