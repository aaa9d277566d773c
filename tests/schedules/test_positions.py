import re

import pytest
import torch

from laid import UNEVEN, after, close, laid, notes, over
from lightning_solver import RunLength, SolverError
from lightning_solver.schedules import (
    Constant,
    Cosine,
    Cycle,
    Linear,
    MultiStep,
    Noise,
    Over,
    Polynomial,
    Product,
    Scale,
    Shift,
    Staircase,
    Step,
    Sum,
)

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


# ------------------------------------------------------------------ Over


def test_over_begins_before_its_phase():
    values = over([Linear(start=0.0, end=0.6, until=4), Over(Linear(end=0.0), begin=0)])
    assert values == close([0, 0.15, 0.3, 0.45, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_over_ends_before_or_after_its_phase():
    assert over(Over(Linear(end=0.2), end="1/2ep"), steps_per_epoch=8) == close([1, 0.8, 0.6, 0.4, *[0.2] * 6])
    values = over([Over(Linear(end=0.0), end="100%", until=4), Constant(0.6)])
    assert values == close([1, 0.9, 0.8, 0.7, *[0.6] * 6])
    assert notes([Over(Linear(end=0.0), end="100%", until=4), Constant(0.6)]) == []


def test_over_both_points_and_held_outside_of_them():
    values = over(Over([Constant(0.1, until="7/2"), Linear(end=0.5)], begin="3/2", end="15/2"))
    assert values == close([0.1] * 4 + [1 - 0.5 * (i - 3.5) / 4 for i in range(4, 8)][:4] + [0.5] * 2)


def test_over_holds_its_first_value_before_it_begins():
    noise = over(Noise())
    assert over(Over(Noise(), begin=4)) == [noise[4]] * 4 + noise[4:]
    curve, _ = laid(Over(Noise(), begin=4))
    assert [curve.at(i)[0] for i in range(5)] == [noise[4]] * 5


def test_over_of_phases_may_be_all_but_done():
    phases = [Linear(start=0.0, until=2), Linear(end=0.0)]
    assert over([Constant(until=5), Over(phases, begin=0)])[5:] == over(phases)[5:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Over(Linear()), "Over.begin: needs one of begin and end; give a point, or the schedule by itself"),
        (lambda: Over(Linear(), begin="x"), "Over.begin: is not a duration; got 'x'"),
        (lambda: Over(Linear(), end=-1), "Over.end: is not a duration; got -1"),
        (lambda: Over("linear", end=5), "Over.of"),
    ],
)
def test_over_of_bad_points(make, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Over(Linear(), begin=5, end="50%"), "schedules.lr.end: does not come after begin; got step 5 to step 5"),
        (
            [Constant(until=4), Over(Linear(), end=3)],
            "schedules.lr[1].end: does not come after begin; got step 4 to st",
        ),
        (
            Over(Linear(), end=12),
            "schedules.lr.end: reaches beyond the run, which ends at step 10; got 12, which is st",
        ),
        (Over(Linear(), begin="1ep"), "schedules.lr.begin: needs the length of an epoch"),
        (Over(Linear(start="previous"), end=5), "schedules.lr.of.start: there is no phase before this one"),
    ],
)
def test_over_that_does_not_fit(schedule, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        over(schedule)


def test_over_beyond_the_run_where_that_is_allowed():
    schedule = Over(Linear(end=0.0), end=20)
    assert over(schedule, beyond="allow") == close([1 - i / 20 for i in range(10)])
    assert notes(schedule, beyond="allow") == ["schedules.lr.end (20) reaches beyond the run, which ends at step 10"]


# ------------------------------------------------------------------ Cycle


def test_cycles_begin_again():
    assert over(Cycle(Linear(end=0.0), every=4)) == close([1, 0.75, 0.5, 0.25] * 2 + [1, 0.75])
    assert over(Cycle(Linear(end=0.0), every="40%")) == over(Cycle(Linear(end=0.0), every=4))
    assert over(Cycle(Linear(end=0.0), every="1ep"), steps_per_epoch=4) == over(Cycle(Linear(end=0.0), every=4))


def test_cycles_of_a_fractional_length():
    values = over(Cycle(Linear(end=0.0), every="5/2"))
    assert values == close([1 - (i % 2.5) / 2.5 for i in range(10)])


def test_cycles_that_grow_and_decay():
    # the cycles begin at 0, 2, 5 and 9.5
    values = over(Cycle(Linear(end=0.0), every=2, grow=1.5, decay=0.5), total=12)
    begin, length = [0, 0, 2, 2, 2, *[5] * 5, 9.5, 9.5], [2, 2, 3, 3, 3, *[4.5] * 5, 6.75, 6.75]
    decay = [1, 1, *[0.5] * 3, *[0.25] * 5, 0.125, 0.125]
    assert values == close([decay[i] * (1 - (i - begin[i]) / length[i]) for i in range(12)])


def test_decay_is_of_the_base_and_not_of_absolute_values():
    values = over(Cycle(Linear(end={"absolute": 0.2}), every=2, decay=0.5), total=6)
    assert values == close([1, 0.6, 0.5, 0.35, 0.25, 0.225])


def test_cycles_may_be_counted():
    assert over(Cycle(Linear(end=0.25), every=2, times=2)) == close([1, 0.625, 1, 0.625, *[0.25] * 6])
    values = over(Cycle(Linear(end=0.5), every=2, times=2, grow=2, decay=0.5))
    assert values == close([1, 0.75, 0.5, 0.4375, 0.375, 0.3125, *[0.25] * 4])
    assert over(Cycle(Linear(end=0.0), every=8, times=1), total=6) == close([1 - i / 8 for i in range(6)])


def test_percent_and_until_count_within_the_cycle():
    phases = [Linear(start=0.0, until=1), Constant(until="75%"), Constant(0.5)]
    assert over(Cycle(phases, every=4)) == close([0, 1, 1, 0.5] * 2 + [0, 1])
    values = over(Cycle(phases, every=4, grow=2), total=12)
    assert values == close([0, 1, 1, 0.5, 0, 1, 1, 1, 1, 1, 0.5, 0.5])


def test_cycles_count_from_the_start_of_their_phase():
    values = over([Constant(0.3, until=3), Cycle(Linear(end=0.0), every=2, until=8), Constant(0.1)])
    assert values == close([0.3] * 3 + [1, 0.5, 1, 0.5, 1, 0.1, 0.1])
    values = over([Constant(0.3, until="5/2"), Cycle(Linear(end=0.0), every=2)], total=6)
    assert values == close([0.3] * 3 + [0.75, 0.25, 0.75])


def test_the_run_ends_with_the_end_of_its_last_cycle():
    end, later = after(Cycle(Linear(end=0.25), every=5))
    assert end == [0.25]
    assert all(value == end for value in later)


def test_cycles_inside_cycles():
    values = over(Cycle(Cycle(Linear(end=0.0), every=2, decay=0.5), every=4))
    assert values == close([1, 0.5, 0.5, 0.25] * 2 + [1, 0.5])


def test_cycles_of_a_run_of_unknown_length():
    curve, _ = laid(Cycle(Linear(end=0.0), every=4), None)
    assert [curve.at(i)[0] for i in (0, 3, 4, 10**9 + 3)] == [1.0, 0.25, 1.0, 0.25]
    curve, _ = laid(Cycle(Linear(end=0.0), every=4, grow=2), None)
    assert [curve.at(i)[0] for i in (0, 3, 4, 11, 12, 4 * (2**30 - 1))] == [1.0, 0.25, 1.0, 0.125, 1.0, 1.0]


@pytest.mark.parametrize(("grow", "initial"), [(1, 3), (2, 3), (3, 2)])
def test_cycles_are_the_warm_restarts_of_torch(grow, initial):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, initial, grow, eta_min=0.01)
    values = []
    for _ in range(40):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        restarts.step()
    assert over(Cycle(Cosine(end={"absolute": 0.01}), every=initial, grow=grow), 40, 0.3) == close(values, rel=1e-12)


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [("triangular", {}), ("triangular2", {"decay": 0.5})],
)
def test_cycles_are_the_cyclic_lr_of_torch(mode, arguments):
    # base_lr + (max_lr - base_lr) * triangle: what decays is the amplitude alone
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    cyclic = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.1, 0.5, 4, 6, mode=mode, cycle_momentum=False)
    values = []
    for _ in range(35):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cyclic.step()
    triangle = [Linear(start=0.0, end=4.0, until=4), Linear(start=4.0, end=0.0)]
    schedule = Sum([Constant(), Cycle(triangle, every=10, **arguments)])
    assert over(schedule, 35, 0.1) == close(values, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "Cycle.every: must be longer than nothing; got 0"),
        ({"every": "x"}, "Cycle.every: is not a duration; got 'x'"),
        ({"every": 4, "grow": 0.5}, "Cycle.grow: must be a number >= 1; got 0.5"),
        ({"every": 4, "grow": float("inf")}, "Cycle.grow: must be a"),
        ({"every": 4, "decay": 0}, "Cycle.decay: must be > 0; got 0.0"),
        ({"every": 4, "times": 0}, "Cycle.times: must be at least 1; got 0; leave it out for endless cycles"),
        ({"every": 4, "times": 1.5}, "Cycle.times: must be a whole number"),
    ],
    ids=repr,
)
def test_cycle_of_bad_values(arguments, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Cycle(Linear(), **arguments)


@pytest.mark.parametrize(
    ("schedule", "run", "message"),
    [
        (
            Cycle(Linear(), "1ep"),
            {"epoch_ends": UNEVEN},
            "every: is in epochs, which differ in length; got '1ep'; give",
        ),
        (Cycle(Linear(), "1ep"), {}, "every: needs the length of an epoch"),
        (Cycle(Linear(), "1ep-10st"), {"steps_per_epoch": 10}, "every: must be longer than nothing; got '1ep-10st'"),
        (Cycle(Linear(start="previous"), 4), {}, "of.start: there is no phase before this one"),
        (Cycle([Linear(until=5), Linear()], 4), {}, "of[0].until: reaches beyond the run, which ends at step 4"),
    ],
    ids=repr,
)
def test_cycle_that_does_not_fit(schedule, run, message):
    with pytest.raises(SolverError, match=re.escape(f"schedules.lr.{message}")):
        laid(schedule, total=16, **run)


@pytest.mark.parametrize(
    ("until", "run"), [("4ba", {"batches_per_step": 2}), ("8sp", {"samples_per_step": 4})], ids=["ba", "sp"]
)
def test_batches_and_samples_within_a_cycle(until, run):
    values = over(Cycle([Linear(start=0.0, until=until), Constant()], every=4), **run)
    assert values == close([0, 0.5, 1, 1] * 2 + [0, 0.5])


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
        Over(Linear(end=0.3), begin=3),
        Over(Linear(end=0.3), end=3),
        Cycle(Linear(end=0.3), every=4),
        Cycle([Linear(until=1), Cosine()], every="5/2", grow=1.5, decay=0.7, times=2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("epochs", [{"steps_per_epoch": 4}, {"epoch_ends": [3, 8, 12]}], ids=["even", "uneven"])
def test_held_after_the_end_of_the_run(schedule, epochs):
    end, later = after(schedule, **epochs)
    assert all(value == end for value in later)
