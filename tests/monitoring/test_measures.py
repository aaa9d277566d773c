"""What is measured, without a Trainer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_solver.monitoring import measures
from lightning_solver.monitoring.measures import Clock, Mean, Norms, Options, Update, changed_rates, samples_in


def tensors(*sizes: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((size,), float(size))) for size in sizes]


def grouped(count: int, **options: Any) -> torch.optim.Optimizer:
    groups = [{"params": tensors(i + 1), "name": f"g{i}", "lr": 0.1 * (i + 1)} for i in range(count)]
    return torch.optim.SGD(groups, **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, **options})


def test_one_group_has_bare_names() -> None:
    options = Options(torch.optim.AdamW(tensors(2), lr=0.1, betas=(0.8, 0.99), weight_decay=0.3))
    assert options.named(options.read()) == {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3}


def test_each_of_some_groups_has_series_of_its_own() -> None:
    options = Options(grouped(2), prefix="gen", wanted=("lr", "momentum"))
    named = options.named(options.read())
    assert named == {"lr/gen/g0": 0.1, "lr/gen/g1": 0.2, "momentum/gen/g0": 0.9, "momentum/gen/g1": 0.9}


def test_of_many_groups_there_are_the_extremes_and_the_largest() -> None:
    options = Options(grouped(5), wanted=("lr",), most=4)
    assert options.named(options.read()) == {"lr": 0.5, "lr/min": 0.1, "lr/max": 0.5}
    norms = options.by_group("grad_norm", range(5), [5.0, 4.0, 3.0, 2.0, 1.0], beside_total=True)
    assert norms == {"grad_norm/min": 1.0, "grad_norm/max": 5.0}


def test_a_summary_of_tensors_is_not_waited_for() -> None:
    """Tensors without a value, as those of a device are that nobody waits for."""
    options = Options(grouped(9))
    found = options.by_group("grad_norm", range(9), [torch.zeros((), device="meta") for _ in range(9)])
    assert {*found} == {"grad_norm", "grad_norm/min", "grad_norm/max"}
    assert all(value.device.type == "meta" for value in found.values())


def test_options_that_an_optimiser_does_not_have_are_left_out() -> None:
    options = Options(torch.optim.Adagrad(tensors(2), lr=0.1))
    assert options.named(options.read()) == {"lr": 0.1, "weight_decay": 0}


def test_an_option_of_some_groups_only_is_that_of_these() -> None:
    optimizer = grouped(3)
    del optimizer.param_groups[0]["momentum"]
    optimizer.param_groups[1] = {**optimizer.param_groups[1], "betas": (0.5, 0.9)}
    del optimizer.param_groups[1]["momentum"]
    options = Options(optimizer, wanted=("momentum",))
    assert options.named(options.read()) == {"momentum/g1": 0.5, "momentum/g2": 0.9}
    assert options.main(options.read()) == {"momentum": 0.9}


def test_a_rate_that_is_a_tensor_is_what_it_was() -> None:
    rate = torch.tensor(0.1)
    options = Options(torch.optim.Adam(tensors(2), lr=rate, capturable=False, foreach=False))
    values = options.read()
    rate.fill_(0.7)
    assert float(options.named(values)["lr"]) == pytest.approx(0.1)


def test_groups_that_are_added_are_noticed() -> None:
    optimizer = grouped(2)
    options = Options(optimizer)
    assert not options.stale
    optimizer.add_param_group({"params": tensors(3)})
    assert options.stale


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ([0.1], [0.1], []),
        ([0.1], [0.0909091], []),
        ([0.1], [0.0909], [0]),
        ([0.1], [0.11001], [0]),
        ([0.0], [0.1], [0]),
        ([0.1], [0.0], []),
        ([0.1], [1e-7], []),
        ([1e-8], [1.01e-7], [0]),
    ],
)
def test_rates_that_change_by_more_than_a_factor(before: list[float], after: list[float], changed: list[int]) -> None:
    assert changed_rates(before, after, 1.1) == changed


def test_norms_of_all_gradients_and_of_groups() -> None:
    optimizer = grouped(2)
    for group, value in zip(optimizer.param_groups, (3.0, 4.0)):
        group["params"][0].grad = torch.zeros(len(group["params"][0]))
        group["params"][0].grad[0] = value
    norms = Norms(optimizer)
    assert float(norms.total()) == 5.0
    assert [float(norm) for norm in norms.by_group()] == [3.0, 4.0]


def test_the_ratio_of_a_step_to_the_weights_before_it() -> None:
    first, second = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
    update = Update(optimizer)
    first.grad, second.grad = torch.tensor([0.6]), torch.tensor([0.8])
    optimizer.step()
    whole, groups = update.ratios()
    assert float(whole) == pytest.approx(0.2)
    assert [float(ratio) for ratio in groups] == pytest.approx([0.2, 0.2])
    assert update._before == []


def test_a_mean_of_tensors_begins_anew_when_it_was_taken() -> None:
    mean = Mean()
    assert mean.take() is None
    mean.add(torch.tensor(1.0))
    mean.add(torch.tensor(0.0))
    assert float(mean.take() or 0) == 0.5
    assert mean.take() is None


def test_the_clock_tells_waiting_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(measures.time, "perf_counter", lambda: now[0])
    clock = Clock()

    def after(seconds: float, what: Any) -> None:
        now[0] += seconds
        what()

    after(5, clock.wait)
    after(1, clock.begin)
    after(2, clock.end)
    after(3, clock.begin)
    after(4, clock.end)
    after(1, clock.pause)
    after(100, clock.wait)
    after(1, clock.begin)
    after(2, clock.end)
    assert clock.take(2) == {"time/step": 7.0, "time/data": 3.0}
    assert clock.take(0) == {}


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(3, 2), 3.0),
        ([torch.zeros(4, 2), torch.zeros(5)], 4.0),
        ({"name": "x", "image": torch.zeros(6, 1)}, 6.0),
        ([{"image": torch.zeros(3, 8, 8)}, {"image": torch.zeros(3, 9, 9)}], 2.0),
        ((["a", "b"], torch.zeros(2)), 2.0),
        (torch.zeros(()), math.nan),
        ("text", math.nan),
        ([], math.nan),
        ([0] * 10, math.nan),
    ],
)
def test_samples_of_a_batch(batch: Any, samples: float) -> None:
    assert samples_in(batch) == samples or (math.isnan(samples) and math.isnan(samples_in(batch)))
