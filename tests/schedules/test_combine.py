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


# ------------------------------------------------------------------ all that hold others


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
