"""Histories: what series were lately, and over the whole run."""

from __future__ import annotations

import io
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics import MeanMetric, Metric

from lightning_solver import SolverError
from lightning_solver.monitoring import Histories, History
from lightning_solver.monitoring.history import to_floats


def filled(values: list[float], kept: int = 500) -> History:
    history = History(kept)
    for step, value in enumerate(values):
        history.add(10 * step, value)
    return history


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(1, 40), st.integers(1, 40))
def test_windowed_and_global_statistics_are_those_of_python(values: list[float], kept: int, window: int) -> None:
    history = filled(values, kept)
    recent = values[-min(kept, window) :]
    assert history.latest == values[-1]
    assert history.count == len(values)
    assert [value for _, value in history.values] == values[-kept:]
    assert history.mean(window) == pytest.approx(statistics.fmean(recent), rel=1e-9, abs=1e-6)
    assert history.median(window) == pytest.approx(statistics.median(recent), rel=1e-9, abs=1e-9)
    assert history.global_mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)


def test_the_global_mean_counts_values_that_were_dropped() -> None:
    history = filled([100.0, 1.0, 2.0, 3.0], kept=3)
    assert history.values == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert history.mean(100) == 2.0
    assert history.global_mean == 26.5


def test_nothing_grows_however_many_values_there_are() -> None:
    history = History(10)
    for step in range(5000):
        history.add(step, float(step))
    assert len(history.values) == 10
    assert len(history._waiting) < 1000
    assert history.global_mean == 2499.5
    assert history.count == 5000


def test_values_that_are_not_finite_are_kept_and_spoil_no_mean() -> None:
    history = filled([1.0, math.nan, 3.0, math.inf])
    assert history.count == 4
    assert history.latest == math.inf
    assert (history.mean(4), history.median(4), history.global_mean) == (2.0, 2.0, 2.0)
    only = filled([math.nan])
    assert all(math.isnan(value) for value in (only.mean(1), only.median(1), only.global_mean))


def test_the_metrics_of_torchmetrics_can_be_taken() -> None:
    history = filled([1.0, 2.0, 6.0], kept=2)
    assert isinstance(history.mean_metric, MeanMetric)
    assert float(history.mean_metric.compute()) == 3.0
    assert isinstance(history.recent_metric, Metric)
    assert history.recent_metric.compute().tolist() == [2.0, 6.0]


def test_a_history_goes_on_from_its_state_which_loads_with_weights_only() -> None:
    histories = Histories(3)
    for step in range(5):
        histories.add(step, {"a": float(step), "b": math.nan})
    file = io.BytesIO()
    torch.save(histories.state_dict(), file)
    file.seek(0)
    restored = Histories(3)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for one in (histories, restored):
        one.add(5, {"a": 8.0})
    assert restored["a"].values == histories["a"].values == [(3, 3.0), (4, 4.0), (5, 8.0)]
    assert restored["a"].global_mean == histories["a"].global_mean == 3.0
    assert restored["a"].count == 6
    assert math.isnan(restored["b"].global_mean)


@pytest.mark.parametrize("window", [0, -1, 1.5, True])
def test_a_window_is_a_whole_number(window: int) -> None:
    with pytest.raises(SolverError, match=r"^window: must be a whole number >= 1; got "):
        filled([1.0]).mean(window)


def test_an_unknown_series_names_the_nearest() -> None:
    histories = Histories()
    histories.add(0, {"lr/backbone": 0.1})
    with pytest.raises(SolverError, match=r"got 'lr/bacbone'; did you mean lr/backbone\?"):
        histories.called("lr/bacbone")
    assert "lr/backbone" in histories
    assert "lr" not in histories
    assert histories.get("nothing") is None


def test_values_of_users_are_averaged_between_two_logs_or_taken_as_they_are() -> None:
    histories = Histories()
    for step, value in enumerate([1.0, torch.tensor(2.0), torch.tensor([6.0])]):
        histories.put(step, "smooth", value)
        histories.put(step, "rough", value, smooth=False)
    assert histories.take() == {"smooth": 3.0, "rough": 6.0}
    assert histories.take() == {}
    histories.put(3, "smooth", 10)
    assert histories.take() == {"smooth": 10.0}
    assert histories["smooth"].values == [(0, 1.0), (1, 2.0), (2, 6.0), (3, 10.0)]


def test_a_tensor_that_was_put_may_change_afterwards() -> None:
    histories, tensor = Histories(), torch.ones((), requires_grad=True)
    histories.put(0, "mine", tensor)
    with torch.no_grad():
        tensor.fill_(5.0)
    assert histories.take() == {"mine": 1.0}


def test_values_of_users_do_not_pile_up_when_nothing_is_logged() -> None:
    histories = Histories(10)
    for step in range(2500):
        histories.put(step, "mine", torch.tensor(1.0))
    assert len(histories._put["mine"].waiting) < 1000
    assert histories.take() == {"mine": 1.0}
    assert histories["mine"].count == 2500


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("my loss", 1.0, "put: is no name that every logger takes; got 'my loss'"),
        ("", 1.0, "put: is no name that every logger takes"),
        ("lr/mine", 1.0, "put: is the name of a series that is logged anyway; got 'lr/mine'"),
        ("step", 1.0, "put: is the name of a series that is logged anyway"),
        ("mine", torch.zeros(2), r"put: mine: is no number; got a tensor of shape \(2,\)"),
        ("mine", "3", "put: mine: is no number; got '3'"),
    ],
)
def test_what_cannot_be_put(name: str, value: float, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        Histories().put(0, name, value)


def test_numbers_and_tensors_become_floats_in_order() -> None:
    assert to_floats([1, torch.tensor(2.0), 3.5, torch.tensor([4], dtype=torch.int64)]) == [1.0, 2.0, 3.5, 4.0]
