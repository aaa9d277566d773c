"""What people who accumulate gradients with Lightning have stumbled over, one test for each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from accumulation_runs import Batch, Batches, Plain, Regression, assert_equal, loader, run, solver
from lightning_solver import SolverError, SolverMixin, SolverSpec
from lightning_solver.averaging import EMA
from lightning_solver.callbacks import GradientAccumulation
from lightning_solver.schedules import Constant, Cosine, Linear
from small import Net, Numbers, Stream, spec, trainer
from small import loader as numbers

TEN = Batches([4] * 10)


class Unit(SolverMixin, LightningModule):
    """One weight whose gradient is 1 for each batch: what a step does can be read off."""

    def __init__(self, given: SolverSpec) -> None:
        super().__init__()
        self.solver = given
        self.weight = nn.Parameter(torch.zeros(1))
        self.used: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        assert self.weight.grad is not None
        self.used.append(float(self.weight.grad))


def unit(accumulate: Any) -> SolverSpec:
    return SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 1.0}}, "accumulate": accumulate})


# ------------------------------------------------------------------ total steps and warm-up


def test_a_warm_up_in_steps_is_one_of_optimiser_steps() -> None:
    """It ended after a sixteenth of its steps, or lasted sixteen times as long, when 16 batches made a step."""
    phases = {"lr": [Linear(start=0.0, until=4), Constant()]}
    for accumulate in (1, 5):
        net = Net(spec(rules=[], default_rules=False, accumulate=accumulate, schedules=phases))
        trainer(max_epochs=3).fit(net, numbers())
        assert [lrs[0] for lrs in net.used[:6]] == [0.0, 0.0025, 0.005, 0.0075, 0.01, 0.01]


def test_phases_that_end_with_the_run_do_so_however_many_batches_make_a_step() -> None:
    for accumulate in (1, 4, {0: 1, 7: 3}, {0: 4, "1ep": 1}):
        net = Net(spec(accumulate=accumulate, schedules={"lr": [Linear(start=0.1, until="20%"), Cosine(end=0.0)]}))
        fit = trainer(max_epochs=3)
        fit.fit(net, numbers())
        assert net.solver_plan is not None
        assert net.used == net.solver_plan.curve("lr").tolist()
        assert len(net.used) == fit.global_step
        peak = max(lrs[0] for lrs in net.used)
        assert net.used[-1][0] < 0.5 * peak


@pytest.mark.parametrize(("numbers_of_batches", "steps"), [({0: 5}, 4), ({0: 1, 1: 5}, 12)], ids=str)
def test_the_horizon_follows_numbers_that_change_with_the_epoch(numbers_of_batches: dict[int, int], steps: int) -> None:
    """Lightning says 20 for both."""
    wrong: list[float] = []

    class Asks(Plain):
        def configure_optimizers(self) -> Any:
            wrong.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

    theirs = trainer(max_epochs=2, callbacks=[GradientAccumulationScheduler(dict(numbers_of_batches))])
    theirs.fit(Asks(), loader(TEN))
    assert wrong == [20]
    assert theirs.global_step == steps
    points = {f"{epoch}ep": number for epoch, number in numbers_of_batches.items()}
    net = Net(spec(accumulate=points))
    fit = trainer(max_epochs=2)
    fit.fit(net, numbers())
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == steps


def test_the_number_may_change_by_step_within_the_only_epoch_of_a_pre_training() -> None:
    net = Net(spec(accumulate={0: 1, 4: 2, 6: 4}))
    fit = trainer(max_epochs=1)
    fit.fit(net, numbers(64))
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == 4 + 2 + 2


@pytest.mark.parametrize("settings", [{"max_epochs": 2}, {"max_epochs": -1, "max_time": {"seconds": 5}}], ids=str)
def test_a_horizon_that_nothing_says_is_an_error_with_ways_out(settings: dict[str, Any]) -> None:
    """It was -1, or infinite, without a word."""
    with pytest.raises(SolverError, match=r"needs the length of the run.*max_steps.*limit_train_batches"):
        trainer(**settings).fit(Net(spec(accumulate=4)), DataLoader(Stream(40), batch_size=4))
    net = Net(spec(accumulate=4))
    fit = trainer(max_steps=4, max_epochs=-1)
    fit.fit(net, DataLoader(Stream(40), batch_size=4))
    assert fit.global_step == len(net.used) == 4


@pytest.mark.parametrize("drop_last", [False, True])
def test_max_steps_drop_last_and_accumulation_agree(drop_last: bool) -> None:
    net = Net(spec(accumulate=4))
    fit = trainer(max_steps=7, max_epochs=-1)
    fit.fit(net, DataLoader(Numbers(41), batch_size=4, drop_last=drop_last))
    assert net.solver_plan is not None
    assert net.solver_plan.run.total_steps == fit.global_step == len(net.used) == 7
    steps = math.ceil((10 if drop_last else 11) / 4)
    net = Net(spec(accumulate=4))
    fit = trainer(max_epochs=2)
    fit.fit(net, DataLoader(Numbers(41), batch_size=4, drop_last=drop_last))
    assert fit.global_step == 2 * steps


def test_the_last_window_of_an_epoch_is_divided_by_what_it_holds() -> None:
    """Lightning's gradients of a batch are 1.0, 1.0 and 0.5."""
    theirs = Unit(unit(None))
    trainer(max_epochs=1, accumulate_grad_batches=4).fit(theirs, loader(TEN))
    assert theirs.used == [1.0, 1.0, 0.5]
    ours = Unit(unit(4))
    trainer(max_epochs=1).fit(ours, loader(TEN))
    assert ours.used == [1.0, 1.0, 1.0]


def test_a_schedule_that_is_asked_for_one_step_too_many_does_not_raise() -> None:
    """``Tried to step 5 times. The specified number of total steps is 4`` came after days of training."""
    net = Net(spec(accumulate=4))
    fit = trainer(max_epochs=1)
    fit.fit(net, numbers())
    assert net.solver_scheduler is not None
    end = net.solver_scheduler.get_last_lr()
    assert end == pytest.approx([0.00001, 0.00001, 0.0001, 0.0001])
    for _ in range(3):
        net.solver_scheduler.step()
        assert net.solver_scheduler.get_last_lr() == end


# ------------------------------------------------------------------ schedules under accumulation


def test_no_step_of_a_schedule_is_lost() -> None:
    """With ``frequency`` Lightning tests the number of the batch: 0 of 6 steps moved the schedule."""
    net = Net(spec(accumulate=4))
    trainer(max_epochs=2).fit(net, numbers())
    assert net.solver_scheduler is not None
    assert net.solver_scheduler.last_epoch == len(net.used) == 6


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_window_of_batches_without_a_loss_moves_neither_schedule_nor_average() -> None:
    class Skips(Regression):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return None if 4 <= batch_idx < 8 else super().training_step(batch, batch_idx)

    net = run(solver(4, averages={"ema": EMA(decay=0.5)}), TEN, module=Skips, max_epochs=1)
    assert net.solver_scheduler is not None
    assert net.solver_scheduler.last_epoch == 2


# ------------------------------------------------------------------ resuming and validating in mid-window


class SaveAt(Callback):
    def __init__(self, path: Path, batch: int) -> None:
        self.path, self.batch = path, batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.batch:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_in_mid_window_loses_nothing_it_was_asked_to_keep(tmp_path: Path) -> None:
    """Saved after batch 6 with 4 batches a step, Lightning's resumed weight was -1.5 where the straight one is -2."""
    path = tmp_path / "x.ckpt"

    def fit(given: SolverSpec, ckpt: Path | None = None, **settings: Any) -> float:
        net = Unit(given)
        callbacks = [] if ckpt else [SaveAt(path, 6)]
        found = trainer(max_epochs=1, limit_train_batches=8, callbacks=callbacks, **settings)
        found.fit(net, StatefulDataLoader(TEN, batch_size=None), ckpt_path=ckpt, weights_only=True)
        return float(net.weight.detach())

    assert fit(unit(None), accumulate_grad_batches=4) == -2.0
    assert fit(unit(None), path, accumulate_grad_batches=4) == -1.5
    for keep in (False, True):  # the rest of the window, rightly scaled, does as much where all batches are alike
        given = unit({"batches": 4, "keep_gradients": keep})
        assert fit(given) == -2.0
        assert fit(given, path) == -2.0


def test_validation_in_mid_window_erases_no_gradients() -> None:
    net = run(solver(4), TEN, validate=TEN, val_check_interval=2)
    straight = run(solver(4), TEN)
    for own, other in zip(net.grads, straight.grads):
        assert_equal(own, other)


def test_everything_that_is_written_is_plain_data(tmp_path: Path) -> None:
    given = solver({"batches": {0: 2, "0.5ep": 3}, "weigh_by": "samples", "keep_gradients": True})
    run(given, TEN, callbacks=[SaveAt(tmp_path / "x.ckpt", 1)], max_epochs=1)
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert saved["lightning_solver_window"]["held"] == 1
    assert SolverSpec.from_dict(saved["lr_schedulers"][0]["spec"]) == given


def test_hyperparameters_with_accumulation_are_plain_data(tmp_path: Path) -> None:
    fit = trainer(max_epochs=1)
    net = Net(spec(accumulate={0: 2, "0.5ep": 3}))
    fit.fit(net, numbers())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    again = Net.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert again.solver == net.solver


def test_a_resumed_run_may_accumulate_otherwise_and_the_change_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit = trainer(max_epochs=1)
    fit.fit(Net(spec(accumulate=2)), numbers())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    net = Net(spec(accumulate=5))
    more = trainer(max_epochs=3)
    more.fit(net, numbers(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert "accumulate: 2 -> 5" in caplog.text
    assert len(net.used) == 4


def test_tokens_are_counted_over_the_window_and_not_batch_by_batch() -> None:
    """The mean of means of batches with unequal numbers of tokens is not the mean over the tokens."""
    unequal = Batches([1, 9, 2, 8])
    own = run(solver(), unequal, callbacks=[GradientAccumulation(4, weigh_by="samples")], max_epochs=1)
    large = run(solver(), unequal.merged([4]), max_epochs=1)
    plain = run(solver(4), unequal, max_epochs=1)
    for name, gradient in large.grads[0].items():
        torch.testing.assert_close(own.grads[0][name], gradient, rtol=1e-5, atol=1e-6)
    assert any((plain.grads[0][name] - gradient).abs().max() > 0.01 for name, gradient in large.grads[0].items())
