from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader

from lightning_solver import SolverError, SolverSpec
from lightning_solver.schedules import Constant, Cosine, Linear
from small import Net, Stream, loader, spec, trainer

RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "max_epochs": ({"max_epochs": 3}, 30),
    "max_steps": ({"max_steps": 7}, 7),
    "max_steps over several epochs": ({"max_steps": 25, "max_epochs": -1}, 25),
    "both, steps first": ({"max_epochs": 3, "max_steps": 17}, 17),
    "both, epochs first": ({"max_epochs": 2, "max_steps": 170}, 20),
    "accumulation": ({"max_epochs": 3, "accumulate_grad_batches": 5}, 6),
    "accumulation with a short last window": ({"max_epochs": 3, "accumulate_grad_batches": 4}, 9),
    "accumulation longer than an epoch": ({"max_epochs": 3, "accumulate_grad_batches": 40}, 3),
    "limit as a number": ({"max_epochs": 3, "limit_train_batches": 4}, 12),
    "limit as a part": ({"max_epochs": 3, "limit_train_batches": 0.35}, 9),
    "overfit_batches as a number": ({"max_epochs": 3, "overfit_batches": 2}, 6),
    "overfit_batches as a part": ({"max_epochs": 3, "overfit_batches": 0.2}, 6),
    "fast_dev_run": ({"fast_dev_run": True}, 1),
    "fast_dev_run of several batches": ({"fast_dev_run": 3}, 3),
    "limit and accumulation": ({"max_epochs": 2, "limit_train_batches": 7, "accumulate_grad_batches": 2}, 8),
}


@pytest.mark.parametrize(("settings", "expected"), RUNS.values(), ids=RUNS)
@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_planned_steps_are_those_that_fit_makes(settings: dict[str, Any], expected: int) -> None:
    net = Net(spec())
    fit = trainer(**settings)
    fit.fit(net, loader())
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == expected
    # and every step was made with the learning rate that the plan shows for it
    assert net.used == net.solver_plan.curve("lr").tolist()


@pytest.mark.parametrize(
    ("scheduling", "settings", "expected", "ends"),
    [
        ({0: 5}, {"max_epochs": 2}, 4, None),
        ({0: 1, 1: 5}, {"max_epochs": 3}, 14, (10, 12, 14)),
        ({1: 4, 2: 3}, {"max_epochs": 4}, 21, (10, 13, 17, 21)),
        ({0: 1, 1: 5}, {"max_steps": 13, "max_epochs": -1}, 13, (10, 12, 14)),
        ({0: 1, 1: 5}, {"max_steps": 3, "max_epochs": 5}, 3, (10, 12, 14, 16, 18)),
    ],
)
def test_accumulation_that_changes_with_the_epoch(
    scheduling: dict[int, int], settings: dict[str, Any], expected: int, ends: tuple[int, ...] | None
) -> None:
    net = Net(spec())
    fit = trainer(callbacks=[GradientAccumulationScheduler(scheduling)], **settings)
    fit.fit(net, loader())
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == expected
    assert net.solver_plan.run.epoch_ends == ends
    assert net.used == net.solver_plan.curve("lr").tolist()


def test_phases_in_epochs_end_where_the_uneven_epochs_end() -> None:
    net = Net(spec(schedules={"lr": [Linear(start=0.0, until="1ep"), Cosine()]}))
    trainer(max_epochs=3, callbacks=[GradientAccumulationScheduler({0: 2, 1: 5})]).fit(net, loader())
    assert net.solver_plan is not None
    curve = net.solver_plan.curve("lr")[:, -1]
    assert net.solver_plan.run.epoch_ends == (5, 7, 9)
    assert curve.argmax() == 5
    assert curve[5] == 0.01


def test_short_last_batch_counts() -> None:
    net = Net(spec())
    fit = trainer(max_epochs=2)
    fit.fit(net, loader(length=41))
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == 22


def test_data_without_a_length_and_max_steps() -> None:
    net = Net(spec())
    fit = trainer(max_steps=23, max_epochs=-1)
    fit.fit(net, DataLoader(Stream(40), batch_size=4))
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == 23
    assert net.used == net.solver_plan.curve("lr").tolist()


def test_data_without_a_length_and_a_limit() -> None:
    net = Net(spec())
    fit = trainer(max_epochs=2, limit_train_batches=3)
    fit.fit(net, DataLoader(Stream(40), batch_size=4))
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == 6


UNKNOWN: dict[str, tuple[dict[str, Any], bool]] = {
    "unsized loader without max_steps": ({"max_epochs": 2}, True),
    "max_epochs -1": ({"max_epochs": -1}, False),
    "max_time": ({"max_time": {"seconds": 2}}, False),
}


@pytest.mark.parametrize(("settings", "stream"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_length_that_nothing_says_is_an_error_with_the_ways_out(settings: dict[str, Any], stream: bool) -> None:
    net = Net(spec())
    data = DataLoader(Stream(40), batch_size=4) if stream else loader()
    message = r"schedules\.lr.*needs the length of the run; got .*max_steps.*limit_train_batches.*; give total_steps"
    with pytest.raises(SolverError, match=message):
        trainer(**settings).fit(net, data)


@pytest.mark.parametrize(("settings", "stream"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_length_is_fine_where_nothing_needs_it(settings: dict[str, Any], stream: bool) -> None:
    net = Net(spec(schedules={"lr": [Linear(start=0.0, until=4), Constant()]}))
    data = DataLoader(Stream(40), batch_size=4) if stream else loader()
    fit = trainer(**settings)
    fit.should_stop = False
    net.on_train_batch_end = lambda *_: setattr(fit, "should_stop", fit.global_step >= 6)  # type: ignore[method-assign]
    fit.fit(net, data)
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps is None
    assert [lrs[-1] for lrs in net.used[:6]] == [0.0, 0.0025, 0.005, 0.0075, 0.01, 0.01]


def test_an_epoch_of_unknown_length_is_an_error_only_where_it_is_needed() -> None:
    net = Net(spec(schedules={"lr": [Linear(start=0.0, until="1ep"), Cosine()]}))
    with pytest.raises(
        SolverError, match=r"schedules\.lr\[0\]\.until: needs the length of an epoch.*write the duration in"
    ):
        trainer(max_steps=5, max_epochs=-1).fit(net, DataLoader(Stream(40), batch_size=4))


def test_fast_dev_run_lets_phases_reach_beyond_its_few_batches() -> None:
    net = Net(spec(schedules={"lr": [Linear(start=0.1, until="5ep"), Cosine()]}))
    trainer(fast_dev_run=2).fit(net, loader())
    assert net.solver_plan is not None
    assert any("reaches beyond the run" in note for note in net.solver_plan.notes)


def test_no_train_batches() -> None:
    with pytest.raises(SolverError, match="there are no train batches"):
        trainer(max_epochs=1, limit_train_batches=0).fit(Net(spec()), loader())


def test_batches_per_step_are_told() -> None:
    net = Net(spec())
    trainer(max_epochs=1, accumulate_grad_batches=5).fit(net, loader())
    assert net.solver_plan is not None
    assert net.solver_plan.run.batches_per_step == 5
    assert "5 batches make a step" in net.solver_plan.table()


def test_a_spec_without_schedules_needs_no_length() -> None:
    net = Net(SolverSpec(optimizer=spec().optimizer))
    fit = trainer(max_time={"seconds": 1}, limit_val_batches=0)
    net.on_train_batch_end = lambda *_: setattr(fit, "should_stop", fit.global_step >= 2)  # type: ignore[method-assign]
    fit.fit(net, loader())
    assert fit.global_step >= 2
