"""What somebody stumbles over who uses it for the first time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_solver import OptimizerSpec, SolverCLI, SolverError, SolverMixin, SolverSpec
from lightning_solver.averaging import EMA
from lightning_solver.callbacks import GradientClipping, SolverMonitor
from lightning_solver.callbacks.order import describe
from lightning_solver.clipping import GlobalNorm
from lightning_solver.happened import happened, read_log
from lightning_solver.schedules import Cosine

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ADAM = OptimizerSpec("AdamW", {"lr": 1e-2})


class Small(SolverMixin, LightningModule):
    def __init__(self, solver: SolverSpec | None = None) -> None:
        super().__init__()
        self.solver = solver
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        return loss * float("nan") if batch_idx == self.bad else loss

    bad = -1

    def train_dataloader(self) -> Any:
        torch.manual_seed(0)
        return DataLoader(TensorDataset(torch.randn(36, 4)), batch_size=4)


def trainer(**more: Any) -> Trainer:
    given = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu", "devices": 1}
    return Trainer(**{**given, "enable_progress_bar": False, "enable_model_summary": False, **more})


@pytest.mark.parametrize("policy", [True, 5, {"polcy": "skip"}, "skp"])
def test_a_policy_that_makes_no_sense_is_refused_by_the_callback(policy: Any) -> None:
    with pytest.raises(SolverError, match=r"^GradientClipping\.nonfinite"):
        GradientClipping(GlobalNorm(1.0), nonfinite=policy)


def test_a_policy_may_be_a_mapping() -> None:
    clipping = GradientClipping(nonfinite={"policy": "skip", "in_a_row": 3})  # type: ignore[arg-type]
    trainer(callbacks=[clipping]).fit(Small(SolverSpec(ADAM)))


def test_a_number_in_place_of_a_clipping_names_the_kinds() -> None:
    with pytest.raises(SolverError, match=r"class_path.*GlobalNorm"):
        SolverSpec(ADAM, clip=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("key", "meant"), [("sampels", "samples"), ("batch", "batches")])
def test_a_misspelt_key_of_accumulate_names_the_nearest(key: str, meant: str) -> None:
    with pytest.raises(SolverError, match=rf"unknown key; got '{key}'; did you mean {meant}"):
        SolverSpec.from_dict({"optimizer": {"name": "AdamW", "args": {"lr": 0.1}}, "accumulate": {key: 32}})


def test_a_log_with_skipped_steps_is_held_against_the_plan_by_real_steps(tmp_path: Path) -> None:
    module = Small(SolverSpec(ADAM, nonfinite="skip", schedules={"lr": Cosine()}))
    module.bad = 3
    run = trainer(callbacks=[SolverMonitor(every=1)], logger=CSVLogger(tmp_path))
    run.fit(module)
    found = happened(read_log(Path(run.log_dir or "") / "metrics.csv"), module.solver_plan)  # type: ignore[arg-type]
    assert not found.differs("lr")
    assert "2 steps were begun and not made" in found.describe()


class Break(Callback):
    """Saves a checkpoint in mid-window."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def test_a_window_that_a_checkpoint_held_is_counted_whole(tmp_path: Path) -> None:
    spec = SolverSpec(ADAM, accumulate={"batches": 3, "keep_gradients": True})  # type: ignore[arg-type]
    trainer(callbacks=[SolverMonitor(every=1), Break(tmp_path / "mid.ckpt")]).fit(Small(spec))
    monitor = SolverMonitor(every=1)
    trainer(callbacks=[monitor]).fit(Small(spec), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
    assert monitor.history("batches_per_step").values[0] == (0, 3.0)
    assert monitor.history("samples_per_step").values[0] == (0, 12.0)


class Own(Small):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_warning_about_a_solver_that_is_not_followed_names_what_is(caplog: pytest.LogCaptureFixture) -> None:
    module = Own(SolverSpec(ADAM, clip=GlobalNorm(0.1), accumulate=3, averages={"ema": EMA(half_life=1)}))
    trainer().fit(module)
    assert "its solver is not followed, but for its accumulate and averages" in caplog.text


def test_a_callback_tells_what_it_really_does_about_gradients() -> None:
    (clips,) = describe([GradientClipping(GlobalNorm(1.0))])
    assert clips.endswith("clips gradients by GlobalNorm (max_norm 1)")
    (looks,) = describe([GradientClipping(nonfinite="skip")])
    assert looks.endswith("looks whether gradients are finite")


def test_a_change_of_the_accumulation_beyond_the_run_is_noted() -> None:
    plan = SolverSpec(ADAM, accumulate={0: 1, "50ep": 4}).plan(nn.Linear(2, 2), total_steps=20, steps_per_epoch=10)
    assert "accumulate: 4 from 50ep on is never reached: the run ends before" in plan.notes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"evry": 5}, "trainer.callbacks: SolverMonitor takes no such argument; got 'evry'; did you mean every?"),
        ({"every": 0}, "SolverMonitor.every: must be a whole number >= 1; got 0"),
    ],
)
def test_mistakes_in_a_callback_are_one_line(
    given: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    callback = {"class_path": "lightning_solver.callbacks.SolverMonitor", "init_args": given}
    config = {"solver": {"optimizer": {"name": "AdamW", "args": {"lr": 0.1}}}, "trainer": {"callbacks": [callback]}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        SolverCLI(Small, args=["plan", "--config", str(tmp_path / "c.yaml")], save_config_callback=None)
    assert capsys.readouterr().err.startswith(f"error: {message}")
