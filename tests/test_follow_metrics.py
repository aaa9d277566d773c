"""Schedules that follow a metric, in training: once per validation that logged it, right on resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_solver import SolverError
from lightning_solver.schedules import Constant, Linear, Plateau, Product, Warmup
from small import Net, loader, spec, trainer

LOSSES = [1.0, 0.9, 0.95, 0.93, 0.92, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
PLATEAU = Plateau("val_loss", factor=0.5, patience=1)
WARMED = Warmup(ramp=Linear(start=0.1, until=15), of=Product([Constant(), PLATEAU]), meets="multiply")


class Given(Net):
    """Logs the losses that it was given, one for each validation."""

    losses: list[float] = LOSSES
    name = "val_loss"
    every = 1

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            self.log(self.name, 99.0)
            return
        done = int(self.done)
        self.done += 1
        if done % self.every == 0:
            self.log(self.name, self.losses[done])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("done", torch.tensor(0))


def fitted(net: Net, ckpt: Any = None, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    fit = trainer(max_epochs=6, **kwargs)
    fit.fit(net, loader(shuffle=False), loader(8), ckpt_path=ckpt, weights_only=True)
    return fit


@pytest.mark.parametrize("schedule", [PLATEAU, Product([Linear(end=0.1), PLATEAU]), WARMED], ids=["alone", "x", "warm"])
@pytest.mark.parametrize("per_epoch", [1, 2])
def test_the_run_equals_the_curve(schedule: Any, per_epoch: int) -> None:
    net = Given(spec(schedules={"lr": schedule}))
    fitted(net, val_check_interval=1.0 / per_epoch, num_sanity_val_steps=2)
    assert net.solver is not None
    assert net.solver_plan is not None
    bases = [group.options["lr"] for group in net.solver_plan.groups]
    # the curve counts one value per epoch: give it epochs as long as the time between two validations
    expected = net.solver.curve("lr", bases, total_steps=60, steps_per_epoch=10 // per_epoch, metrics=LOSSES)
    assert net.used == expected.tolist()
    assert len({row[0] for row in net.used}) > 1


def test_validations_that_do_not_log_it_do_not_count() -> None:
    class Seldom(Given):
        every = 2

    net = Seldom(spec(schedules={"lr": PLATEAU}))
    fitted(net, val_check_interval=0.5)
    assert net.solver is not None
    assert net.solver_plan is not None
    bases = [group.options["lr"] for group in net.solver_plan.groups]
    expected = net.solver.curve("lr", bases, total_steps=60, steps_per_epoch=10, metrics=LOSSES[::2])
    # the first of each pair of validations logs it, five steps before the end of the epoch
    assert net.used[:-5] == expected[5:].tolist()


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("epoch", [2, 4])
def test_resume_is_bitwise(tmp_path: Any, epoch: int) -> None:
    def made() -> Given:
        torch.manual_seed(0)
        return Given(spec(schedules={"lr": WARMED}))

    straight = made()
    fitted(straight)

    def keeping(folder: str) -> dict[str, Any]:
        keep = ModelCheckpoint(tmp_path / folder, monitor="val_loss", save_top_k=-1, filename="{epoch}")
        return {"callbacks": [keep], "enable_checkpointing": True}

    fitted(made(), **keeping("first"))
    resumed = made()
    fitted(resumed, ckpt=tmp_path / "first" / f"epoch={epoch}.ckpt", **keeping("second"))
    assert resumed.used == straight.used[10 * (epoch + 1) :]
    for name, tensor in straight.named_parameters():
        assert torch.equal(tensor, dict(resumed.named_parameters())[name])


def test_a_metric_that_is_not_logged() -> None:
    net = Net(spec(schedules={"lr": Plateau("val_los", factor=0.5)}))
    with pytest.raises(SolverError, match=r"val_los: is what a Plateau follows, .*; log it .* did you mean val_loss"):
        fitted(net)
    assert net.used == []  # found by the sanity check, before the first step


def test_a_metric_that_is_not_logged_without_a_sanity_check() -> None:
    net = Net(spec(schedules={"lr": Plateau("val_los", factor=0.5)}))
    with pytest.raises(SolverError, match="val_los: is what a Plateau follows, but the validation has not logged it"):
        fitted(net, num_sanity_val_steps=0)
    assert len(net.used) == 10


def test_a_run_without_validation() -> None:
    net = Net(spec(schedules={"lr": PLATEAU}))
    with pytest.raises(SolverError, match="val_loss: is what a Plateau follows, but the run has no validation"):
        trainer(max_epochs=1).fit(net, loader())


def test_validate_alone_changes_nothing() -> None:
    net = Given(spec(schedules={"lr": PLATEAU}))
    fit = fitted(net)
    assert net.solver_scheduler is not None
    before = net.solver_scheduler.state_dict()
    for _ in range(4):
        fit.validate(net, loader(8), verbose=False)
    assert net.solver_scheduler.state_dict() == before


def test_a_checkpoint_without_the_plateau(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    first = fitted(Given(spec(schedules={"lr": Constant()})), limit_train_batches=2)
    first.save_checkpoint(tmp_path / "x.ckpt")
    net = Given(spec(schedules={"lr": PLATEAU}))
    with caplog.at_level("INFO"):
        torch.manual_seed(0)
        trainer(max_epochs=7).fit(net, loader(), loader(8), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert "schedules.lr: no state of a schedule that follows val_loss: it starts afresh" in caplog.text
