import re
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_solver import Duration, RunLength, SolverError
from lightning_solver.durations import exact

# ------------------------------------------------------------------ the grammar


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (500, 500, "st"),
        (0, 0, "st"),
        ("500", 500, "st"),
        ("500st", 500, "st"),
        ("5ep", 5, "ep"),
        ("2.5ep", Fraction(5, 2), "ep"),
        ("1/3ep", Fraction(1, 3), "ep"),
        ("6.25", Fraction(25, 4), "st"),
        ("25/4st", Fraction(25, 4), "st"),
        ("10%", 10, "%"),
        ("0%", 0, "%"),
        ("0.1%", Fraction(1, 10), "%"),
        ("100/3%", Fraction(100, 3), "%"),
        ("100%", 100, "%"),
        ("0.1", Fraction(1, 10), "st"),
        ("007", 7, "st"),
        ("64ba", 64, "ba"),
        ("4096sp", 4096, "sp"),
        ("1/3ba", Fraction(1, 3), "ba"),
        ("2.5sp", Fraction(5, 2), "sp"),
    ],
)
def test_parse(text, value, unit):
    duration = Duration.parse(text)
    assert duration == Duration(((Fraction(value), unit),))
    assert type(duration.terms[0][0]) is Fraction


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("5ep+100st", ((5, "ep"), (100, "st"))),
        ("5ep+100", ((5, "ep"), (100, "st"))),
        ("30%-1st", ((30, "%"), (-1, "st"))),
        ("100-1/3ep", ((100, "st"), (Fraction(-1, 3), "ep"))),
        ("1ep-2ba+3sp", ((1, "ep"), (-2, "ba"), (3, "sp"))),
    ],
)
def test_parse_a_sum(text, terms):
    assert Duration.parse(text) == Duration(terms)


BAD = [
    "5epochs",
    "5epoch",
    "5steps",
    "5e",
    "5EP",
    "5 ep",
    "-1ep",
    "-5",
    "+5",
    "",
    " ",
    "ep",
    "%",
    "1e3",
    "1e3ep",
    "5 ",
    " 5",
    "5\n",
    "5.",
    ".5",
    "5.ep",
    "1/0",
    "1/00",
    "1/3.5",
    "1.5/3",
    "/3",
    "1/",
    "1_000",
    "1,5",
    "0x10",
    "5epst",
    "5%%",
    "nan",
    "inf",
    "\N{ARABIC-INDIC DIGIT FIVE}",
    "5ep+",
    "5ep++3",
    "5ep+-3",
    "5ep - 3",
    "5ep +3st",
    "-1+5ep",
    "5ep*2",
    "5ep100st",
    "64bat",
    "4tok",
    True,
    False,
    5.0,
    -1,
    None,
    b"5",
    [5],
    Fraction(5),
]


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_parse_refuses(text):
    message = f"x.until: is not a duration; got {text!r}; write 500 or 500st (optimiser steps), 5ep (epochs) or 10%"
    with pytest.raises(SolverError, match=re.escape(message)):
        Duration.parse(text, "x.until")


@pytest.mark.parametrize("text", ["110%", "100.1%", "301/3%", "110%-20%"])
def test_parse_refuses_more_than_the_whole_run(text):
    message = f"x.until: is more than the whole run; got {text!r}; give at most 100%"
    with pytest.raises(SolverError, match=re.escape(message)):
        Duration.parse(text, "x.until")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (500, "500st"),
        ("5ep", "5ep"),
        ("2.50ep", "2.5ep"),
        ("1/3ep", "1/3ep"),
        ("2/6ep", "1/3ep"),
        ("1/4", "0.25st"),
        ("10%", "10%"),
        ("100000000000ep", "100000000000ep"),
        ("0.0001ep", "0.0001ep"),
        ("5ep+100", "5ep+100st"),
        ("30.0%-1", "30%-1st"),
        ("1/3ba+2/4sp", "1/3ba+0.5sp"),
    ],
)
def test_str_is_the_shortest_exact_form(text, written):
    assert str(Duration.parse(text)) == written


@pytest.mark.parametrize("text", ["0.00001ep", "0.000001", "1/100000%", "0.12345678901234567890ep"])
def test_str_of_a_very_small_or_long_number_can_be_read_back(text):
    duration = Duration.parse(text)
    assert Duration.parse(str(duration)) == duration


numbers = st.fractions(min_value=0, max_value=10**12) | st.decimals(0, 1000, places=7).map(Fraction)
terms = st.tuples(numbers, st.sampled_from(["st", "ep", "ba", "sp"])) | st.tuples(
    st.fractions(min_value=0, max_value=100), st.just("%")
)
durations = st.lists(terms, min_size=1, max_size=3).map(lambda found: Duration(tuple(found)))


@given(durations)
@example(Duration(((Fraction(1, 10**6), "ep"),)))
@example(Duration(((Fraction(5), "ep"), (Fraction(-1, 3), "st"))))
@settings(max_examples=200, deadline=None)
def test_str_is_read_back(duration):
    assert Duration.parse(str(duration)) == duration


# ------------------------------------------------------------------ exactness


def test_a_third_of_a_hundred_steps_is_not_a_whole_number():
    assert Duration.parse("100/3%").resolve(RunLength(total_steps=100)) == Fraction(100, 3)
    assert Duration.parse("1/3ep").resolve(RunLength(steps_per_epoch=100)) == Fraction(100, 3)


def test_25_batches_at_4_a_step_are_six_steps_and_a_quarter():
    batches = Duration.parse(25).resolve(RunLength(total_steps=100).scaled(Fraction(4)))
    assert batches / 4 == Fraction(25, 4)
    assert Duration.parse("1ep").resolve(RunLength(steps_per_epoch=6.25)) == Fraction(25, 4)
    assert Duration.parse("25/4").resolve(RunLength()) == Fraction(25, 4)


def test_a_tenth_is_a_tenth():
    assert Duration.parse("0.1ep").resolve(RunLength(steps_per_epoch=10)) == 1
    assert Duration.parse("0.7%").resolve(RunLength(total_steps=1000)) == 7


@pytest.mark.parametrize(
    ("number", "fraction"),
    [
        (10 / 3, Fraction(10, 3)),
        (6.25, Fraction(25, 4)),
        (0.1, Fraction(1, 10)),
        (7, Fraction(7)),
        (Fraction(22, 7), Fraction(22, 7)),
        (2.0**-30, Fraction(1, 2**30)),
    ],
)
def test_exact(number, fraction):
    assert exact(number) == fraction


@given(st.fractions(min_value=0, max_value=10**4, max_denominator=10**4))
@settings(max_examples=50, deadline=None)
def test_exact_finds_the_fraction_that_a_float_came_from(fraction):
    assert exact(float(fraction)) == fraction


# ------------------------------------------------------------------ sums, batches and samples


FULL = RunLength(total_steps=100, steps_per_epoch=Fraction(25, 2), batches_per_step=4, samples_per_step=256)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("64ba", 16),
        ("1ba", Fraction(1, 4)),
        ("4096sp", 16),
        ("100sp", Fraction(25, 64)),
        ("30%-1st", 29),
        ("5ep+100st", Fraction(325, 2)),
        ("2ep-1ba-64sp", 25 - Fraction(1, 2)),
        ("100%-100st", 0),
        ("50%+50%+1", 101),
    ],
)
def test_sums_batches_and_samples_are_exact(text, steps):
    assert Duration.parse(text).resolve(FULL) == steps


def test_epochs_of_a_sum_are_those_from_the_start_of_the_run():
    run = RunLength(total_steps=20, epoch_ends=[3, 8, 10, 20])
    assert Duration.parse("2ep+1st").resolve(run) == 9
    assert Duration.parse("2ep-1ep").resolve(run) == 5  # 8 - 3: not the length of one epoch


@pytest.mark.parametrize(("text", "steps"), [("10%-11st", "-1"), ("1-1ep", "-11.5"), ("1ba-1sp-1", "-0.753906")])
def test_a_negative_sum(text, steps):
    written = str(Duration.parse(text))
    message = f"x.until: is negative in this run; got {written}, which is {steps} steps; lengthen the run, or take less"
    with pytest.raises(SolverError, match=re.escape(message)):
        Duration.parse(text).resolve(FULL, "x.until")


@pytest.mark.parametrize("text", ["10%-10st", "0", "0ep+0ba"])
def test_a_length_of_nothing(text):
    message = f"x.every: must be longer than nothing; got '{Duration.parse(text)}'; give a length > 0"
    with pytest.raises(SolverError, match=re.escape(message)):
        Duration.parse(text).length(FULL, "x.every")
    assert Duration.parse(text).resolve(FULL) == 0


@pytest.mark.parametrize(("text", "what", "field"), [("64ba", "batches", "ba"), ("5ep-64sp", "samples", "sp")])
def test_batches_and_samples_that_are_not_known(text, what, field):
    message = (
        f"x.until: needs the number of {what} in a step, which is not known; got 64{field}; "
        f"give RunLength({what}_per_step=...), or write the duration in steps (500st)"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        Duration.parse(text).resolve(RunLength(total_steps=10, steps_per_epoch=5), "x.until")


@pytest.mark.parametrize(
    ("text", "epochs"), [("5ep", 5), ("1/3ep", Fraction(1, 3)), ("5st", None), ("5ep+1", None), ("1ep+1ep", None)]
)
def test_epochs_alone(text, epochs):
    assert Duration.parse(text).epochs == epochs


@given(durations)
@settings(max_examples=100, deadline=None)
def test_a_sum_is_the_sum_of_its_terms(duration):
    alone = [Duration((term,)).resolve(FULL) for term in duration.terms]
    assert duration.resolve(FULL) == sum(alone)
    first, *others = duration.terms
    less = Duration((first, *((-value, unit) for value, unit in others)))
    if sum(alone[1:]) <= alone[0]:
        assert less.resolve(FULL) == alone[0] - sum(alone[1:])
    else:
        with pytest.raises(SolverError, match="is negative in this run"):
            less.resolve(FULL)


# ------------------------------------------------------------------ what a run does not know


def test_percent_needs_the_length_of_the_run():
    message = "x.until: needs the length of the run, which is not given; give total_steps, or durations in steps"
    with pytest.raises(SolverError, match=re.escape(message)):
        Duration.parse("10%").resolve(RunLength(steps_per_epoch=5), "x.until")


def test_why_the_length_is_not_known_is_said():
    with pytest.raises(SolverError, match=r"x\.until: needs the length of the run; got the loader has no length"):
        Duration.parse("10%").resolve(RunLength(unknown="the loader has no length"), "x.until")


def test_epochs_need_the_length_of_an_epoch():
    message = "x.until: needs the length of an epoch, which is not known; give steps_per_epoch, or write the duration"
    with pytest.raises(SolverError, match=re.escape(message)):
        Duration.parse("2ep").resolve(RunLength(total_steps=100), "x.until")


def test_a_unit_that_is_not_needed_is_not_asked_for():
    assert Duration.parse(7).resolve(RunLength()) == 7
    assert Duration.parse("2ep").resolve(RunLength(steps_per_epoch=5)) == 10
    assert Duration.parse("50%").resolve(RunLength(total_steps=5)) == Fraction(5, 2)


# ------------------------------------------------------------------ RunLength


def test_even_epoch_ends_are_one_length():
    run = RunLength(total_steps=30, epoch_ends=[10, 20, 30])
    assert run == RunLength(total_steps=30, steps_per_epoch=10)
    assert run.epoch_ends is None


@pytest.mark.parametrize(
    ("run", "known"),
    [
        (RunLength(), False),
        (RunLength(total_steps=3), False),
        (RunLength(steps_per_epoch=3), True),
        (RunLength(epoch_ends=[3, 4]), True),
    ],
)
def test_epochs_known(run, known):
    assert run.epochs_known is known


def test_uneven_epochs():
    run = RunLength(total_steps=23, epoch_ends=[10, 15, 25])
    at = [run.steps_at_epoch(Fraction(e)) for e in (0, 1, 2, 3, 4, 5)]
    assert at == [0, 10, 15, 25, 35, 45]  # past the last entry epochs are as long as the last one
    assert run.steps_at_epoch(Fraction(1, 2)) == 5
    assert run.steps_at_epoch(Fraction(3, 2)) == Fraction(25, 2)
    assert run.steps_at_epoch(Fraction(9, 4)) == Fraction(35, 2)
    assert [run.epoch_at_step(s) for s in (0, 9, 10, 14, 15, 24, 25, 34, 35)] == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_even_epochs():
    run = RunLength(steps_per_epoch=6.25)
    assert run.steps_at_epoch(Fraction(2)) == Fraction(25, 2)
    assert [run.epoch_at_step(s) for s in (0, 6, 7, 12, 13, 25)] == [0, 0, 1, 1, 2, 4]


@pytest.mark.parametrize(
    "run",
    [
        RunLength(total_steps=20, steps_per_epoch=Fraction(5, 2)),
        RunLength(total_steps=20, epoch_ends=[5, 8, 20]),
        RunLength(total_steps=20),
        RunLength(steps_per_epoch=4, unknown="why"),
        FULL,
    ],
)
def test_scaled_counts_everything_in_the_other_unit(run):
    scaled = run.scaled(Fraction(3))
    assert scaled.total_steps == (None if run.total_steps is None else run.total_steps * 3)
    assert scaled.unknown == run.unknown
    if run.epochs_known:
        for epoch in (Fraction(0), Fraction(1, 3), Fraction(2), Fraction(7, 2)):
            assert scaled.steps_at_epoch(epoch) == run.steps_at_epoch(epoch) * 3
    else:
        assert not scaled.epochs_known
    for text in ("7ba", "7sp") if run.batches_per_step else ():
        assert Duration.parse(text).resolve(scaled) == Duration.parse(text).resolve(run) * 3


@pytest.mark.parametrize("total", [0, -1, 2.0, True, "100", float("inf")], ids=repr)
def test_total_steps_must_be_a_whole_number_above_zero(total):
    with pytest.raises(SolverError, match=re.escape(f"total_steps: must be a whole number >= 1; got {total!r}")):
        RunLength(total_steps=total)


@pytest.mark.parametrize("field", ["steps_per_epoch", "batches_per_step", "samples_per_step"])
@pytest.mark.parametrize("value", [0, -1, -0.5, True, "10", float("inf"), float("nan")], ids=repr)
def test_other_lengths_must_be_positive_numbers(field, value):
    with pytest.raises(SolverError, match=re.escape(f"{field}: must be a number > 0; got {value!r}")):
        RunLength(**{field: value})


@pytest.mark.parametrize("ends", [[], [0, 5], [-1, 5], [5, 5], [5, 3], [1, 2, 2]], ids=repr)
def test_epoch_ends_must_grow(ends):
    with pytest.raises(SolverError, match=re.escape(f"epoch_ends: must be positive and grow; got {ends!r}; give the")):
        RunLength(epoch_ends=ends)


@pytest.mark.parametrize("ends", [[1, "x"], [1, float("nan")], [1, float("inf")], [1, None], 5], ids=repr)
def test_epoch_ends_must_be_a_list_of_numbers(ends):
    with pytest.raises(SolverError, match=re.escape("epoch_ends")):
        RunLength(epoch_ends=ends)


def test_epoch_ends_beside_steps_per_epoch_is_refused():
    with pytest.raises(SolverError, match=re.escape("epoch_ends: contradicts steps_per_epoch; got 5; give epoch_ends")):
        RunLength(steps_per_epoch=5, epoch_ends=[5, 10])


def test_epoch_at_step_needs_the_length_of_an_epoch():
    with pytest.raises(SolverError, match="here: needs the length of an epoch"):
        RunLength(total_steps=5).epoch_at_step(3, "here")


lengths = st.fractions(min_value=Fraction(1, 8), max_value=20, max_denominator=8)


@st.composite
def runs(draw):
    if draw(st.booleans()):
        return RunLength(total_steps=100, steps_per_epoch=draw(lengths))
    ends, at = [], Fraction(0)
    for length in draw(st.lists(lengths, min_size=1, max_size=6)):
        at += length
        ends.append(at)
    return RunLength(total_steps=100, epoch_ends=ends)


epochs = st.fractions(min_value=0, max_value=12, max_denominator=16)


@given(runs(), epochs, epochs)
@settings(max_examples=100, deadline=None)
def test_steps_at_epoch_grows_with_the_epoch(run, one, other):
    assert (one < other) == (run.steps_at_epoch(one) < run.steps_at_epoch(other))


@given(runs(), epochs)
@settings(max_examples=100, deadline=None)
def test_epoch_at_step_undoes_steps_at_epoch(run, epoch):
    assert run.epoch_at_step(run.steps_at_epoch(epoch)) == int(epoch)


@given(runs(), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_every_step_lies_in_its_epoch(run, step):
    epoch = run.epoch_at_step(step)
    assert run.steps_at_epoch(Fraction(epoch)) <= step < run.steps_at_epoch(Fraction(epoch + 1))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("4ba", 1),
        ("8ba", 2),
        ("9ba", 3),
        ("18ba", 6),
        ("13ba", 4),
        ("17/2ba", Fraction(5, 2)),
        ("32sp", 1),
        ("72sp", 3),
    ],
)
def test_batches_where_the_last_step_of_an_epoch_is_made_of_fewer(text: str, steps: int | Fraction) -> None:
    run = RunLength(30, 3, batches_per_step=4, samples_per_step=32, batches_per_epoch=9)
    assert Duration.parse(text).resolve(run) == steps


def test_a_window_longer_than_an_epoch() -> None:
    run = RunLength(10, 1, batches_per_step=1000, batches_per_epoch=9)
    assert Duration.parse("9ba").resolve(run) == 1
    assert Duration.parse("3ba").resolve(run) == Fraction(1, 3)
