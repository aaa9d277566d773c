"""Exponential and equal averages and those by a power of time, each beside what it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_solver import RunLength
from lightning_solver.averaging import EMA, SWA, PowerEMA, PowerWarmup, SlowStart
from lightning_solver.averaging.kinds import gamma_of, sigma_rel_of
from members import Steps, members

FEW = settings(max_examples=40, deadline=None)
DECAYS = st.floats(0.0, 1.0)


# ---------------------------------------------------------------------- EMA


@FEW
@given(decay=DECAYS, total=st.integers(1, 20))
def test_ema_is_the_textbook_recursion(decay: float, total: int) -> None:
    expected = np.eye(total + 1)[1]
    for step in range(2, total + 1):
        expected = decay * expected + (1 - decay) * np.eye(total + 1)[step]
    np.testing.assert_allclose(members(EMA(decay=decay), total), expected, atol=1e-14)


@FEW
@given(half_life=st.integers(1, 30), before=st.integers(1, 10), every=st.sampled_from([1, 2, 3]))
def test_after_its_half_life_what_was_there_before_counts_half(half_life: int, before: int, every: int) -> None:
    old, new = 1 + before * every, half_life * every
    found = members(EMA(half_life=new, every=every), old + new)
    assert found[: old + 1].sum() == pytest.approx(0.5)


@pytest.mark.parametrize("half_life", [12, "3ep", "50%", "48ba", "384sp", "2ep+4st"])
def test_a_half_life_has_a_unit(half_life: int | str) -> None:
    run = RunLength(total_steps=24, steps_per_epoch=4, batches_per_step=4, samples_per_step=32)
    assert EMA(half_life=half_life).curve(run=run)[-1] == 1 - 0.5 ** (1 / 12)


@FEW
@given(decay=DECAYS, every=st.integers(1, 6), windows=st.integers(1, 5))
def test_updates_further_apart_make_an_average_of_the_same_length(decay: float, every: int, windows: int) -> None:
    """Of weights that stay between two updates, it is the same as one that is updated at every step."""
    total = 1 + windows * every
    each, rare = members(EMA(decay=decay), total), members(EMA(decay=decay, every=every), total)
    window = np.array([0, *(1 + -(-(step - 1) // every) * every for step in range(1, total + 1))])
    together = np.array([each[window == step].sum() for step in range(total + 1)])
    np.testing.assert_allclose(rare, together, atol=1e-12)


@FEW
@given(decay=DECAYS, every=st.integers(1, 6), updates=st.integers(1, 6))
def test_a_decay_per_update_is_that_of_each_update(decay: float, every: int, updates: int) -> None:
    rare = members(EMA(decay=decay, every=every, decay_per="update"), 1 + (updates - 1) * every)
    np.testing.assert_allclose(rare[1::every], members(EMA(decay=decay), updates)[1:], atol=1e-14)


@FEW
@given(decay=DECAYS, total=st.integers(1, 12))
def test_the_first_update_copies_or_blends_into_what_it_was_made_of(decay: float, total: int) -> None:
    assert members(EMA(decay=decay, first="copy"), total)[0] == 0.0
    assert members(EMA(decay=decay, first="blend"), total)[0] == pytest.approx(decay**total, abs=1e-14)


def test_decay_0_is_the_weights_and_decay_1_those_that_it_began_with() -> None:
    assert members(EMA(decay=0.0), 5).tolist() == [0, 0, 0, 0, 0, 1]
    assert members(EMA(decay=1.0), 5).tolist() == [0, 1, 0, 0, 0, 0]


# ---------------------------------------------------------------------- warm-ups


@FEW
@given(total=st.integers(1, 15))
def test_a_power_warmup_of_one_and_one_is_the_equal_average(total: int) -> None:
    warmed = members(EMA(decay=1.0, warmup=PowerWarmup(gamma=1, power=1)), total)
    np.testing.assert_allclose(warmed, members(SWA(start=1, every=1), total), atol=1e-12)


@FEW
@given(
    gamma=st.floats(0.5, 100),
    power=st.floats(0.1, 2),
    minimum=st.floats(0, 1),
    decay=st.floats(0, 1),
    start=st.integers(1, 9),
)
def test_a_power_warmup_is_its_formula_held_between_minimum_and_decay(
    gamma: float, power: float, minimum: float, decay: float, start: int
) -> None:
    average = EMA(decay=decay, warmup=PowerWarmup(gamma, power, minimum), start=start)
    curve = average.curve(total_steps=start + 20)[start:]
    since = np.arange(1, 21)
    warm = np.maximum(1 - (1 + since / gamma) ** -power, minimum)
    np.testing.assert_allclose(1 - curve, np.minimum(warm, decay), atol=1e-12)


def test_timms_warmup_reaches_a_decay_of_0_999_after_31600_steps() -> None:
    curve = EMA(decay=0.999, warmup=PowerWarmup()).curve(total_steps=32_000)
    reached = int(np.flatnonzero(curve <= 0.001 * (1 + 1e-9))[0])
    assert 31_500 < reached < 31_700
    assert (np.diff(curve) <= 0).all()


@FEW
@given(steps=st.floats(1, 100), decay=st.floats(0, 1))
def test_a_slow_start_takes_in_at_most_its_part(steps: float, decay: float) -> None:
    curve = EMA(decay=decay, warmup=SlowStart(steps), first="blend").curve(total_steps=20)
    since = np.arange(20)
    np.testing.assert_allclose(curve, np.minimum(1 - decay, (1 + since) / (steps + since)), atol=1e-12)


def test_a_warmup_is_that_of_a_step_where_updates_are_further_apart() -> None:
    warmup = PowerWarmup(10, 1)
    curve = EMA(decay=0.99, warmup=warmup, every=3).curve(total_steps=7)
    share = 10 / (10 + 6)  # six steps after the average began
    assert curve[6] == pytest.approx(1 - (1 - share) ** 3)
    assert EMA(decay=0.99, warmup=warmup, every=3, decay_per="update").curve(total_steps=7)[6] == pytest.approx(share)


# ---------------------------------------------------------------------- SWA


@FEW
@given(start=st.integers(1, 10), total=st.integers(10, 20))
def test_the_tail_average_is_the_mean_of_the_last_weights(start: int, total: int) -> None:
    found = members(SWA(start=start, every=1), total)
    np.testing.assert_allclose(found[start:], 1 / (total - start + 1), atol=1e-12)
    last = members(SWA(start=f"100%-{start}st", every=1), total)
    np.testing.assert_allclose(last[total - start :], 1 / (start + 1), atol=1e-12)


def test_by_default_it_is_of_the_ends_of_the_epochs_of_the_last_quarter() -> None:
    found = members(SWA(), 80, steps_per_epoch=4)
    assert np.flatnonzero(found).tolist() == [60, 64, 68, 72, 76, 80]


@pytest.mark.parametrize("every", [4, "1ep"])
def test_the_weights_of_the_end_of_the_run_are_among_those_averaged(every: Any) -> None:
    found = members(SWA(start=4, every=every), 10, steps_per_epoch=4)
    assert np.flatnonzero(found).tolist() == [4, 8, 10]
    assert found[[4, 8, 10]] == pytest.approx(1 / 3)


def test_it_holds_the_mean_so_far_wherever_training_ends() -> None:
    steps = Steps(SWA(start=2, every=2), 100).go(7)
    assert steps.members()[[2, 4, 6]] == pytest.approx(1 / 3)


# ---------------------------------------------------------------------- power of time


@FEW
@given(gamma=st.floats(0, 30), total=st.integers(1, 40), every=st.integers(1, 5), start=st.integers(0, 4))
def test_power_ema_weighs_each_stretch_of_time_by_its_power(gamma: float, total: int, every: int, start: int) -> None:
    """The weights after step t stand for the time since the update before: the integral of t ** gamma over it."""
    found = members(PowerEMA(gamma=gamma, every=every, start=start), start + total)
    steps = np.array([s for s in range(start, start + total + 1, every) if s > 0 or start == 0])
    bounds = np.concatenate([[0.0], steps - start + 1.0]) / (steps[-1] - start + 1.0)
    expected = np.diff(bounds ** (gamma + 1))
    np.testing.assert_allclose(found[steps], expected, atol=1e-12)
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97])
def test_power_ema_is_a_mean_with_weights_that_grow_as_the_power(gamma: float) -> None:
    found = members(PowerEMA(gamma=gamma), 2000)[1:]
    step = np.arange(1, 2001) - 0.5  # the middle of each step's stretch
    np.testing.assert_allclose(found, step**gamma / (step**gamma).sum(), rtol=0.01, atol=1e-7)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("total", [500, 2000])
def test_sigma_rel_is_the_deviation_of_the_times_whatever_the_length_of_the_run(sigma_rel: float, total: int) -> None:
    found, time = members(PowerEMA(sigma_rel=sigma_rel), total), np.arange(total + 1)
    mean = (found * time).sum()
    deviation = np.sqrt((found * (time - mean) ** 2).sum())
    assert deviation / total == pytest.approx(sigma_rel, rel=0.01)


def test_the_exponents_of_the_paper() -> None:
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)
    assert PowerEMA(sigma_rel=0.1).curve(total_steps=9) == pytest.approx(
        PowerEMA(gamma=gamma_of(0.1)).curve(total_steps=9)
    )


@FEW
@given(gamma=st.floats(0, 1000))
def test_sigma_rel_and_gamma_are_inverses(gamma: float) -> None:
    assert gamma_of(sigma_rel_of(gamma)) == pytest.approx(gamma, rel=1e-9, abs=1e-9)
    assert sigma_rel_of(gamma) <= 12**-0.5


@FEW
@given(sigma_rel=st.floats(0.001, 0.2886))
def test_gamma_of_gives_the_length_back(sigma_rel: float) -> None:
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-9)
    assert gamma_of(sigma_rel) > 0
