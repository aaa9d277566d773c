from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader

from lightning_solver import SolverError, SolverSpec
from lightning_solver.accumulation import Accumulation
from lightning_solver.callbacks import GradientAccumulation
from lightning_solver.run_length import trainer_run_length
from lightning_solver.schedules import Constant, Cosine, Linear
from small import Net, Numbers, Stream, loader, spec, trainer

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


# ------------------------------------------------------------------ accumulation of ours

OWN: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "constant": (5, {"max_epochs": 3}, (2, 4, 6)),
    "short last window": (4, {"max_epochs": 3}, (3, 6, 9)),
    "longer than an epoch": (40, {"max_epochs": 3}, (1, 2, 3)),
    "by epoch": ({0: 1, "1ep": 4}, {"max_epochs": 3}, (10, 13, 16)),
    "by epoch, back to one": ({0: 4, "1ep": 3, "2ep": 1}, {"max_epochs": 3}, (3, 7, 17)),
    "by step": ({0: 1, 3: 4}, {"max_epochs": 3}, (5, 8, 11)),
    "by step in the second epoch": ({0: 2, 6: 3}, {"max_epochs": 2}, (5, 9)),
    "by parts of epochs": ({0: 1, "0.5ep": 2, "1.25ep": 3}, {"max_epochs": 3}, (8, 12, 16)),
    "samples": ({"samples": 8}, {"max_epochs": 3}, (5, 10, 15)),
    "samples by epoch": ({"samples": {0: 4, "1ep": 12}}, {"max_epochs": 2}, (10, 14)),
    "limit as a number": (3, {"max_epochs": 2, "limit_train_batches": 4}, (2, 4)),
    "limit as a part": ({0: 1, "1ep": 2}, {"max_epochs": 2, "limit_train_batches": 0.35}, (3, 5)),
    "max_steps": ({0: 1, 3: 4}, {"max_steps": 7, "max_epochs": -1}, (5, 8)),
    "max_steps by epoch": ({0: 3, "1ep": 1}, {"max_steps": 9, "max_epochs": -1}, (4, 14)),
    "both, steps first": (3, {"max_epochs": 3, "max_steps": 5}, (4, 8, 12)),
    "fast_dev_run": (2, {"fast_dev_run": 3}, (2,)),
}


@pytest.mark.parametrize("alone", [False, True], ids=["spec", "callback"])
@pytest.mark.parametrize(("given", "settings", "ends"), OWN.values(), ids=OWN)
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_planned_steps_are_those_that_are_made_with_accumulation_of_ours(
    given: Any, settings: dict[str, Any], ends: tuple[int, ...], alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    how = SolverSpec.from_dict({"accumulate": given}).accumulation()
    assert how is not None
    own = GradientAccumulation(how.batches, samples=how.samples)
    net = Net(spec() if alone else spec(accumulate=how))
    fit = trainer(callbacks=[own] if alone else [], **settings)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit.fit(net, loader())
    assert net.solver_plan is not None
    run = net.solver_plan.run
    assert [run.steps_at_epoch(Fraction(epoch + 1), "") for epoch in range(len(ends))] == [*ends]
    assert run.total_steps == fit.global_step == min(ends[-1], settings.get("max_steps", ends[-1]))
    assert net.used == net.solver_plan.curve("lr").tolist()
    assert not [record for record in caplog.records if "optimiser steps" in record.message]  # the guard is silent
    assert fit.accumulate_grad_batches == 1


@pytest.mark.parametrize("given", [3, {0: 1, 3: 4}, {0: 1, "1ep": 3}], ids=str)
def test_accumulation_of_data_without_a_length(given: Any) -> None:
    net = Net(spec(accumulate=given))
    fit = trainer(max_steps=9, max_epochs=-1)
    fit.fit(net, DataLoader(Stream(40), batch_size=4))
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == 9
    assert net.used == net.solver_plan.curve("lr").tolist()


def test_a_limit_gives_data_without_a_length_one() -> None:
    net = Net(spec(accumulate={0: 1, "0.5ep": 2}))
    fit = trainer(max_epochs=2, limit_train_batches=7)
    fit.fit(net, DataLoader(Stream(40), batch_size=4))
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == 10


def test_a_point_within_an_epoch_of_unknown_length_is_refused() -> None:
    net = Net(spec(accumulate={0: 1, "0.5ep": 2}))
    message = (
        r"^accumulate: a point within an epoch needs its length, which is not known; "
        r"got 1 batch a step, 2 from 0\.5ep on; give points in whole epochs, or in steps$"
    )
    with pytest.raises(SolverError, match=message):
        trainer(max_steps=9, max_epochs=-1).fit(net, DataLoader(Stream(40), batch_size=4))


def test_data_that_end_before_the_limit_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """With a limit Lightning does not look ahead: it learns that the data have ended when there is no batch to step."""
    net = Net(SolverSpec(optimizer=spec().optimizer, accumulate=4))
    fit = trainer(max_epochs=1, limit_train_batches=20)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit.fit(net, DataLoader(Stream(40), batch_size=4))
    assert fit.global_step == 2
    assert "the gradients of the last 2 batches led to no step: the run ended in mid-window" in caplog.text


def test_data_without_a_length_make_a_step_of_a_short_last_window() -> None:
    net = Net(SolverSpec(optimizer=spec().optimizer, accumulate=4))
    fit = trainer(max_epochs=2)
    fit.fit(net, DataLoader(Stream(40), batch_size=4))
    assert fit.global_step == 6


class Foreign(LightningModule):
    """A module without the mixin, whose schedule needs the number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> Any:
        self.lightnings = self.trainer.estimated_stepping_batches
        self.ours = trainer_run_length(self.trainer)
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize(("given", "steps"), [(4, 6), ({0: 2, 3: 1}, 17), ({0: 1, "1ep": 5}, 12)], ids=str)
def test_a_module_without_the_mixin_can_ask_for_the_length(given: Any, steps: int) -> None:
    net = Foreign()
    fit = trainer(max_epochs=2, callbacks=[GradientAccumulation(given)])
    fit.fit(net, loader())
    assert net.ours.total_steps == fit.global_step == steps
    if isinstance(given, int):  # Lightning has no way to be told that it changes
        assert net.lightnings == steps


def test_samples_of_a_step_are_known_for_the_scaling_of_learning_rates() -> None:
    for accumulate in (3, {"samples": 12}):
        net = Net(
            SolverSpec.from_dict({"accumulate": accumulate}).replace(optimizer=spec().optimizer, base_batch_size=6)
        )
        trainer(max_epochs=1).fit(net, loader())
        assert net.solver_plan is not None
        assert net.solver_plan.run.batches_per_step == 3
        assert net.solver_plan.run.samples_per_step == 12
        assert net.used[0][0] == 0.02
    net = Net(spec(accumulate={0: 3, 1: 2}))
    trainer(max_epochs=1).fit(net, loader())
    assert net.solver_plan is not None
    assert net.solver_plan.run.samples_per_step is None


def test_samples_that_batches_do_not_make_and_batches_of_unknown_size() -> None:
    how = Accumulation(samples=10)
    message = (
        r"^accumulate\.samples: is no multiple of the 4 samples of a batch over all devices; got 10; give 8 or 12$"
    )
    with pytest.raises(SolverError, match=message):
        trainer(max_epochs=1).fit(Net(spec(accumulate=how)), loader())
    message = (
        r"^GradientAccumulation\.samples: needs the number of samples of a batch, which is not known; give batches"
    )
    data = DataLoader(Numbers(8), batch_size=None)
    with pytest.raises(SolverError, match=message):
        trainer(max_epochs=1, callbacks=[GradientAccumulation(samples=10)]).fit(Net(spec()), data)
