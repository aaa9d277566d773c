import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from laid import close, notes, over, table
from lightning_solver import SolverError, SolverSpec
from lightning_solver.schedules import (
    Chain,
    Clip,
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Inverse,
    Join,
    KeepZero,
    Linear,
    MultiStep,
    Over,
    PerGroup,
    Plateau,
    Polynomial,
    Product,
    Scale,
    Shift,
    Staircase,
    Step,
    Sum,
    Warmup,
)

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
        (Sum([Constant(), Constant({"scaled": 0.1})]), "factors[1].terms[1].value"),
        (Clip(Constant(), min={"absolute": 0.1}), "factors[1].min"),
        (Over(Constant({"base": 0.1}), begin=3), "factors[1].of.value"),
        (Cycle(Linear(end={"absolute": 0.1}), every=3), "factors[1].of.end"),
        (Chain([Constant(), Constant({"absolute": 0.1})]), "factors[1].of[1].value"),
        (Plateau("loss", min={"absolute": 0.1}), "factors[1].min"),
        (Warmup(Linear(start={"absolute": 0.1}, until=3), Linear(), "delay"), "factors[1].ramp.start"),
        pytest.param(
            Chain([Linear(end=0.0), Linear(end=0.5)], floors=[0.0, {"absolute": 0.1}]),
            "factors[1].floors[1]",
        ),
    ],
)
def test_factors_have_no_absolute_values(factor, where):
    message = f"schedules.lr.{where}: must be a plain factor; got {{"
    with pytest.raises(SolverError, match=re.escape(message)):
        over(Product([Linear(), factor]))


@pytest.mark.parametrize(("cls", "field"), [(Product, "factors"), (Sum, "terms"), (Chain, "of")])
@pytest.mark.parametrize("inner", [[], [Constant()]])
def test_a_product_needs_two(cls, field, inner):
    with pytest.raises(
        SolverError, match=re.escape(f"{cls.__name__}.{field}: needs at least two; got {len(inner)}; g")
    ):
        cls(inner)


# ------------------------------------------------------------------ Sum


def test_sum_adds_at_each_step():
    values = over(Sum([Linear(end=0.0), [Constant({"absolute": 0.5}, until=4), Constant(0.0)], Constant(0.1)]), base=2)
    assert values == close([2 * (1 - i / 10) + 0.5 * (i < 4) + 0.2 for i in range(10)])


def test_every_term_knows_the_group_s_base():
    rows = table(Sum([Constant(), Linear(end={"absolute": 0.0})]), [1.0, 0.1], 2)
    assert rows.tolist() == close(np.array([[2.0, 0.2], [1.5, 0.15]]))


def test_terms_may_be_negative_as_long_as_the_sum_is_not():
    values = over(Sum([Constant(), Linear(start=0.0, end={"base": -0.5})]), base=2.0)
    assert values == close([2.0 - i / 10 for i in range(10)])
    values = over(Sum([Constant(), [Constant({"absolute": -0.3}, until=4), Step(2, start={"base": -0.5}, gamma=0.5)]]))
    assert values == close([0.7] * 4 + [0.5] * 2 + [0.75] * 2 + [0.875] * 2)
    with pytest.raises(SolverError, match=re.escape("schedules.lr: goes below 0; got -0.4; mend its terms")):
        over(Sum([Constant(0.5), Linear(start=0.0, end={"base": -1.0})]))


@pytest.mark.parametrize(
    "factor",
    [
        pytest.param(
            Exponential(start={"base": -1.0}, end=0.5),
        ),
        Clip(Constant({"base": -1.0}), min={"base": -1.0}, max={"base": -2.0}),
    ],
)
def test_negative_terms_that_cannot_be_are_refused(factor):
    with pytest.raises(SolverError, match=re.escape("schedules.lr.terms[1]")):
        over(Sum([Constant(3.0), factor]))


def test_a_plan_finds_a_sum_below_0():
    dip = [Constant(0.0, until=2), Constant({"base": -2.0}, until=4), Constant(0.0)]
    spec = SolverSpec(optimizer={"name": "SGD", "args": {"lr": 0.1}}, schedules={"lr": Sum([Constant(), dip])})
    with pytest.raises(SolverError, match=re.escape("schedules.lr: goes below 0")):
        spec.plan(torch.nn.Linear(1, 1), total_steps=10)


# ------------------------------------------------------------------ Warmup


RAMPS = [
    Constant(0.1, until=4),
    Linear(start=0.1, until=4),
    Linear(start=0.0, until="7/2"),
    Exponential(start=0.01, end=1, until=4),
    Cosine(start=0, end=1, until=4),
    Polynomial(power=0.5, start=0, end=1, until=4),
]
OFS = [Cosine(end=0.2), [Constant(0.8, until=6), Linear(start=0.8, end=0.0)], Step(every=3, gamma=0.5)]
BASES = [1.0, 0.3]


def warmed(ramp, of, meets, groups=BASES, **kwargs):
    return table(Warmup(ramp=ramp, of=of, meets=meets), groups, **kwargs)


def phases(of):
    return of if isinstance(of, list) else [of]


def reached(of, ramp=RAMPS[0]):
    """The value of the curve where the warm-up ends, between two steps or not, as a factor of the base."""
    return over(of)[4] if ramp.until == 4 else over(Shift(of, earlier="1/2"))[3]


@pytest.mark.parametrize("of", OFS, ids=repr)
@pytest.mark.parametrize("ramp", RAMPS, ids=repr)
def test_a_warm_up_that_delays_is_a_list(ramp, of):
    assert warmed(ramp, of, "delay").tobytes() == table([ramp, *phases(of)], BASES).tobytes()


@pytest.mark.parametrize("of", OFS, ids=repr)
@pytest.mark.parametrize("ramp", RAMPS, ids=repr)
def test_a_warm_up_that_multiplies_is_a_product(ramp, of):
    assert warmed(ramp, of, "multiply").tobytes() == table(Product([of, [ramp, Constant()]]), BASES).tobytes()


@pytest.mark.parametrize("of", OFS, ids=repr)
@pytest.mark.parametrize("ramp", RAMPS, ids=repr)
def test_a_warm_up_beneath_is_a_list_with_the_curve_over_the_whole_run(ramp, of):
    assert warmed(ramp, of, "beneath").tobytes() == table([ramp, Over(of, begin=0)], BASES).tobytes()


@pytest.mark.parametrize("of", OFS, ids=repr)
@pytest.mark.parametrize("ramp", RAMPS, ids=repr)
def test_a_warm_up_that_interpolates_aims_at_the_curve(ramp, of):
    aimed = ramp if isinstance(ramp, Constant) else dataclasses.replace(ramp, end=reached(of, ramp))
    rows = warmed(ramp, of, "interpolate")
    assert rows.tolist() == close(table([aimed, Over(of, begin=0)], BASES), rel=1e-14)


@pytest.mark.parametrize("of", OFS, ids=repr)
def test_a_warm_up_that_interpolates_by_arithmetic(of):
    curve = over(of)
    values = warmed(Linear(start=0.1, until=4), of, "interpolate", [1.0])[:, 0].tolist()
    assert values == close([0.1 + (curve[4] - 0.1) * i / 4 for i in range(4)] + curve[4:], rel=1e-14)


@pytest.mark.parametrize("ramp", [Exponential(0.5, start=0.01, until=4), Exponential(0.5, 1, start=0.01, until=4)])
def test_an_exponential_warm_up_that_interpolates_has_whatever_rate_it_needs(ramp):
    aimed = Exponential(start=0.01, end=reached(OFS[0]), until=4)
    rows = warmed(ramp, OFS[0], "interpolate")
    assert rows.tolist() == close(table([aimed, Over(OFS[0], begin=0)], BASES), rel=1e-14)


def test_a_warm_up_to_nothing_is_noted():
    schedule = Warmup(ramp=Cosine(start=0.0, until=4), of=Constant(), meets="beneath")
    assert notes(schedule) == ["schedules.lr.ramp: warms up to 0, as Cosine.end says"]
    assert notes(dataclasses.replace(schedule, meets="interpolate")) == []


@pytest.mark.parametrize("meets", ["delay", "multiply", "interpolate", "beneath"])
def test_an_empty_warm_up_is_left_out_and_noted(meets):
    schedule = Warmup(ramp=Linear(start=0.0, until="0%"), of=Cosine(), meets=meets)
    assert over(schedule) == over(Cosine())
    (note,) = notes(schedule)
    assert "is empty and is left out" in note
    assert note.startswith("schedules.lr.ramp")


@pytest.mark.parametrize("meets", ["delay", "multiply", "interpolate", "beneath"])
def test_a_warm_up_that_is_longer_than_the_run(meets):
    schedule = Warmup(ramp=Linear(start=0.0, until=20), of=Constant(0.8), meets=meets)
    with pytest.raises(
        SolverError, match=r"schedules\.lr\.ramp.*\.until: reaches beyond the run, which ends at step 10"
    ):
        over(schedule)
    goal = 0.8 if meets in ("multiply", "interpolate") else 1.0
    assert over(schedule, beyond="allow") == close([goal * i / 20 for i in range(10)])
    assert any("(20) reaches beyond the run, which ends at step 10" in note for note in notes(schedule, beyond="allow"))


@pytest.mark.parametrize("meets", ["delay", "multiply", "interpolate", "beneath"])
def test_a_warm_up_as_a_phase_that_begins_later(meets):
    schedule = Warmup(ramp=Linear(start=0.0, until=6), of=Linear(end=0.4), meets=meets)
    values = over([Constant(0.3, until=2), schedule])
    curve = [1 - 0.6 * (i - (6 if meets == "delay" else 2)) / (4 if meets == "delay" else 8) for i in range(10)]
    goal = {"delay": [1] * 10, "beneath": [1] * 10, "multiply": curve, "interpolate": [curve[6]] * 10}[meets]
    assert values == close([0.3] * 2 + [goal[i] * (i - 2) / 4 for i in range(2, 6)] + curve[6:])


@pytest.mark.parametrize("meets", ["delay", "multiply", "interpolate", "beneath"])
def test_a_warm_up_as_a_phase_that_is_not_the_last(meets):
    schedule = Warmup(ramp=Linear(start=0.0, until=2), of=Linear(end=0.4), meets=meets, until=6)
    alone = table(dataclasses.replace(schedule, until=None), [1.0], 6)[:, 0].tolist()
    assert over([schedule, Constant(0.1)]) == [*alone, 0.1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("meets", ["multiply", "interpolate", "beneath", "delay"])
def test_a_warm_up_inside_a_factor(meets):
    schedule = Warmup(ramp=Linear(start=0.0, until=4), of=Linear(end=0.4), meets=meets)
    rows = table(Product([Constant(), schedule]), BASES)
    assert rows.tolist() == close(np.outer(over(schedule), BASES), rel=1e-15)


def test_a_jump_beneath_is_where_the_two_do_not_meet():
    values = over(Warmup(ramp=Linear(start=0.0, until=4), of=Linear(end=0.0), meets="beneath"))
    assert values == close([0, 0.25, 0.5, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("ramp", "meets", "message"),
    [
        (Linear(start=0.0), "delay", "Warmup.ramp.until: says nowhere that the warm-up ends; give a point such as 5ep"),
        (Inverse(2, until=3), "interpolate", "Warmup.ramp: has no end that could be the curve's value; got 'Inverse'"),
        (Step(2, until=3), "interpolate", "Warmup.ramp: has no end that could be the curve's value; got 'Step'"),
        (Linear(until=3), "multipli", "Warmup.meets: unknown value; got 'multipli'; did you mean multiply"),
        ("Linear", "delay", "Warmup.ramp"),
    ],
)
def test_bad_warm_ups(ramp, meets, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Warmup(ramp=ramp, of=Cosine(), meets=meets)


@pytest.mark.parametrize(
    ("meets", "ramp", "of", "where"),
    [
        ("multiply", Linear(start={"absolute": 0.0}, until=3), Cosine(), "ramp"),
        ("beneath", Linear(start="previous", until=3), Cosine(), "ramp.start"),
        ("interpolate", Linear(until="1ep"), Cosine(), "ramp.until"),
        ("beneath", Linear(until=3), [Constant(), Cosine()], "of[0].until"),
        ("multiply", Linear(until=3), Constant("previous"), "of.value"),
        *(
            pytest.param(
                *case,
            )
            for case in [
                ("delay", Linear(until=3), [Constant(), Cosine()], "of[0].until"),
                ("delay", Linear(start="previous", until=3), Cosine(), "ramp.start"),
            ]
        ),
    ],
)
def test_an_error_in_a_warm_up_says_where(meets, ramp, of, where):
    with pytest.raises(SolverError, match=rf"^schedules\.lr\.{re.escape(where)}"):
        over(Warmup(ramp=ramp, of=of, meets=meets))


@pytest.mark.parametrize(
    "meets",
    [
        "delay",
        "multiply",
        *(
            pytest.param(
                meets,
            )
            for meets in ("interpolate", "beneath")
        ),
    ],
)
def test_a_warm_up_that_is_longer_than_its_phase(meets):
    schedule = Warmup(ramp=Linear(start=0.0, until=8), of=Linear(end=0.0), meets=meets, until=5)
    with pytest.raises(SolverError, match=r"reaches beyond .* step 5; got 8"):
        over([schedule, Constant()])


# ------------------------------------------------------------------ Clip


def test_clip_holds_between():
    assert over(Clip(Linear(end=0.0), min=0.25, max=0.75)) == close(
        [min(max(1 - i / 10, 0.25), 0.75) for i in range(10)]
    )
    assert over(Clip([Linear(start=0.0, until=4), Linear(end=0.0)], min=0.4))[:2] == [0.4, 0.4]


def test_clip_by_values_of_each_group():
    rows = table(Clip(Linear(end=0.0), min={"absolute": 0.2}), [1.0, 0.1], 2)
    assert rows.tolist() == [[1.0, 0.2], [0.5, 0.2]]
    rows = table(Clip(Constant({"absolute": 0.5}), max=1.0), [1.0, 0.1], 1)
    assert rows.tolist() == [[0.5, 0.1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip(Linear()), "Clip.min: needs one of min and max; give a value"),
        (lambda: Clip(Linear(), min=-0.1), "Clip.min: must not be negative; got -0.1"),
        (lambda: Clip(Linear(), max="1"), "Clip.max: is not a value; got '1'"),
        (
            lambda: over(Clip(Linear(), min=0.5, max=0.1)),
            "schedules.lr.min: lies above max; got 0.5 and 0.1; swap them",
        ),
        (lambda: table(Clip(Linear(), min={"absolute": 0.5}, max=1.0), [1.0, 0.1]), "schedules.lr.min: lies above max"),
        (lambda: over(Clip(Linear(), min="previous")), "schedules.lr.min: there is no phase before this one"),
    ],
)
def test_bad_clips(make, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        make()


# ------------------------------------------------------------------ KeepZero


def test_keep_zero_keeps_groups_without_a_base_at_nothing():
    rows = table(
        KeepZero([Constant({"absolute": 0.5}, until=1), Linear(end={"absolute": 0.1})]), [0.0, 0.4, 0.0, 0.2], 3
    )
    assert rows == close(np.array([[0, 0.5, 0, 0.5], [0, 0.4, 0, 0.2], [0, 0.25, 0, 0.15]]))
    assert table(KeepZero(Constant({"absolute": 0.5})), [0.0, 0.0], 2).tolist() == [[0.0, 0.0]] * 2


# ------------------------------------------------------------------ PerGroup


def test_per_group_gives_every_group_its_own():
    rows = table(PerGroup([Linear(end=0.0), Constant(0.5), [Constant(0.1, until=1), Constant()]]), [1.0, 0.1, 3.0], 2)
    assert rows.tolist() == close(np.array([[1, 0.05, 0.3], [0.5, 0.05, 3.0]]))


def test_per_group_as_a_phase_goes_on_from_each_group_s_value():
    phases = [Constant({"absolute": 0.4}, until=2), PerGroup([Constant("previous"), Linear(start="previous", end=0.0)])]
    assert table(phases, [1.0, 2.0], 4)[2:].tolist() == close(np.array([[0.4, 0.4], [0.4, 0.2]]))
    phases = [PerGroup([Linear(end="next"), Linear(end="next")], until=2), PerGroup([Constant(0.5), Constant(0.1)])]
    assert table(phases, [1.0, 2.0], 3).tolist() == close(np.array([[1, 2], [0.75, 1.1], [0.5, 0.2]]))


def test_equal_groups_share_a_curve_and_stay_in_order():
    shared = [Cosine(), Linear(end=0.3), Cosine(), Linear(end=0.3)]
    rows = table(PerGroup(shared), [1.0, 0.2, 0.3, 0.4])
    assert rows.tobytes() == np.hstack([table(s, [b]) for s, b in zip(shared, [1.0, 0.2, 0.3, 0.4])]).tobytes()


def test_per_group_for_another_number_of_groups():
    with pytest.raises(
        SolverError, match=re.escape("schedules.lr.of: does not fit the number of groups; got 2 schedule")
    ):
        table(PerGroup([Linear(), Cosine()]), [1.0])


def test_per_group_says_which_group_s_schedule_is_wrong():
    with pytest.raises(SolverError, match=re.escape("schedules.lr.of[1].start: there is no phase before this one")):
        table(PerGroup([Linear(), Cosine(start="previous")]), [1.0, 1.0])


@pytest.mark.parametrize(
    "factor", [PerGroup([Constant()]), Staircase([Constant(until=3), PerGroup([Constant()])], every=1)], ids=repr
)
def test_factors_are_the_same_for_every_group(factor):
    where = r"factors\[1\](\.of\[1\])?"
    with pytest.raises(
        SolverError, match=rf"schedules\.lr\.{where}: a factor is the same for every group; got PerGroup"
    ):
        over(Product([Linear(), factor]))


# ------------------------------------------------------------------ all that hold others


NESTED = [
    ("of", lambda inner: Staircase(inner, every=2)),
    ("of", lambda inner: Shift(inner, later=2)),
    ("of", lambda inner: Scale(inner, by=2)),
    ("phases", lambda inner: Join([inner])),
    ("factors[0]", lambda inner: Product([inner, Constant()])),
    ("terms[1]", lambda inner: Sum([Constant(0.0), inner])),
    ("of", lambda inner: Over(inner, begin=0)),
    ("of", lambda inner: Clip(inner, min=0.1)),
    ("of", lambda inner: KeepZero(inner)),
    ("of[0]", lambda inner: PerGroup([inner])),
    ("of[1]", lambda inner: Chain([Constant(), inner])),
    ("of", lambda inner: Warmup(Linear(until=2), inner, "multiply")),
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
