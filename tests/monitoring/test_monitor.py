"""The callback, in real runs."""

from __future__ import annotations

import csv
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_solver import OptimizerSpec, Rule, SolverError
from lightning_solver.averaging import EMA as EMASpec
from lightning_solver.callbacks import EMA, GradientAccumulation, GradientClipping
from lightning_solver.callbacks.monitor import SolverMonitor
from lightning_solver.clipping import AGC, GlobalNorm, Value
from lightning_solver.rule import Selector
from lightning_solver.schedules import MultiStep
from small import Net, Numbers, loader, spec, trainer
from test_manual import Gan, made, two


class Plain(LightningModule):
    """No mixin: two named groups, a schedule of torch's; notes what each step used and how long gradients were."""

    def __init__(self, groups: int = 2, **changes: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(groups))
        self.rates: list[list[float]] = []
        self.norms: list[float] = []
        self.changes = changes

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        for layer in self.layers:
            batch = layer(batch)
        loss = batch.square().mean()
        self.log("train_loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        grads = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        self.norms.append(math.sqrt(sum(float(grad.square().sum()) for grad in grads)))

    def configure_optimizers(self) -> Any:
        groups = [{"params": [*layer.parameters()], "name": f"part {i}"} for i, layer in enumerate(self.layers)]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, **self.changes)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Rows(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    name = "rows"
    version = 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if any(name.partition("/")[0] in ("steps", "lr", "mine") for name in metrics):
            assert step is not None
            self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def fit(module: LightningModule, monitor: SolverMonitor, *others: Callback, **kwargs: Any) -> list[Any]:
    rows = Rows()
    length = kwargs.pop("length", 40)
    given = {"logger": rows, "max_epochs": 1, "log_every_n_steps": 3, **kwargs}
    run = trainer(callbacks=[monitor, *others], **given)
    run.fit(module, loader(length))
    return rows.rows


# ------------------------------------------------------------------ what is logged, and when


def test_each_value_is_the_one_that_the_step_used_on_lightnings_own_axis(tmp_path: Path) -> None:
    net = Plain()
    logger = CSVLogger(tmp_path, name="", version="")
    monitor = SolverMonitor()
    run = trainer(callbacks=[monitor], logger=logger, max_epochs=2, log_every_n_steps=3)
    run.fit(net, loader())
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    ours = {int(row["step"]): row for row in rows if row["steps"]}
    theirs = [int(row["step"]) for row in rows if row["train_loss"]]
    assert [*ours] == [0, 2, 5, 8, 11, 14, 17, 19]
    assert set(theirs) <= set(ours)
    for step, row in ours.items():
        assert [float(row["lr/part_0"]), float(row["lr/part_1"])] == net.rates[step]
        assert float(row["grad_norm"]) == pytest.approx(net.norms[step], rel=1e-6)
        assert float(row["steps"]) == step + 1
        assert float(row["momentum/part_0"]) == 0.9
        assert float(row["weight_decay/part_1"]) == 0.0
        assert (float(row["batches_per_step"]), float(row["samples_per_step"])) == (1, 4)
        assert 0 <= float(row["time/data"]) <= float(row["time/step"])
        assert float(row["skipped_steps"]) == 0
    assert not any(name.startswith(("clip", "nonfinite", "decay", "loss_scale", "update")) for name in rows[0])


def test_a_run_shorter_than_the_interval_logs_its_first_and_its_last_step() -> None:
    assert [step for step, _ in fit(Plain(), SolverMonitor(every=1000))] == [0, 9]


def test_a_trainer_that_logs_nothing_by_itself_still_has_the_first_and_the_last_step() -> None:
    assert [step for step, _ in fit(Plain(), SolverMonitor(), log_every_n_steps=0)] == [0, 9]


@pytest.mark.parametrize("limit", [{"max_steps": 7, "max_epochs": -1}, {"max_epochs": 3, "limit_train_batches": 7}])
def test_the_last_step_is_logged_with_its_norm_however_the_length_is_given(limit: dict[str, Any]) -> None:
    rows = fit(Plain(), SolverMonitor(every=100, update_ratio=True), **limit)
    assert [step for step, _ in rows] == [0, 6 if "max_steps" in limit else 20]
    assert {"grad_norm", "update_ratio"} <= rows[-1][1].keys()


class Stop(Callback):
    def __init__(self, step: int, error: type[BaseException] | None = None) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True
            if self.error is not None:
                raise self.error("enough")


def test_the_last_step_is_logged_when_training_is_stopped_early() -> None:
    net = Plain()
    rows = fit(net, SolverMonitor(every=100), Stop(5))
    assert [step for step, _ in rows] == [0, 4]
    assert [rows[1][1]["lr/part_0"], rows[1][1]["lr/part_1"]] == net.rates[4]
    assert "grad_norm" not in rows[1][1]  # nobody knew that it would be wanted


def test_an_early_stop_at_the_end_of_an_epoch_has_everything() -> None:
    stop = EarlyStopping("train_loss", patience=1, mode="max", check_on_train_epoch_end=True)
    rows = fit(Plain(), SolverMonitor(every=100), stop, max_epochs=9)
    assert [step for step, _ in rows] == [0, 19]
    assert "grad_norm" in rows[1][1]


def test_the_last_step_is_logged_when_training_fails() -> None:
    net, rows = Plain(), Rows()
    monitor = SolverMonitor(every=100)
    run = trainer(callbacks=[monitor, Stop(5, ZeroDivisionError)], logger=rows, max_epochs=1)
    with pytest.raises(ZeroDivisionError):
        run.fit(net, loader())
    assert [step for step, _ in rows.rows] == [0, 4]
    assert monitor.history("lr/part_1").latest == net.rates[4][1]


def test_a_failure_before_a_batch_is_over_is_logged_at_the_step_that_it_had() -> None:
    net, rows = Plain(), Rows()
    run = trainer(callbacks=[Stop(5, ZeroDivisionError), SolverMonitor(every=2)], logger=rows, max_epochs=1)
    with pytest.raises(ZeroDivisionError):
        run.fit(net, loader())
    assert [(step, row["lr/part_0"], row["steps"]) for step, row in rows.rows] == [
        (step, net.rates[step][0], step + 1) for step in (0, 1, 3, 4)
    ]


def test_a_csv_file_has_the_last_step_of_a_run_that_failed(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    run = trainer(callbacks=[SolverMonitor(every=100), Stop(5, ZeroDivisionError)], logger=logger, max_epochs=1)
    with pytest.raises(ZeroDivisionError):
        run.fit(Plain(), loader())
    with (tmp_path / "metrics.csv").open() as file:
        assert [(int(row["step"]), float(row["steps"])) for row in csv.DictReader(file)] == [(0, 1.0), (4, 5.0)]


def test_without_a_logger_the_histories_are_there() -> None:
    monitor, net = SolverMonitor(every=2), Plain()
    run = trainer(callbacks=[monitor], max_epochs=1)
    run.fit(net, loader())
    history = monitor.history("lr/part_0")
    assert history.values == [(step, net.rates[step][0]) for step in (0, 1, 3, 5, 7, 9)]
    assert history.mean(2) == pytest.approx((net.rates[7][0] + net.rates[9][0]) / 2)
    assert monitor.latest()["lr/part_0"] == net.rates[9][0]
    with pytest.raises(SolverError, match=r"did you mean lr/part_0"):
        monitor.history("lr/part_00")


def test_several_loggers_get_the_same() -> None:
    first, second = Rows(), Rows()
    run = trainer(callbacks=[SolverMonitor()], logger=[first, second], max_epochs=1)
    run.fit(Plain(), loader())
    assert first.rows == second.rows
    assert len(first.rows) == 2


def test_tensorboard_takes_every_series(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = TensorBoardLogger(tmp_path)
    trainer(callbacks=[SolverMonitor()], logger=logger, max_epochs=1).fit(Plain(), loader())
    assert list(Path(logger.log_dir).glob("events*"))


def test_loggers_do_not_see_series_that_are_not_wanted() -> None:
    rows = fit(Plain(), SolverMonitor(series=["lr/part_1", "time/step"]))
    assert all(row.keys() == {"lr/part_1", "time/step"} for _, row in rows) or not rows
    monitor = SolverMonitor(series=["lr/part_1", "time/step"])
    trainer(callbacks=[monitor], max_epochs=1).fit(Plain(), loader())
    assert set(monitor.histories) == {"lr/part_1", "time/step"}


def test_many_groups_are_summed_up() -> None:
    rows = fit(Plain(groups=4), SolverMonitor(most_groups=3, per_group=True))
    names = {name for name in rows[0][1] if name.startswith(("lr", "grad_norm"))}
    assert names == {"lr", "lr/min", "lr/max", "grad_norm", "grad_norm/min", "grad_norm/max"}


def test_metrics_are_there_for_other_callbacks(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, monitor="grad_norm", filename="{step}", save_top_k=2, every_n_train_steps=2)
    monitor = SolverMonitor(every=2)
    run = trainer(callbacks=[monitor, keep], enable_checkpointing=True, max_epochs=1)
    run.fit(Plain(), loader())
    assert float(run.callback_metrics["lr/part_0"]) == pytest.approx(monitor.latest()["lr/part_0"])
    assert keep.best_model_score == pytest.approx(min(v for s, v in monitor.history("grad_norm").values if s % 2))


# ------------------------------------------------------------------ clipping, windows, averages


def test_clipping_gives_both_norms_its_share_and_its_limit() -> None:
    class Seen(Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            grads = [parameter.grad.flatten() for parameter in module.parameters()]
            self.norms.append(float(torch.linalg.vector_norm(torch.cat(grads))))

    torch.manual_seed(0)
    seen, net = Seen(), Plain()
    limit = 0.3
    rows = fit(net, SolverMonitor(per_group=True), seen, GradientClipping(GlobalNorm(limit), nonfinite="skip"))
    clipped = [norm > limit for norm in seen.norms]
    assert 0 < sum(clipped) < len(clipped)
    since = 0
    for step, row in rows:
        assert row["grad_norm"] == pytest.approx(seen.norms[step], rel=1e-5)
        assert row["grad_norm_clipped"] == pytest.approx(net.norms[step], rel=1e-3)
        assert row["clip_share"] == pytest.approx(sum(clipped[since : step + 1]) / (step + 1 - since))
        assert row["clip_limit"] == limit
        assert row["nonfinite_steps"] == 0
        parts = [row[f"grad_norm/part_{i}"] for i in (0, 1)]
        assert math.hypot(*parts) == pytest.approx(row["grad_norm"], rel=1e-5)
        parts = [row[f"grad_norm_clipped/part_{i}"] for i in (0, 1)]
        assert math.hypot(*parts) == pytest.approx(row["grad_norm_clipped"], rel=1e-3)
        since = step + 1


def test_kinds_that_measure_nothing_by_themselves_measure_in_steps_that_are_logged() -> None:
    clipping = GradientClipping(AGC(0.01))
    asked: list[bool] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            asked.append(clipping.at_work["0"].measure)

    rows = fit(Plain(), SolverMonitor(), clipping, Look())
    assert asked == [step in (0, 2, 5, 8, 9) for step in range(10)]
    assert all(0 <= row["clip_share"] <= 1 and row["grad_norm"] >= row["grad_norm_clipped"] > 0 for _, row in rows)


def test_a_clipping_of_some_parameters_gives_its_share_and_the_norm_of_all_that_is_left() -> None:
    net = Plain()
    rows = fit(net, SolverMonitor(per_group=True), GradientClipping(GlobalNorm(1e-3, of=Selector(match="layers.0.*"))))
    for step, row in rows:
        assert row["clip_share"] == 1.0
        assert row["grad_norm_clipped"] == pytest.approx(net.norms[step], rel=1e-5)
        assert row["grad_norm_clipped/part_0"] == pytest.approx(1e-3, rel=1e-3)
        assert row["grad_norm_clipped/part_1"] > 1e-2


def test_parameters_that_join_in_mid_run_are_watched_with_their_clipping() -> None:
    class Join(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            if trainer.global_step == 4:
                trainer.optimizers[0].add_param_group({"params": [*module.layers[1].parameters()], "name": "late"})

    class Growing(Plain):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([{"params": [*self.layers[0].parameters()], "name": "early"}], lr=0.1)

    net = Growing()
    rows = dict(fit(net, SolverMonitor(every=1), Join(), GradientClipping(GlobalNorm(1e-3))))
    assert rows[3]["lr"] == rows[4]["lr/early"] == rows[4]["lr/late"] == 0.1
    assert rows[9]["grad_norm_clipped"] == pytest.approx(net.norms[9], rel=1e-4) == pytest.approx(1e-3, rel=1e-2)
    assert rows[9]["clip_share"] == 1.0


def test_several_clippings_have_limits_and_shares_of_their_own() -> None:
    rows = fit(Plain(), SolverMonitor(), GradientClipping([Value(0.5), GlobalNorm(0.1), Value(0.25)]))
    row = rows[0][1]
    assert [row[f"clip_limit/{name}"] for name in ("Value", "GlobalNorm", "Value_2")] == [0.5, 0.1, 0.25]
    assert {"clip_share/Value", "clip_share/GlobalNorm", "clip_share/Value_2"} <= row.keys()
    assert row["grad_norm_clipped"] <= 0.1001


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")
def test_a_window_counts_what_it_really_held() -> None:
    class Gaps(Plain):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return None if batch_idx in (1, 8, 9) else super().training_step(batch, batch_idx)

    rows = fit(Gaps(), SolverMonitor(every=1), GradientAccumulation(4))
    held = [(row["batches_per_step"], row["samples_per_step"], row["steps"], row["skipped_steps"]) for _, row in rows]
    assert [step for step, _ in rows] == [0, 1, 2]
    assert held == [(3, 12, 1, 0), (4, 16, 2, 0), (0, 0, 2, 1)]


def test_batches_may_count_their_samples_themselves() -> None:
    rows = fit(Plain(), SolverMonitor(samples=lambda batch: 7))
    assert {row["samples_per_step"] for _, row in rows} == {7.0}
    rows = fit(Plain(), SolverMonitor(samples=lambda batch: math.nan))
    assert not any("samples_per_step" in row for _, row in rows)


def test_steps_that_were_skipped_are_counted() -> None:
    class Bad(Plain):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if batch_idx in (2, 5) else loss

    rows = dict(fit(Bad(), SolverMonitor(), GradientClipping(nonfinite="skip")))
    assert math.isnan(rows[2]["grad_norm"])
    counted = [(row["steps"], row["skipped_steps"], row["nonfinite_steps"]) for row in rows.values()]
    assert counted == [(1, 0, 0), (2, 1, 1), (4, 2, 2), (7, 2, 2), (8, 2, 2)]


def test_an_optimiser_that_asks_for_gradients_more_than_once_makes_one_step() -> None:
    class Searching(Plain):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.01, max_iter=3)

    rows = fit(Searching(), SolverMonitor(every=1, update_ratio=True))
    assert [(row["steps"], row["skipped_steps"]) for _, row in rows] == [(step + 1, 0) for step in range(10)]
    assert {(row["batches_per_step"], row["samples_per_step"]) for _, row in rows} == {(1, 4)}
    assert all(row["update_ratio"] > 0 for _, row in rows)


def test_a_loss_scaler_shows_its_factor_and_the_steps_that_it_skips() -> None:
    class Huge(Plain):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * (float("inf") if batch_idx == 2 else 1.0)

    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    rows = dict(fit(Huge(), SolverMonitor(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)]))
    assert [row["loss_scale"] for row in rows.values()] == [8.0, 8.0, 4.0, 4.0, 4.0]
    assert [row["skipped_steps"] for row in rows.values()] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("fused", [False, True])
def test_norms_are_those_of_unscaled_gradients_under_a_loss_scaler(fused: bool) -> None:
    torch.manual_seed(0)
    scaled, bare = Plain(fused=fused), Plain()
    bare.load_state_dict(scaled.state_dict())
    half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    rows, expected = fit(scaled, SolverMonitor(), plugins=[half]), fit(bare, SolverMonitor())
    assert rows[0][1]["grad_norm"] == pytest.approx(expected[0][1]["grad_norm"], rel=1e-2)


def test_the_ratio_of_update_to_weights_is_that_of_the_step() -> None:
    class Look(Callback):
        def __init__(self) -> None:
            self.ratios: list[float] = []

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            self.before = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            now = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
            self.ratios.append(float((now - self.before).norm() / self.before.norm()))

    look = Look()
    rows = fit(Plain(), SolverMonitor(update_ratio=True, per_group=True), look)
    for step, row in rows:
        assert row["update_ratio"] == pytest.approx(look.ratios[step], rel=1e-4)
        assert row["update_ratio/part_0"] > 0
    assert not any("update_ratio" in row for _, row in fit(Plain(), SolverMonitor()))


def test_the_decay_of_averages_is_that_of_the_latest_update() -> None:
    rows = dict(fit(Plain(), SolverMonitor(every=1), EMA(decay=0.75, every=2)))
    assert rows[9]["decay/ema"] == pytest.approx(rows[7]["decay/ema"])
    spec_rows = dict(fit(Net(spec(averages={"slow": EMASpec(decay=0.9)})), SolverMonitor(every=1)))
    assert spec_rows[9]["decay/slow"] == pytest.approx(0.9)


# ------------------------------------------------------------------ with the mixin


def test_with_the_mixin_groups_have_the_names_of_the_plan() -> None:
    net = Net(spec(clip=GlobalNorm(0.1), accumulate=2))
    rows = fit(net, SolverMonitor())
    assert net.solver_plan is not None
    names = [group.name for group in net.solver_plan.groups]
    curve = net.solver_plan.curve("lr")
    for step, row in rows:
        assert [row[f"lr/{name}"] for name in names] == curve[step].tolist() == net.used[step]
        assert row["clip_limit"] == 0.1
        assert row["batches_per_step"] == 2
    assert [step for step, _ in rows] == [0, 2, 4]


def test_under_manual_optimisation_each_optimiser_has_series_of_its_own() -> None:
    net = made(Gan, two())
    monitor = SolverMonitor(update_ratio=True)
    rows = fit(net, monitor)
    assert [step for step, _ in rows] == [0, 2, 5, 8, 9]
    for step, row in rows:
        for name, plan in net.solver_plans.items():
            assert row[f"steps/{name}"] == step + 1
            lrs = [value for key, value in row.items() if key.startswith(f"lr/{name}")]
            assert lrs == plan.curve("lr")[step].tolist()
            assert row[f"grad_norm/{name}"] >= 0
            assert row[f"update_ratio/{name}"] >= 0


def test_optimisers_without_a_solver_go_by_their_classes() -> None:
    class Two(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            optimizers: Any = self.optimizers()
            for optimizer in optimizers[: 1 + batch_idx % 2]:
                optimizer.zero_grad()
                self.manual_backward(self.layers[1](self.layers[0](batch)).square().mean())
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in self.layers]

    rows = fit(Two(), SolverMonitor())
    assert rows[-1][1]["lr/SGD"] == rows[-1][1]["lr/SGD_2"] == 0.1
    assert [(row["steps/SGD"], row.get("steps/SGD_2")) for _, row in rows] == [(1, 0), (3, 1), (6, 3), (9, 4), (10, 5)]


# ------------------------------------------------------------------ a person's own values, bars and messages


def test_values_of_the_users_own_are_logged_with_the_others() -> None:
    monitor = SolverMonitor(series="steps")

    class Own(Plain):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            monitor.put("mine", torch.tensor(float(batch_idx)))
            monitor.put("rough", batch_idx, smooth=False)
            return super().training_step(batch, batch_idx)

    rows = fit(Own(), monitor)
    assert [(row["mine"], row["rough"]) for _, row in rows] == [(0, 0), (1.5, 2), (4, 5), (7, 8), (9, 9)]
    assert monitor.history("mine").values == [(step, float(step)) for step in range(10)]


class Bar(Callback):
    """What a progress bar would show after each batch, and at the end."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.shown.append(dict(trainer.progress_bar_metrics))


@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_a_progress_bar_shows_the_rate_and_the_norm(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

    bar, net = Bar(), Plain()
    monitor = SolverMonitor(every=1, progress_bar=True, series=["steps"])
    shown: Any = TQDMProgressBar() if kind == "tqdm" else RichProgressBar()
    run = trainer(callbacks=[shown, monitor, bar], max_epochs=2, enable_progress_bar=True)
    run.fit(net, loader())
    assert [row["lr"] for row in bar.shown[1:10]] == [f"{rates[0]:.3g}" for rates in net.rates[:9]]
    assert [float(row["grad_norm"]) for row in bar.shown[1:10]] == pytest.approx(net.norms[:9], rel=1e-2)
    assert set(monitor.histories) == {"steps"} == set(monitor.latest())
    output = "".join(capsys.readouterr())
    assert "lr" in output
    assert "grad_norm" in output


def test_a_progress_bar_changes_nothing_of_what_is_logged() -> None:
    with_bar, without = fit(Plain(), SolverMonitor(progress_bar=True)), fit(Plain(), SolverMonitor())
    assert [row.keys() for _, row in with_bar] == [row.keys() for _, row in without]


def test_a_progress_bar_goes_on_showing_what_was_logged_last_in_the_next_epoch() -> None:
    bar = Bar()
    fit(Plain(), SolverMonitor(every=100, progress_bar=["lr/part_1"]), bar, max_epochs=3, logger=False)
    assert all("lr/part_1" in row for i, row in enumerate(bar.shown) if i % 10)


def changing(caplog: pytest.LogCaptureFixture, lr_change: float | None, **kwargs: Any) -> list[str]:
    schedule = MultiStep(at=[1, 4, 7], gamma=0.1)
    rules = [Rule(match="backbone.*", lr_scale=0.1)] if kwargs.pop("rules", False) else []
    net = Net(spec(optimizer=OptimizerSpec("SGD", {"lr": 0.1}), rules=rules, schedules={"lr": schedule}))
    caplog.clear()
    with caplog.at_level(logging.INFO, "lightning_solver"):
        trainer(callbacks=[SolverMonitor(lr_change=lr_change, series="steps")], max_epochs=1).fit(net, loader())
    return [record.getMessage() for record in caplog.records if "learning rate changes" in record.getMessage()]


def test_a_jump_of_the_learning_rate_is_told_once_and_not_before_the_third_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert changing(caplog, None) == []
    assert changing(caplog, 11.0) == []
    assert changing(caplog, 1.1) == [
        "step 4: the learning rate changes 0.0100000 -> 0.0010000",
        "step 7: the learning rate changes 0.0010000 -> 0.0001000",
    ]
    first, second = changing(caplog, 1.1, rules=True)
    assert first.splitlines()[0] == "step 4: the learning rate changes:"
    assert "  backbone: 0.0010000 -> 0.0001000" in first.splitlines()
    assert len(second.splitlines()) == 3


# ------------------------------------------------------------------ resume, and several runs


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")
@pytest.mark.filterwarnings("ignore:.*dataloader is not resumable")
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks used")
def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    class Bad(Plain):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return None if batch_idx == 3 else super().training_step(batch, batch_idx)

    straight = SolverMonitor(every=2)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    trainer(callbacks=[straight, keep], enable_checkpointing=True, max_epochs=2).fit(Bad(), loader())
    path = tmp_path / "step=5.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"]["SolverMonitor"]["counts"] == {"SGD": [5, 4]}
    second = SolverMonitor(every=2)
    trainer(callbacks=[second], max_epochs=2).fit(Bad(), loader(), ckpt_path=path)
    assert second.latest()["steps"] == straight.latest()["steps"] == 18
    assert second.latest()["skipped_steps"] == straight.latest()["skipped_steps"] == 2
    steps = [step for step, _ in second.history("steps").values]
    assert steps == [0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]


def test_a_monitor_added_to_a_resumed_run_counts_from_there(tmp_path: Path) -> None:
    for make in (Plain, lambda: Net(spec())):
        run = trainer(max_epochs=1)
        run.fit(make(), loader())
        run.save_checkpoint(tmp_path / "a.ckpt")
        monitor = SolverMonitor()
        trainer(callbacks=[monitor], max_epochs=2).fit(make(), loader(), ckpt_path=tmp_path / "a.ckpt")
        assert monitor.history("steps").values == [(10, 11.0), (19, 20.0)]


def test_a_further_fit_goes_on_and_another_trainer_begins_anew() -> None:
    monitor, net = SolverMonitor(every=100), Plain()
    run = trainer(callbacks=[monitor], max_epochs=1)
    run.fit(net, loader())
    run.fit_loop.max_epochs = 2
    run.fit(net, loader())
    assert monitor.history("steps").values == [(0, 1.0), (9, 10.0), (10, 11.0), (19, 20.0)]
    trainer(callbacks=[monitor], max_epochs=1).fit(Plain(), loader())
    assert monitor.history("steps").values == [(0, 1.0), (9, 10.0)]


def test_nothing_of_a_run_is_held_when_it_is_over() -> None:
    monitor = SolverMonitor()
    fit(Plain(), monitor)
    assert monitor._run.watches == {}


def test_the_learning_rate_finder_leaves_no_trace() -> None:
    monitor, net = SolverMonitor(every=100), Net(spec())
    run = trainer(callbacks=[monitor], max_epochs=1)
    Tuner(run).lr_find(net, loader(), num_training=5, attr_name="solver_lr")
    run.fit(net, loader())
    assert monitor.history("steps").values == [(0, 1.0), (9, 10.0)]


def test_a_few_batches_for_trying_are_enough() -> None:
    monitor = SolverMonitor(progress_bar=True)
    trainer(callbacks=[monitor], fast_dev_run=2).fit(Net(spec()), loader())
    assert [step for step, _ in monitor.history("steps").values] == [0, 1]


def test_a_monitor_can_be_sent_to_other_processes_before_and_after_a_run() -> None:
    monitor = SolverMonitor()
    assert pickle.loads(pickle.dumps(monitor)).latest() == {}
    fit(Plain(), monitor)
    assert pickle.loads(pickle.dumps(monitor)).latest() == monitor.latest()


def test_validation_is_not_counted_as_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_solver.monitoring import measures

    now = [0.0]
    monkeypatch.setattr(measures.time, "perf_counter", lambda: now[0])

    class Slow(Plain):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            now[0] += 1.0
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            now[0] += 100.0

    class Late(Numbers):
        def __getitem__(self, index: int) -> Tensor:
            now[0] += 0.25
            return super().__getitem__(index)

    monitor = SolverMonitor(every=4)
    run = trainer(callbacks=[monitor], max_epochs=2, val_check_interval=4)
    run.fit(Slow(), DataLoader(Late(32), batch_size=4), DataLoader(Numbers(4)))
    assert set(monitor.history("time/step").values[2:]) == {(step, 2.0) for step in (7, 11, 15)}
    assert monitor.history("time/data").values[-1] == (15, 1.0)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "SolverMonitor.every: must be a whole number >= 1; got 0"),
        ({"most_groups": 1.5}, "SolverMonitor.most_groups: must be a whole number >= 1; got 1.5"),
        ({"kept": True}, "SolverMonitor.kept: must be a whole number >= 1; got True"),
        ({"lr_change": 1.0}, "SolverMonitor.lr_change: must be greater than 1; got 1.0"),
        ({"series": ["learning_rate"]}, "SolverMonitor.series: there is no series of this name"),
        ({"progress_bar": "grad_nrm"}, r"SolverMonitor.progress_bar: there is .* did you mean grad_norm"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        SolverMonitor(**settings)


@pytest.mark.parametrize("where", ["series", "progress_bar"])
def test_a_series_of_a_group_that_is_not_there_is_refused(where: str) -> None:
    settings: dict[str, Any] = {where: ["lr/part_7"]}
    with pytest.raises(SolverError, match=rf"SolverMonitor.{where}: there is no such series .* did you mean lr/part_"):
        fit(Plain(), SolverMonitor(**settings))


def test_nothing_is_looked_at_in_steps_that_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would wait for a device goes through one function, and norms through another one."""
    from lightning_solver.callbacks import monitor as module
    from lightning_solver.clipping.norms import Gradients

    looked: list[str] = []
    own, floats = Gradients.norm, module.to_floats
    monkeypatch.setattr(Gradients, "norm", lambda self, *args: (looked.append("norm"), own(self, *args))[1])
    monkeypatch.setattr(module, "to_floats", lambda values: (looked.append("floats"), floats(values))[1])
    fit(Plain(), SolverMonitor(every=100))
    assert looked == ["norm", "floats"] * 2
