from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn

from lightning_solver import OptimizerSpec, Rule, SolverError, SolverMixin, SolverSpec
from lightning_solver.callbacks.plan_guard import PlanGuard
from lightning_solver.schedules import Cosine, Linear
from small import Net, loader, spec, trainer


def test_fit_follows_the_plan_and_steps_once_per_optimiser_step() -> None:
    net = Net(spec())
    fit = trainer(max_epochs=2, accumulate_grad_batches=3)
    fit.fit(net, loader())
    (config,) = fit.lr_scheduler_configs
    assert (config.interval, config.frequency) == ("step", 1)
    assert config.scheduler.last_epoch == fit.global_step == 8
    assert net.used == net.solver_plan.curve("lr").tolist()


def test_a_mapping_is_read_as_a_spec() -> None:
    net = Net()
    net.solver = spec().to_dict()
    assert net.solver == spec()


def test_something_else_is_refused() -> None:
    with pytest.raises(SolverError, match=r"Net\.solver: is not a SolverSpec; got 3; assign"):
        Net().solver = 3


def test_a_solver_that_was_never_set() -> None:
    with pytest.raises(SolverError, match=r"Net\.solver: is not set; got None; set self\.solver = SolverSpec"):
        trainer(max_epochs=1).fit(Net(), loader())


def test_the_mixin_must_come_first() -> None:
    with pytest.raises(
        SolverError, match=r"Wrong: SolverMixin must stand before LightningModule.*SolverMixin, \.\.\.\)"
    ):

        class Wrong(LightningModule, SolverMixin):
            pass


def test_a_mistake_is_found_before_the_first_step() -> None:
    net = Net(spec(rules=[Rule(match="backbon.*", lr_scale=0.1)]))
    with pytest.raises(
        SolverError, match=r"rules\[0\]\.match: matches no parameter; got 'backbon\.\*'; nearest.*backbone"
    ):
        trainer(max_epochs=1).fit(net, loader())
    assert net.used == []


# ------------------------------------------------------------------ the ways in which Lightning builds and runs modules


class Late(Net):
    """Makes its layers in configure_model."""

    def __init__(self, solver: SolverSpec) -> None:
        super().__init__(solver)
        self.backbone = self.head = None  # type: ignore[assignment]

    def configure_model(self) -> None:
        if self.head is None:
            self.backbone = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16))
            self.head = nn.Linear(16, 2)


def test_layers_made_in_configure_model() -> None:
    net = Late(spec())
    trainer(max_epochs=1).fit(net, loader())
    assert [*net.solver_plan.parameters] == [name for name, _ in net.named_parameters()]
    assert net.solver_plan.parameters["backbone.1.weight"]["weight_decay"] == 0.0


def test_bf16_mixed() -> None:
    net = Net(spec())
    before = net.head.weight.clone()
    trainer(max_epochs=1, precision="bf16-mixed").fit(net, loader())
    assert net.used == net.solver_plan.curve("lr").tolist()
    assert not torch.equal(before, net.head.weight)


def test_compiled_module_keeps_its_names() -> None:
    net = Net(spec())
    net.backbone = torch.compile(net.backbone, backend="eager")  # type: ignore[assignment]
    trainer(max_epochs=1).fit(net, loader())
    assert net.solver_plan.parameters["backbone.0.weight"]["lr"] == pytest.approx(0.001)


def test_fit_twice_plans_twice() -> None:
    net = Net(spec())
    trainer(max_epochs=1).fit(net, loader())
    trainer(max_epochs=3).fit(net, loader())
    assert net.solver_plan.run.total_steps == 30


# ------------------------------------------------------------------ only real steps count


class SometimesNone(Net):
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`:UserWarning")
def test_a_step_without_a_gradient_does_not_move_the_schedule(caplog: pytest.LogCaptureFixture) -> None:
    net = SometimesNone(spec())
    fit = trainer(max_epochs=1)
    fit.fit(net, loader())
    assert fit.global_step == 10
    assert fit.lr_scheduler_configs[0].scheduler.last_epoch == 5


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`:UserWarning")
def test_a_window_with_one_real_batch_counts() -> None:
    net = SometimesNone(spec())
    fit = trainer(max_epochs=1, accumulate_grad_batches=2)
    fit.fit(net, loader())
    assert fit.lr_scheduler_configs[0].scheduler.last_epoch == fit.global_step == 5


class Overflowing(Net):
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if batch_idx in (2, 3, 7) else loss


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_a_step_that_the_scaler_skips_does_not_move_the_schedule(name: str, fused: bool) -> None:
    args = {"lr": 0.01, "weight_decay": 0.05, "fused": fused}
    net = Overflowing(spec(optimizer=OptimizerSpec(name, args)))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    fit = trainer(max_epochs=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    fit.fit(net, loader())
    assert fit.lr_scheduler_configs[0].scheduler.last_epoch == 7
    assert fit.global_step == 10


# ------------------------------------------------------------------ parameters that nobody would train


class Growing(Net):
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        if not hasattr(self, "extra"):
            self.extra = nn.Linear(8, 2)
        return super().training_step(batch, batch_idx) + self.extra(batch).square().mean()


def test_a_parameter_made_in_the_first_step() -> None:
    with pytest.raises(SolverError, match=r"extra\.weight: is trainable but not in the optimiser.*2 such parameters"):
        trainer(max_epochs=1).fit(Growing(spec()), loader())


class Unfreezing(Net):
    def __init__(self, solver: SolverSpec) -> None:
        super().__init__(solver)
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.backbone.requires_grad_(self.current_epoch >= 1)


def test_a_parameter_unfrozen_in_mid_run() -> None:
    net = Unfreezing(spec(rules=[]))
    with pytest.raises(
        SolverError, match=r"backbone\.0\.weight: is trainable but not in the optimiser.*from the start"
    ):
        trainer(max_epochs=3).fit(net, loader())
    assert len(net.used) == 10


def test_a_run_that_ends_early_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Shrinking(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 4 else None  # Lightning skips the rest of the epoch

    with caplog.at_level(logging.WARNING, "lightning_solver"):
        trainer(max_epochs=2).fit(Shrinking(spec()), loader())
    assert "the plan was made for 20 optimiser steps, but the run made 8" in caplog.text


def test_a_run_as_planned_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        trainer(max_epochs=2).fit(Net(spec()), loader())
    assert caplog.text == ""


# ------------------------------------------------------------------ checkpoints and hyper-parameters


def test_a_spec_from_python_loads_with_weights_only(tmp_path: Path) -> None:
    net = Net(spec(), dropout=0.5)
    fit = trainer(max_epochs=1, enable_checkpointing=True, default_root_dir=tmp_path, callbacks=[ModelCheckpoint()])
    fit.fit(net, loader())
    path = fit.checkpoint_callback.best_model_path
    saved = torch.load(path, weights_only=True)
    assert saved["hyper_parameters"] == {"solver": spec().to_dict(), "dropout": 0.5}
    assert saved["lr_schedulers"] == [{"step": 10, "spec": spec().to_dict()}]
    again = Net.load_from_checkpoint(path, weights_only=True)
    assert again.solver == spec()
    assert again.hparams.dropout == 0.5
    assert net.hparams_initial["solver"] == spec().to_dict()


def test_hyper_parameters_of_a_subclass_and_with_specs_inside() -> None:
    class Pair(Net):
        def __init__(self, solver: SolverSpec, others: dict[str, SolverSpec], width: int = 3) -> None:
            super().__init__(solver)
            self.save_hyperparameters()

    net = Pair(spec(), {"a": spec(lr=1.0)})
    assert net.hparams["others"] == {"a": spec(lr=1.0).to_dict()}
    assert net.hparams["solver"] == spec().to_dict()
    assert net.hparams["width"] == 3


def test_ignored_hyper_parameters_stay_ignored() -> None:
    class Ignoring(SolverMixin, LightningModule):
        def __init__(self, solver: SolverSpec, width: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters(ignore="solver")
            self.solver = solver

    assert dict(Ignoring(spec()).hparams) == {"width": 3}


def test_lightning_logs_the_groups_by_name(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    fit = trainer(max_epochs=1, logger=logger, log_every_n_steps=1, callbacks=[LearningRateMonitor("step")])
    net = Net(spec())
    fit.fit(net, loader())
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {"lr/backbone", "lr/backbone.no_decay", "lr/default", "lr/no_decay"} <= set(rows[0].split(","))


# ------------------------------------------------------------------ beside what Lightning does by itself


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Lightning's own use of jsonargparse
def test_lightning_cli_that_replaces_configure_optimizers_is_told(tmp_path: Path) -> None:
    class Alone(Net):
        def train_dataloader(self) -> Any:
            return loader()

    replaced = r"Alone: LightningCLI has replaced configure_optimizers.*drop optimizer"
    told = pytest.warns(UserWarning, match="will be overridden")
    with pytest.raises(SolverError, match=replaced), told:
        LightningCLI(
                Alone,
                seed_everything_default=False,
                save_config_callback=None,
                args=["fit", "--optimizer=Adam", "--optimizer.lr=0.1", "--trainer.max_steps=1", "--trainer.logger=false",
                      "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"],
            )  # fmt: skip


def test_the_module_can_be_copied_and_saved_after_fit(tmp_path: Path) -> None:
    net = Net(spec())
    trainer(max_epochs=1).fit(net, loader())
    torch.save(net, tmp_path / "net.pt")
    for again in (copy.deepcopy(net), torch.load(tmp_path / "net.pt", weights_only=False)):
        assert again.solver == spec()
        assert again.solver_plan is None
        trainer(max_epochs=1).fit(again, loader())
    assert net.solver_plan is not None


def test_weights_can_be_averaged_by_lightning() -> None:
    net = Net(spec())
    for _ in range(2):  # it copies the module
        averaging = EMAWeightAveraging()
        trainer(max_epochs=1, callbacks=[averaging]).fit(net, loader())


def test_a_second_call_says_nothing_of_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    net, fit = Net(spec()), trainer(max_epochs=1)
    fit.fit(net, loader())
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    with caplog.at_level(logging.INFO):
        fit.validate(net, loader(), verbose=False)
    assert "override existing callbacks" not in caplog.text
    assert sum(isinstance(callback, PlanGuard) for callback in fit.callbacks) == 1


def test_callbacks_are_the_same_instances_each_time() -> None:
    net = Net(spec())
    first, second = net.configure_callbacks(), net.configure_callbacks()
    assert [type(callback).__name__ for callback in first] == [
        "PlanGuard",
        "FollowMetrics",
        "SolverAccumulation",
        "Freezing",
        "SolverClipping",
        "SolverAverages",
        "OptimizerMode",
    ]
    assert all(one is other for one, other in zip(first, second, strict=True))


class FinderNet(Net):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.stepped.append([group["lr"] for group in optimizer.param_groups])

    stepped: list[list[float]]


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_the_learning_rate_finder_keeps_the_ratios(tmp_path: Path, mode: str) -> None:
    net = FinderNet(spec())
    net.stepped = []
    fit = trainer(max_epochs=8, enable_checkpointing=True, default_root_dir=tmp_path)
    finder = Tuner(fit).lr_find(
        net, loader(), min_lr=1e-5, max_lr=0.1, num_training=40, mode=mode, attr_name="solver_lr",
        early_stop_threshold=None,
    )  # fmt: skip
    assert finder is not None
    assert len(net.stepped) >= 40
    for rates in net.stepped:
        assert rates[0] == pytest.approx(0.1 * rates[-1], rel=1e-12)
    found = finder.suggestion()
    assert net.solver_lr == found
    assert net.solver is not None
    assert net.solver.lr == found


def test_training_goes_on_with_what_the_finder_found(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import LearningRateFinder

    net = FinderNet(spec())
    net.stepped = []
    callback = LearningRateFinder(
        min_lr=1e-5, max_lr=0.1, num_training_steps=30, attr_name="solver_lr", early_stop_threshold=None
    )
    fit = trainer(max_epochs=4, callbacks=[callback], default_root_dir=tmp_path)
    fit.fit(net, loader())
    trained = net.stepped[-40:]
    assert net.solver_plan.spec.lr == callback.optimal_lr.suggestion()
    assert trained == net.solver_plan.curve("lr").tolist()


def test_solver_lr_before_the_plan() -> None:
    net = Net(spec())
    assert net.solver_lr == 0.01
    net.solver_lr = 0.5
    assert net.solver == spec(lr=0.5)


def test_own_configure_optimizers_of_a_subclass_wins() -> None:
    class Own(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    net = Own(spec())
    trainer(max_epochs=1).fit(net, loader())
    assert net.solver_plan is None


def test_more_schedules_than_lr() -> None:
    schedules = {"lr": Cosine(), "weight_decay": Linear(end=2.0), "momentum": Linear(start=1.0, end=0.9)}
    net = Net(spec(schedules=schedules))
    seen: list[tuple[float, float]] = []

    class Note(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            seen.append((optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[0]["betas"][0]))

    trainer(max_epochs=1, callbacks=[Note()]).fit(net, loader())
    planned = [net.solver_plan.curve(option)[:, 0].tolist() for option in ("weight_decay", "momentum")]
    assert [list(column) for column in zip(*seen)] == planned


# ------------------------------------------------------------------ what is planned is what is run


def told(caplog: pytest.LogCaptureFixture, net: Net, **kwargs: Any) -> str:
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        trainer(**{"max_epochs": 2, **kwargs}).fit(net, loader())
    return caplog.text


def test_a_batch_size_found_after_the_plan_is_planned_anew(caplog: pytest.LogCaptureFixture) -> None:
    class Sized(Net):
        batch_size = 4

        def train_dataloader(self) -> Any:
            return loader(batch_size=self.batch_size)

        def val_dataloader(self) -> Any:
            return loader(8)

    net = Sized(spec())
    finder = BatchSizeFinder(mode="power", steps_per_trial=1, init_val=8, max_trials=1)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit = trainer(max_epochs=2, callbacks=[finder])
        fit.fit(net)
    assert net.solver_plan.run.total_steps == fit.global_step < 20
    assert "planned anew" in caplog.text
    assert fit.lr_scheduler_configs[0].scheduler.last_epoch == fit.global_step
    assert net.used[-fit.global_step :] == net.solver_plan.curve("lr").tolist()


def test_a_checkpoint_of_another_batch_size_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    fit = trainer(max_epochs=2)
    fit.fit(Net(spec()), loader(batch_size=8))
    fit.save_checkpoint(tmp_path / "x.ckpt")
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        trainer(max_epochs=4).fit(Net(spec()), loader(batch_size=4), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert "written after 10 optimiser steps, but epoch 2 goes from step 20 to 30 of the plan" in caplog.text


def test_a_configure_optimizers_of_ones_own_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Own(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    assert "Own has a configure_optimizers of its own: its solver is not followed" in told(caplog, Own(spec()))


def test_a_scheduler_that_is_dropped_is_an_error() -> None:
    class Dropping(Net):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers()["optimizer"]

    net = Dropping(spec())
    with pytest.raises(SolverError, match=r"Dropping\.configure_optimizers: the scheduler of the plan is not among"):
        trainer(max_epochs=1).fit(net, loader())
    assert net.used == []


@pytest.mark.filterwarnings("ignore:Swapping scheduler:UserWarning")
@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch:UserWarning")
def test_a_scheduler_that_takes_over_is_told(caplog: pytest.LogCaptureFixture) -> None:
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    text = told(caplog, Net(spec()), callbacks=[averaging], max_epochs=4)
    assert text.count("another scheduler has taken over") == 1


class Manual(Net):
    def __init__(self, solver: SolverSpec, moves: bool) -> None:
        super().__init__(solver)
        self.automatic_optimization = False
        self.moves = moves

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.head(self.backbone(batch)).square().mean())
        self.used.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if self.moves:
            scheduler: Any = self.lr_schedulers()
            scheduler.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        pass


def test_manual_optimisation(caplog: pytest.LogCaptureFixture) -> None:
    net = Manual(spec(), moves=True)
    assert told(caplog, net) == ""
    assert net.used == net.solver_plan.curve("lr").tolist()


def test_manual_optimisation_that_forgets_the_schedule_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert "under manual optimisation call self.lr_schedulers().step()" in told(caplog, Manual(spec(), moves=False))


@pytest.mark.parametrize("settings", [{"max_epochs": 0}, {"max_steps": 0}], ids=repr)
def test_nothing_to_train(settings: dict[str, int]) -> None:
    with pytest.raises(SolverError, match="max_steps or max_epochs is 0, so that there is nothing to train"):
        trainer(**settings).fit(Net(spec()), loader())
    trainer(**settings).fit(Net(spec(schedules={})), loader())


def test_notes_are_told_when_training_starts(caplog: pytest.LogCaptureFixture) -> None:
    schedules = {"lr": [Linear(start=0.0, until="20%"), Cosine()]}
    assert "the learning rate of the first step is 0" in told(caplog, Net(spec(schedules=schedules)))


def test_solver_lr_is_an_attribute_like_any_other() -> None:
    assert Net(spec(optimizer=OptimizerSpec("AdamW"))).solver_lr == 0.001
    assert not hasattr(Net(SolverSpec()), "solver_lr")


def test_a_second_fit_of_one_trainer_goes_on_where_it_stands(caplog: pytest.LogCaptureFixture) -> None:
    net, fit = Net(spec()), trainer(max_epochs=2)
    fit.fit(net, loader())
    fit.fit_loop.max_epochs = 4
    net.used.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit.fit(net, loader())
    assert fit.global_step == net.solver_plan.run.total_steps == 40
    assert net.used == net.solver_plan.curve("lr")[20:].tolist()
    assert "training goes on at step 20 with a new optimiser" in caplog.text
