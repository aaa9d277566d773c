import math
import re

import numpy as np
import pytest
from lightning_solver.schedules.join import lay

from lightning_solver import RunLength, SolverError, SolverSpec
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

UNEVEN = [3, 8, 10, 16]


def over(schedule, total=10, base=1.0, *, beyond="error", **run):
    spec = SolverSpec(schedules={"lr": schedule}, beyond_run=beyond)
    return spec.curve("lr", [base], run=RunLength(total_steps=total, **run))[:, 0].tolist()


def notes(schedule, total=10, *, beyond="error", **run):
    window = run_window([1.0], RunLength(total_steps=total, **run), "schedules.lr", beyond=beyond)
    lay(schedule if not isinstance(schedule, list) else tuple(schedule), window)
    return window.notes


def after(schedule, total=10, *, beyond="error", **run):
    """The value at the end of the run, and the values from there on."""
    window = run_window([1.0], RunLength(total_steps=total, **run), "schedules.lr", beyond=beyond)
    curve = lay(schedule, window)
    return curve.at(total), [curve.at(i) for i in range(total, 3 * total + 1)]


def close(values):
    return pytest.approx(values, rel=2e-15, abs=1e-16)


# ------------------------------------------------------------------ Join


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


# ------------------------------------------------------------------ Product


def test_product_multiplies_at_each_step():
    values = over(Product([Cosine(), [Linear(start=0.1, until=4), Constant()]]), base=0.3)
    warmup = [0.1, 0.325, 0.55, 0.775] + [1.0] * 6
    assert values == close([0.3 * (1 + math.cos(math.pi * i / 10)) / 2 * warmup[i] for i in range(10)])


def test_product_of_three():
    values = over(Product([Linear(end=0.0), Step(every=4, gamma=0.5), Constant(0.2)]), base=2.0)
    assert values == close([2 * (1 - i / 10) * 0.5 ** (i // 4) * 0.2 for i in range(10)])


def test_factors_do_not_know_the_group_s_base():
    spec = SolverSpec(schedules={"lr": Product([Constant(), Linear(start=0.5)])})
    table = spec.curve("lr", [2.0, 0.1], total_steps=2)
    assert table == close(np.array([[1.0, 0.05], [1.5, 0.075]]))


def test_the_first_of_a_product_may_have_absolute_values():
    assert over(Product([Constant({"absolute": 0.4}), Constant(0.5)]), base=7.0) == [0.2] * 10


def test_previous_inside_a_factor_is_that_of_the_factor():
    values = over(Product([Linear(end=0.0), [Linear(start=0.0, end=0.5, until=4), Constant("previous")]]))
    assert values[4:] == close([(1 - i / 10) * 0.5 for i in range(4, 10)])


def test_a_factor_does_not_see_the_phase_before_the_product():
    phases = [Constant(0.5, until=4), Product([Constant(), Constant("previous")])]
    message = "schedules.lr[1].factors[1].value: there is no phase before this one; got 'previous'"
    with pytest.raises(SolverError, match=re.escape(message)):
        over(phases)


@pytest.mark.parametrize(
    ("factor", "where"),
    [
        (Constant({"absolute": 0.1}), "factors[1].value"),
        (Linear(start={"optimizer": 0.1}), "factors[1].start"),
        ([Linear(until=3), Cosine(end={"absolute": 0.1})], "factors[1][1].end"),
        (Shift(Linear(end={"absolute": 0.1}), later=1), "factors[1].of.end"),
        (Staircase([Constant(until=3), Linear(end={"absolute": 0.1})], every=1), "factors[1].of[1].end"),
        (Join([Constant(until=3), Linear(end={"absolute": 0.1})]), "factors[1].phases[1].end"),
        (Product([Constant(), Constant({"absolute": 0.1})]), "factors[1].factors[1].value"),
    ],
)
def test_factors_have_no_absolute_values(factor, where):
    message = f"schedules.lr.{where}: must be a plain factor; got {{"
    with pytest.raises(SolverError, match=re.escape(message)):
        over(Product([Linear(), factor]))


@pytest.mark.parametrize("factors", [[], [Constant()]])
def test_a_product_needs_two(factors):
    with pytest.raises(SolverError, match=re.escape(f"Product.factors: needs at least two; got {len(factors)}; give")):
        Product(factors)


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


NESTED = [
    ("of", lambda inner: Staircase(inner, every=2)),
    ("of", lambda inner: Shift(inner, later=2)),
    ("of", lambda inner: Scale(inner, by=2)),
    ("phases", lambda inner: Join([inner])),
    ("factors[0]", lambda inner: Product([inner, Constant()])),
]


@pytest.mark.parametrize(("field", "wrap"), NESTED)
def test_an_error_inside_says_where(field, wrap):
    with pytest.raises(SolverError, match=re.escape(f"schedules.lr.{field}.value: there is no phase before this one")):
        over(wrap(Constant("previous")))


@pytest.mark.parametrize(("field", "wrap"), NESTED)
def test_beyond_the_run_inside(field, wrap):
    assert over(wrap(MultiStep(at=[5, 99])), beyond="allow", total=10)[0] == 1.0
    with pytest.raises(SolverError, match=re.escape(f"schedules.lr.{field}.at[1]: lies at step 99, beyond step ")):
        over(wrap(MultiStep(at=[5, 99])))


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
