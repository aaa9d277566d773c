"""When an average takes in the weights, how much of them, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_solver import RunLength, SolverError, SolverSpec
from lightning_solver.averaging import EMA, SWA, Average, PowerEMA, PowerWarmup, SlowStart, UpdateBN
from lightning_solver.averaging.average import Count, find_evaluated
from members import Steps, members

DURATIONS = st.sampled_from([1, 2, 3, 7, "25%", "50%", "2.5", "1ep", "1/2ep", "2ep", "1ep+1st"])
LENGTHS = st.sampled_from([1, 2, 3, 5, "2.5", "1ep", "2ep", "1/2ep", "10%"])
WHEN = st.fixed_dictionaries(
    {
        "start": st.one_of(st.just(0), DURATIONS),
        "every": LENGTHS,
        "until": st.sampled_from([None, None, "75%", 9]),
        "before": st.sampled_from(["follow", "every", "hold"]),
    }
)


@st.composite
def averages(draw: Any) -> Average:
    when = draw(WHEN)
    kind = draw(st.sampled_from(["ema", "swa", "power"]))
    if kind == "swa":
        return SWA(**when)
    if kind == "power":
        return PowerEMA(gamma=draw(st.floats(0, 20)), **when)
    return EMA(
        decay=draw(st.floats(0, 1)),
        warmup=draw(st.sampled_from([None, PowerWarmup(), PowerWarmup(10, 1, 0.2), SlowStart(5)])),
        decay_per=draw(st.sampled_from(["step", "update"])),
        first=draw(st.sampled_from(["copy", "blend"])),
        **when,
    )


RUNS = st.fixed_dictionaries(
    {"total": st.integers(1, 24), "steps_per_epoch": st.sampled_from([4, 7, 10 / 3, Fraction(1, 2)])}
)
FEW = settings(max_examples=60, deadline=None)


def folded(average: Average, total: int, **run: Any) -> np.ndarray:
    """The members by the definition: at each step the average moves towards the weights by the share of the curve."""
    found = np.eye(total + 1)[0]
    for step, share in enumerate(average.curve(total_steps=total, **run), start=1):
        found += share * (np.eye(total + 1)[step] - found)
    return found


# ---------------------------------------------------------------------- shares


@FEW
@given(average=averages(), run=RUNS)
def test_the_parts_of_all_weights_are_none_below_nothing_and_sum_to_one(average: Average, run: dict[str, Any]) -> None:
    found = members(average, **run)
    assert (found > -1e-12).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-12)


@FEW
@given(average=averages(), run=RUNS)
def test_the_average_is_what_its_curve_says(average: Average, run: dict[str, Any]) -> None:
    total = run["total"]
    curve = average.curve(total_steps=total, steps_per_epoch=run["steps_per_epoch"])
    assert curve.shape == (total,)
    assert ((curve >= 0) & (curve <= 1)).all()
    np.testing.assert_allclose(members(average, **run), folded(average, **run), atol=1e-12)


def test_an_average_that_follows_blends_its_first_update_into_the_weights_before_it() -> None:
    average = EMA(decay=0.75, start=3, first="blend")
    assert average.curve(total_steps=4).tolist() == [1.0, 1.0, 0.25, 0.25]
    assert members(average, 4).tolist() == [0.0, 0.0, 0.5625, 0.1875, 0.25]


@FEW
@given(average=averages(), run=RUNS, parts=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_several_steps_at_once_are_counted_as_one_by_one(
    average: Average, run: dict[str, Any], parts: list[int]
) -> None:
    shares = average.lay(RunLength(total_steps=run["total"], steps_per_epoch=run["steps_per_epoch"]))
    single, several = Count(), Count()
    for part in parts:
        rest = 1.0
        for _ in range(part):
            rest *= 1.0 - shares.take(single)
        assert shares.take(several, part) == pytest.approx(1.0 - rest, abs=1e-12)
        assert several == single
    assert single.steps == sum(parts)


@FEW
@given(average=averages(), run=RUNS, data=st.data())
def test_it_goes_on_from_its_state_as_if_it_had_never_stopped(
    average: Average, run: dict[str, Any], data: st.DataObject
) -> None:
    total = run.pop("total")
    at = data.draw(st.integers(0, total))
    straight, stopped = Steps(average, total, **run).go(total), Steps(average, total, **run).go(at)
    again = Steps(average, total, **run)
    again.weights.copy_(stopped.weights)
    again.averaged.load_state_dict(stopped.averaged.state_dict())
    again.step = at
    again.go(total - at)
    assert np.array_equal(again.members(), straight.members())
    assert again.averaged.count == straight.averaged.count


# ---------------------------------------------------------------------- when


def grid(total: int, start: int, every: str | int, until: int | None, run: RunLength) -> list[int]:
    """The steps after which weights are taken in, by listing all."""
    if isinstance(every, str) and every.endswith("ep"):
        length = Fraction(every[:-2])
        points = {math.ceil(run.steps_at_epoch(length * n)) for n in range(1, 200)}
    else:
        points = {math.ceil(start + Fraction(every) * n) for n in range(200)}
    points |= {total} | ({0} if start == 0 else set())
    last = total if until is None else until
    return sorted(point for point in points if start <= point <= min(last, total))


@settings(max_examples=120, deadline=None)
@given(
    total=st.integers(1, 30),
    start=st.integers(0, 12),
    every=st.sampled_from([1, 2, 3, 7, "2.5", "4/3", "1/2", "1ep", "2ep", "1/2ep", "3/2ep"]),
    until=st.one_of(st.none(), st.integers(0, 30)),
    ends=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    even=st.sampled_from([None, 1, 4, 10 / 3, 0.75]),
)
def test_swa_is_the_mean_of_the_weights_that_it_takes_in(
    total: int, start: int, every: Any, until: int | None, ends: list[int], even: float | None
) -> None:
    differing = None if even is not None else [sum(ends[: n + 1]) for n in range(len(ends))]
    run = RunLength(total_steps=total, steps_per_epoch=even, epoch_ends=differing)
    taken = grid(total, start, every, until, run)
    assume(taken)
    weights = torch.eye(total + 1, dtype=torch.float64)
    row = weights[0].clone()
    averaged = SWA(start=start, every=every, until=until).over([row], run=run)
    for step in range(1, total + 1):
        row.copy_(weights[step])
        averaged.update()
    np.testing.assert_allclose(averaged.values[0], weights[taken].mean(0), atol=1e-12)
    assert averaged.count.updates == len(taken)


@FEW
@given(average=averages(), run=RUNS)
def test_the_first_update_and_their_number_are_known_beforehand(average: Average, run: dict[str, Any]) -> None:
    total = run["total"]
    shares = average.lay(RunLength(total_steps=total, steps_per_epoch=run["steps_per_epoch"]))
    count = Count()
    shares.begin(count)
    shares.take(count, total)
    assert shares.updates(total) == count.updates
    if count.began is not None:
        assert shares.first == count.began


@pytest.mark.parametrize(
    ("run", "steps"),
    [
        (RunLength(total_steps=11, steps_per_epoch=4), [4, 8]),
        (RunLength(total_steps=11, steps_per_epoch=10 / 3), [4, 7, 10]),
        (RunLength(total_steps=11, epoch_ends=[2, 3, 8]), [2, 3, 8]),
        (RunLength(total_steps=16, epoch_ends=[2, 3, 8]), [2, 3, 8, 13]),
    ],
    ids=["alike", "fractional", "differing", "past the last that is known"],
)
def test_updates_by_epochs_are_at_their_ends(run: RunLength, steps: list[int]) -> None:
    curve = EMA(decay=0.5, every="1ep", before="hold").curve(run=run)
    assert (np.flatnonzero(curve) + 1).tolist() == steps


@pytest.mark.parametrize(
    ("before", "expected"),
    [("follow", [1, 1, 1, 1, 1, 0]), ("every", [1, 0, 1, 0, 1, 0]), ("hold", [0, 0, 0, 0, 1, 0])],
)
def test_before_its_start_it_follows_the_weights_or_stays(before: Any, expected: list[int]) -> None:
    average = EMA(decay=0.5, start=5, every=2, before=before)
    assert average.curve(total_steps=6).tolist() == expected
    for step in range(1, 5):
        averaged = Steps(average, 6).go(step).averaged
        place = step if before == "follow" else (step - 1) // 2 * 2 + 1 if before == "every" else 0
        assert averaged.values[0].argmax() == place
        assert not averaged.begun


@pytest.mark.parametrize("first", ["copy", "blend"])
def test_it_follows_until_its_first_update_wherever_its_start_lies_before_that(first: Any) -> None:
    average = EMA(decay=0.5, start=2, every="1ep", first=first)
    steps = Steps(average, 8, steps_per_epoch=4)
    for step in (1, 2, 3):
        assert steps.go().members()[step] == 1.0
    last = 1.0 if first == "copy" else 0.5
    assert steps.go().members()[3:5].tolist() == [1 - last, last]
    assert average.curve(total_steps=4, steps_per_epoch=4).tolist() == [1, 1, 1, last]


def test_start_0_begins_with_the_weights_of_the_start_of_the_run() -> None:
    assert Steps(EMA(decay=0.5, start=0), 4).averaged.begun
    assert members(EMA(decay=0.5, start=0), 2).tolist() == [0.25, 0.25, 0.5]
    assert members(SWA(start=0, every=1), 3).tolist() == [0.25] * 4


def test_after_until_it_stays_as_it_is() -> None:
    steps = Steps(EMA(decay=0.5, until="50%"), 8).go(4)
    then = steps.members()
    assert np.array_equal(steps.go(4).members(), then)
    assert steps.averaged.count.updates == 4
    assert steps.averaged.count.steps == 8


@pytest.mark.parametrize(("start", "began"), [(0, 5), (3, 5), (5, 5), (7, 7)])
def test_a_run_that_goes_on_without_its_average_begins_with_the_weights_of_then(start: int, began: int) -> None:
    steps = Steps(EMA(decay=0.5, start=start, before="hold"), 8)
    averaged = steps.averaged
    averaged.count = Count(steps=5)
    steps.weights.zero_()[5] = 1.0
    steps.step = 5
    averaged.lay(RunLength(total_steps=8))
    assert averaged.begun is (start <= 5)
    steps.go(3)
    assert averaged.count.began == began
    assert steps.members()[began] == 0.5 ** (8 - began)


def test_a_run_that_goes_on_after_its_window_does_not_begin() -> None:
    averaged = Steps(SWA(start=2, until=4, every=1), 8).averaged
    averaged.count = Count(steps=5)
    averaged.lay(RunLength(total_steps=8))
    averaged.update(3)
    assert not averaged.begun


@pytest.mark.parametrize("first", ["copy", "blend"])
def test_a_run_of_another_length_goes_on_as_if_it_had_had_it_from_the_start(first: Any) -> None:
    average = EMA(decay=0.5, start="50%", first=first, before="hold")
    steps = Steps(average, 8).go(2)
    steps.averaged.lay(RunLength(total_steps=6))
    assert np.array_equal(steps.go(4).members()[:7], members(average, 6))


# ---------------------------------------------------------------------- plain data


@settings(max_examples=30, deadline=None)
@given(average=averages())
def test_an_average_is_plain_data_that_goes_there_and_back(average: Average) -> None:
    spec = SolverSpec(averages={"one": average})
    assert SolverSpec.from_dict(spec.to_dict()) == spec


def test_a_duration_that_the_run_cannot_resolve_is_an_error_with_its_place() -> None:
    with pytest.raises(SolverError, match=r"averages\.a\.start: needs the length of the run"):
        SWA().lay(RunLength(steps_per_epoch=4), "averages.a")
    with pytest.raises(SolverError, match=r"averages\.a\.every: needs the length of an epoch"):
        SWA().lay(RunLength(total_steps=4), "averages.a")
    with pytest.raises(SolverError, match=r"averages\.a\.half_life: needs the number of samples in a step"):
        EMA(half_life="64sp").lay(RunLength(total_steps=4), "averages.a")
    with pytest.raises(SolverError, match=r"total_steps: needs the length of the run"):
        EMA(decay=0.5).curve()
    EMA(decay=0.5).lay()  # needs no length


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (EMA, {"decay": 1.5}, r"EMA\.decay: must be from 0 to 1; got 1\.5"),
    (EMA, {"decay": -0.1}, r"EMA\.decay: must be from 0 to 1; got -0\.1"),
    (EMA, {"decay": float("nan")}, r"EMA\.decay"),
    (EMA, {}, r"EMA\.decay: is needed; .*half_life"),
    (EMA, {"decay": 0.9, "half_life": 5}, r"EMA\.decay: contradicts half_life; got .*decay 0\.9 and half_life 5"),
    (EMA, {"half_life": 0}, r"EMA\.half_life: must be longer than nothing; got 0"),
    (EMA, {"half_life": "0ep"}, r"EMA\.half_life: must be longer than nothing; got '0ep'"),
    (EMA, {"half_life": -5}, r"EMA\.half_life: is not a duration"),
    (EMA, {"half_life": 5, "decay_per": "update"}, r"EMA\.decay_per: is for decay, and half_life is given"),
    (EMA, {"decay": 0.9, "start": "5 epochs"}, r"EMA\.start: is not a duration"),
    (EMA, {"decay": 0.9, "start": "101%"}, r"EMA\.start: is more than the whole run"),
    (EMA, {"decay": 0.9, "until": "later"}, r"EMA\.until: is not a duration"),
    (EMA, {"decay": 0.9, "every": 0}, r"EMA\.every: must be longer than nothing"),
    (EMA, {"decay": 0.9, "snapshots": 0}, r"EMA\.snapshots: must be longer than nothing"),
    (EMA, {"decay": 0.9, "only": []}, r"EMA\.only: is empty"),
    (EMA, {"decay": 0.9, "leave_out": []}, r"EMA\.leave_out: is empty"),
    (EMA, {"decay": 0.9, "buffers": "drop"}, r"EMA\.buffers"),
    (EMA, {"decay": 0.9, "evaluated": False, "keep": "live"}, r"EMA\.keep: is for the average that is evaluated"),
    (EMA, {"decay": 0.9, "evaluated": False, "evaluate_live": True}, r"EMA\.evaluate_live: is for the average"),
    (SWA, {"first": "blend"}, r"SWA\.first: has no meaning where all weights count the same"),
    (SWA, {"every": "0ep"}, r"SWA\.every: must be longer than nothing"),
    (PowerEMA, {}, r"PowerEMA\.sigma_rel: is needed"),
    (PowerEMA, {"sigma_rel": 0.1, "gamma": 3.0}, r"PowerEMA\.sigma_rel: contradicts gamma"),
    (PowerEMA, {"sigma_rel": 0.0}, r"PowerEMA\.sigma_rel: is out of range; got 0\.0.*above 0 and below 0\.289"),
    (PowerEMA, {"sigma_rel": 0.3}, r"PowerEMA\.sigma_rel: is out of range"),
    (PowerEMA, {"gamma": -1.0}, r"PowerEMA\.gamma: must not be negative"),
    (PowerEMA, {"gamma": float("nan")}, r"PowerEMA\.gamma"),
    (PowerEMA, {"gamma": 1.0, "first": "blend"}, r"PowerEMA\.first: has no meaning"),
    (PowerWarmup, {"gamma": 0.0}, r"PowerWarmup\.gamma: must be above 0"),
    (PowerWarmup, {"power": -1.0}, r"PowerWarmup\.power: must be above 0"),
    (PowerWarmup, {"minimum": 1.5}, r"PowerWarmup\.minimum: must be a decay from 0 to 1"),
    (SlowStart, {"steps": 0.0}, r"SlowStart\.steps: must be above 0"),
    (UpdateBN, {"batches": 0}, r"UpdateBN\.batches: must be at least 1"),
]


@pytest.mark.parametrize(("kind", "arguments", "message"), BAD, ids=[f"{k.__name__} {a}" for k, a, _ in BAD])
def test_a_wrong_value_is_refused_by_name(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        kind(**arguments)


def test_a_misspelt_field_in_the_block_gets_a_suggestion() -> None:
    with pytest.raises(SolverError, match=r"half_live.*half_life"):
        SolverSpec.from_dict({"averages": {"a": {"class_path": "EMA", "init_args": {"half_live": 5}}}})
    with pytest.raises(SolverError, match=r"averages.*EMMA"):
        SolverSpec.from_dict({"averages": {"a": {"class_path": "EMMA", "init_args": {"decay": 0.5}}}})


# ---------------------------------------------------------------------- several


ONE = EMA(decay=0.9)


@pytest.mark.parametrize(
    ("averages", "expected"),
    [
        ({}, None),
        ({"a": ONE}, "a"),
        ({"a": replace(ONE, evaluated=False)}, None),
        ({"a": ONE, "b": replace(ONE, evaluated=True)}, "b"),
        ({"a": ONE, "b": replace(ONE, evaluated=False)}, "a"),
    ],
)
def test_the_only_average_is_evaluated_or_the_one_that_says_so(averages: Any, expected: str | None) -> None:
    assert find_evaluated(averages) == expected
    SolverSpec(averages=averages)


@pytest.mark.parametrize(
    ("averages", "message"),
    [
        ({"a": ONE, "b": ONE}, r"SolverSpec\.averages: only one of the averages can be evaluated.*; got a, b; say evaluated"),
        ({"a": replace(ONE, evaluated=True), "b": replace(ONE, evaluated=True)}, r"only one .*; got a, b"),
        (
            {"a": replace(ONE, keep="live"), "b": replace(ONE, evaluated=True)},
            r"SolverSpec\.averages\.a\.keep: is for the average that is evaluated, and this one is not; got 'live'",
        ),
        ({"a.b": ONE}, r"averages: cannot be the name of an average; got 'a\.b'"),
    ],
    ids=["none says so", "two say so", "idle", "name"],
)  # fmt: skip
def test_unclear_averages_are_refused(averages: Any, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        SolverSpec(averages=averages)


def test_updates_can_be_counted_from_the_run_and_from_the_start_of_the_average() -> None:
    average = EMA(decay=0.5, decay_per="update", start=5, every=3)
    assert np.flatnonzero(average.curve(total_steps=12)[4:]).tolist() == [0, 3, 6]
    average = replace(average, every_from="run")
    assert np.flatnonzero(average.curve(total_steps=12)[4:]).tolist() == [0, 1, 4, 7]
    assert average.lay().first == 5
    assert average.lay().updates(12) == 4
    average = replace(average, every="1ep")
    assert np.flatnonzero(average.curve(total_steps=12, steps_per_epoch=4)[4:]).tolist() == [0, 3, 7]
