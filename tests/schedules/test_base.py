import math
import re
from fractions import Fraction

import numpy as np
import pytest
from torch import nn

from laid import close, over, table
from lightning_solver import Rule, SolverError, SolverSpec
from lightning_solver.schedules import Constant, Cosine, Exponential, Join, Linear, Polynomial, Product, Rex, Tanh
from lightning_solver.schedules.base import Axis

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


# ------------------------------------------------------------------ levels that add up


GROUPS = [{"lr": 0.4}, {"lr": 0.4, "lr_scale": 0.1}, {"lr": 0.0}]
OPTIMIZER = {"name": "SGD", "args": {"lr": 0.4}}


@pytest.mark.parametrize(
    ("level", "values"),
    [
        (0.5, [0.2, 0.02, 0.0]),
        ({"base": 0.5}, [0.2, 0.02, 0.0]),
        ({"absolute": 0.3}, [0.3, 0.3, 0.3]),
        ({"scaled": 0.3}, [0.3, 0.03, 0.3]),
        ({"optimizer": 0.5}, [0.2, 0.2, 0.2]),
        ({"base": 0.5, "absolute": 0.3}, [0.5, 0.32, 0.3]),
        ({"base": 0.5, "scaled": 0.3, "optimizer": 1.0, "absolute": 0.1}, [1.0, 0.55, 0.8]),
        ({"absolute": 0.5, "base": -0.5}, [0.3, 0.48, 0.5]),
        ({"optimizer": 1.0, "scaled": -0.1}, [0.3, 0.39, 0.3]),
    ],
    ids=repr,
)
def test_levels_add_up(level, values):
    # 0.1 of the lr is the rule's scale; the third group has a base of its own and no scale
    assert table(Constant(level), GROUPS, 2, optimizer=OPTIMIZER).tolist() == close(np.array([values] * 2))
    rows = table(Linear(start=level, end=0.0), GROUPS, 2, optimizer=OPTIMIZER)
    assert rows == close(np.array([values, np.array(values) / 2]))


def test_levels_in_a_plan_know_the_rules_scales():
    spec = SolverSpec(
        optimizer=OPTIMIZER,
        rules=[Rule(match="0.*", lr_scale=0.1), Rule(match="1.*", lr=0.3)],
        schedules={"lr": Constant({"base": 1.0, "scaled": 0.5, "optimizer": 0.25})},
    )
    plan = spec.plan(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)), total_steps=3)
    expected = {"0.weight": 0.04 + 0.05 + 0.1, "1.weight": 0.3 + 0.5 + 0.1, "2.weight": 0.4 + 0.5 + 0.1}
    for group, value in zip(plan.groups, plan.curve("lr")[0]):
        assert all(expected[name] == close(value) for name in group.names if name in expected)


def test_a_sum_that_is_negative_for_some_group():
    message = "schedules.lr.end: is negative; got {'base': 1.0, 'absolute': -0.2}, which is -0.1; correct it"
    with pytest.raises(SolverError, match=re.escape(message)):
        table(Linear(end={"base": 1.0, "absolute": -0.2}), [1.0, 0.1])


def test_a_sum_with_an_unknown_optimiser():
    with pytest.raises(
        SolverError, match=re.escape("schedules.lr.value: needs the optimiser's own value, which is not")
    ):
        over(Constant({"base": 1.0, "optimizer": 1.0}))


# ------------------------------------------------------------------ the value of the phase after


def test_next_is_the_value_with_which_the_phase_after_begins():
    assert over([Linear(end="next", until=4), Constant(0.2)]) == close([1, 0.8, 0.6, 0.4, *[0.2] * 6])
    assert over([Constant("next", until=4), Polynomial(start=0.3)])[:5] == close([0.3] * 5)
    assert over([Exponential(end="next", until=4), Constant(0.0625)])[:5] == close([1, 0.5, 0.25, 0.125, 0.0625])


def test_next_is_exact_where_the_two_phases_meet_between_two_steps():
    # the cosine begins at 2.5 with 0.2, whatever it has at step 3
    values = over([Linear(end="next", until="5/2"), Cosine(start=0.2)])
    assert values[:3] == close([1.0, 0.68, 0.36])


def test_next_of_next():
    values = over([Linear(end="next", until=2), Linear(start="next", end=0.0, until=4), Constant(0.6)])
    assert values[:5] == close([1.0, 0.8, 0.6, 0.3, 0.6])


def test_next_skips_a_phase_of_no_length():
    phases = [Linear(end="next", until=4), Constant(0.9, until=4), Constant(0.9, until="40%"), Constant(0.2)]
    assert over(phases) == over([phases[0], phases[-1]])


def test_next_of_the_last_phase_of_a_join_is_outside_the_join():
    inner = Join([Constant(0.5, until=2), Linear(end="next", until=6)], until=6)
    assert over([inner, Constant(0.2)]) == close([0.5, 0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2])
    inner = Join([Linear(end="next", until=4), Constant(0.9, until=4)], until=4)
    assert over([inner, Constant(0.2)])[:5] == close([1, 0.8, 0.6, 0.4, 0.2])


def test_next_for_each_group():
    rows = table([Linear(end="next", until=4), Constant({"absolute": 0.2})], [1.0, 0.6], 5)
    assert rows[2:].tolist() == close(np.array([[0.6, 0.4], [0.4, 0.3], [0.2, 0.2]]))


@pytest.mark.parametrize(
    ("phases", "where", "which"),
    [
        (Linear(end="next"), "schedules.lr.end", "after"),
        ([Linear(until=3), Cosine(end="next")], "schedules.lr[1].end", "after"),
        pytest.param(
            [Linear(end="next", until="100%"), Constant()],
            "schedules.lr[0].end",
            "after",
        ),
        ([Linear(end="next", until=3), Cosine(start="previous")], "schedules.lr[1].start", "before"),
        (
            [Linear(end="next", until=3), Join([Constant("previous", until=5), Cosine()])],
            "schedules.lr[1].phases[0].value",
            "before",
        ),
        (Product([Linear(), [Constant(until=3), Linear(end="next")]]), "schedules.lr.factors[1][1].end", "after"),
    ],
    ids=repr,
)
def test_next_without_a_phase_after(phases, where, which):
    message = f"{where}: there is no phase {which} this one; got '{'next' if which == 'after' else 'previous'}'; give a"
    with pytest.raises(SolverError, match=re.escape(message)):
        over(phases)


def test_next_of_a_phase_that_never_begins():
    with pytest.raises(SolverError, match=re.escape("schedules.lr[0].end: there is no phase after this one")):
        over([Linear(end="next", until=20), Constant(0.5)], beyond="allow")


# ------------------------------------------------------------------ bad levels


LEVELS = [(Constant, "value"), (Linear, "start"), (Linear, "end"), (Cosine, "start"), (Cosine, "end")]
LEVELS += [(shape, name) for shape in (Polynomial, Tanh, Rex) for name in ("start", "end")] + [(Exponential, "end")]


@pytest.mark.parametrize(("shape", "name"), LEVELS)
@pytest.mark.parametrize(
    ("level", "message"),
    [
        (-0.1, "must not be negative; got -0.1; give a value >= 0"),
        ({"absolut": 1.0}, "is not a value; got {'absolut': 1.0}; give a factor of the group's base value, {absolute:"),
        ({"absolute": 1.0, "optimiser": 1.0}, "is not a value; got {'absolute': 1.0, 'optimiser': 1.0}"),
        ({}, "is not a value; got {}"),
        ("prev", "is not a value; got 'prev'; give a factor of the group's base value"),
        ("0.1", "is not a value; got '0.1'"),
        (float("nan"), "must be a finite number; got nan"),
        ("Next", "is not a value; got 'Next'"),
    ],
)
def test_bad_levels(shape, name, level, message):
    with pytest.raises(SolverError, match=re.escape(f"{shape.__name__}.{name}: {message}")):
        shape(**{name: level})


@pytest.mark.parametrize(("shape", "name"), LEVELS)
@pytest.mark.parametrize("kind", ["base", "absolute", "scaled", "optimizer"])
def test_negative_values(shape, name, kind):
    # only a sum may use them, so that it is found when they are laid
    message = f"schedules.lr.{name}: is negative; got {{'{kind}': -1.0}}, which is -"
    with pytest.raises(SolverError, match=re.escape(message)):
        over(shape(**{name: {kind: -1.0}}), optimizer=OPTIMIZER)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({"base": "1"}, "Linear.end.base: must be a number; got '1' (str)"),
        ({"absolute": True}, "Linear.end.absolute: must be a number; got True (bool)"),
        ([1.0], "Linear.end: must be a number, a text or a mapping; got [1.0] (list)"),
        (None, "Linear.end: must be a number, a text or a mapping; got None (NoneType)"),
    ],
    ids=repr,
)
def test_what_is_no_level_at_all(level, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Linear(end=level)


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
