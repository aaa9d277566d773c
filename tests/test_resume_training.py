"""A run that is stopped and resumed is the straight run, bit for bit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_solver import OptimizerSpec, Rule, SolverError, SolverSpec
from lightning_solver.callbacks import RandomState, random_state
from lightning_solver.schedules import Cosine, Linear
from small import Net, Numbers, loader, spec, trainer

EPOCHS, BATCHES = 4, 10
pytestmark = [
    # what Lightning says when a resumed run writes its checkpoints elsewhere, or was stopped in mid-epoch on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
]


class StopAfter(Callback):
    """Ends a run as an interruption would: after so many epochs, or so many steps."""

    def __init__(self, epochs: int | None = None, steps: int | None = None) -> None:
        self.epochs, self.steps = epochs, steps

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.epochs is not None and trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if self.steps is not None and trainer.global_step == self.steps:
            trainer.should_stop = True


def data(stateful: bool) -> DataLoader[Tensor]:
    cls = StatefulDataLoader if stateful else DataLoader
    return cls(Numbers(40, noise=True), batch_size=4, shuffle=True)


def run(
    folder: Path,
    *,
    solver: SolverSpec | None = None,
    stop: StopAfter | None = None,
    ckpt: Path | None = None,
    stateful: bool = True,
    every_n_steps: int | None = None,
    seed: int = 1,
    validate: bool = False,
    **kwargs: Any,
) -> tuple[Net, dict[str, Any]]:
    """Train; return the module and the optimiser state by parameter name."""
    seed_everything(seed, verbose=False)
    net = Net(solver or spec(), dropout=0.3)
    when: dict[str, Any] = {"every_n_train_steps": every_n_steps} if every_n_steps else {"every_n_epochs": 1}
    keep = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", **when)
    callbacks = [RandomState(), keep, *([stop] if stop else [])]
    settings = {"max_epochs": EPOCHS, **kwargs}
    fit = trainer(callbacks=callbacks, enable_checkpointing=True, **settings)
    fit.fit(net, data(stateful), loader(12) if validate else None, ckpt_path=ckpt, weights_only=True)
    optimizer = fit.optimizers[0]
    names = {tensor: name for name, tensor in net.named_parameters()}
    state = {names[tensor]: optimizer.state[tensor] for tensor in optimizer.state}
    return net, state


def assert_same(straight: tuple[Net, dict[str, Any]], resumed: tuple[Net, dict[str, Any]]) -> None:
    net, state = straight
    again, state_again = resumed
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert state.keys() == state_again.keys()
    for name, tensors in state.items():
        for key, tensor in tensors.items():
            assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(state_again[name][key])), (name, key)
    assert net.used[-len(again.used) :] == again.used


@pytest.mark.parametrize("stateful", [True, False], ids=["stateful loader", "plain loader"])
@pytest.mark.parametrize("validate", [False, True], ids=["", "with validation"])
def test_between_epochs(tmp_path: Path, stateful: bool, validate: bool) -> None:
    straight = run(tmp_path / "a", stateful=stateful, validate=validate)
    first, _ = run(tmp_path / "b", stateful=stateful, stop=StopAfter(epochs=2), validate=validate)
    assert len(first.used) == 20
    ckpt = tmp_path / "b" / "step=20.ckpt"
    resumed = run(tmp_path / "c", stateful=stateful, ckpt=ckpt, seed=77, validate=validate)
    assert len(resumed[0].used) == 20
    assert_same(straight, resumed)


@pytest.mark.parametrize("step", [3, 17, 20, 36])
@pytest.mark.parametrize("validate", [False, True], ids=["", "with validation"])
def test_in_mid_epoch(tmp_path: Path, step: int, validate: bool) -> None:
    straight = run(tmp_path / "a", validate=validate)
    run(tmp_path / "b", stop=StopAfter(steps=step), every_n_steps=step, validate=validate)
    resumed = run(tmp_path / "c", ckpt=tmp_path / "b" / f"step={step}.ckpt", seed=77, validate=validate)
    assert len(resumed[0].used) == EPOCHS * BATCHES - step
    assert_same(straight, resumed)


def test_in_mid_epoch_with_accumulation(tmp_path: Path) -> None:
    straight = run(tmp_path / "a", accumulate_grad_batches=3)
    run(tmp_path / "b", stop=StopAfter(steps=6), every_n_steps=6, accumulate_grad_batches=3)
    resumed = run(tmp_path / "c", ckpt=tmp_path / "b" / "step=6.ckpt", seed=77, accumulate_grad_batches=3)
    assert_same(straight, resumed)


def test_the_test_would_fail_without_the_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(tmp_path / "a")
    run(tmp_path / "b", stop=StopAfter(epochs=2))
    monkeypatch.setattr(random_state, "set_random_state", lambda state: None)
    resumed = run(tmp_path / "c", ckpt=tmp_path / "b" / "step=20.ckpt", seed=77)
    assert not torch.equal(straight[0].head.weight, resumed[0].head.weight)


def test_the_checkpoint_of_a_finished_run_makes_no_further_step(tmp_path: Path) -> None:
    straight = run(tmp_path / "a")
    resumed = run(tmp_path / "b", ckpt=tmp_path / "a" / "step=40.ckpt", seed=77)
    assert resumed[0].used == []
    assert torch.equal(straight[0].head.weight, resumed[0].head.weight)


# ------------------------------------------------------------------ resumed by something else


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "learning rate": ({"lr": 0.5}, "lr: (not set) -> 0.5"),
    "schedule": ({"schedules": {"lr": [Linear(start=0.5, until="50%"), Cosine(end=0.1)]}}, "schedules.lr[0].init_args.until: 20% -> 50%"),
    "groups": ({"rules": [Rule(match="head.*", lr_scale=3.0)]}, "rules[0].match: backbone.* -> head.*"),
    "no groups": ({"rules": [], "default_rules": False}, "default_rules: (not set) -> False"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "line"), CHANGES.values(), ids=CHANGES)
def test_the_new_spec_is_followed_and_the_change_is_told(
    tmp_path: Path, change: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "a", stop=StopAfter(epochs=2))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        net, _ = run(tmp_path / "b", ckpt=tmp_path / "a" / "step=20.ckpt", solver=spec(**change))
    assert net.used == net.solver_plan.curve("lr")[20:].tolist()
    assert line in caplog.text


def test_more_epochs_follow_the_longer_curve(tmp_path: Path) -> None:
    run(tmp_path / "a", stop=StopAfter(epochs=2))
    net, _ = run(tmp_path / "b", ckpt=tmp_path / "a" / "step=20.ckpt", max_epochs=6)
    assert net.solver_plan.run.total_steps == 60
    assert net.used == net.solver_plan.curve("lr")[20:].tolist()


def test_moments_follow_the_names_when_groups_change(tmp_path: Path) -> None:
    """Two layers of one shape whose groups change places: by position their moments would be swapped in silence."""

    class Twins(Net):
        def __init__(self, solver: SolverSpec) -> None:
            super().__init__(solver)
            self.other = torch.nn.Linear(8, 16)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + self.other(batch).square().mean()

    def moments(fit: Any, net: Net) -> dict[str, Tensor]:
        return {name: fit.optimizers[0].state[tensor]["exp_avg"].clone() for name, tensor in net.named_parameters()}

    before = spec(rules=[Rule(match="other.*", lr=0.0)], schedules={}, default_rules=False)
    after = spec(rules=[Rule(match="backbone.0.*", lr=0.0)], schedules={}, default_rules=False)
    net = Twins(before)
    fit = trainer(max_epochs=1)
    fit.fit(net, loader())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    old = moments(fit, net)

    class Look(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            for name, moment in moments(trainer, pl_module).items():
                assert torch.equal(moment, old[name]), name

    again = Twins(after)
    trainer(max_epochs=2, callbacks=[Look()]).fit(again, loader(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert len(again.used) == 10


def test_a_checkpoint_of_another_scheduler_is_refused(tmp_path: Path) -> None:
    class Foreign(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    fit = trainer(max_epochs=1)
    fit.fit(Foreign(spec()), loader())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(
        SolverError, match=r"optimizer\.param_groups\[0\]: the saved state does not say which parameter"
    ):
        trainer(max_epochs=2).fit(Net(spec()), loader(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)


def test_another_number_of_processes_is_told(tmp_path: Path) -> None:
    run(tmp_path / "a", stop=StopAfter(epochs=2))
    ckpt = tmp_path / "a" / "step=20.ckpt"
    saved = torch.load(ckpt, weights_only=True)
    saved["lightning_solver_random_state"]["states"] *= 2
    torch.save(saved, ckpt)
    with pytest.raises(
        SolverError, match="another number of processes; got states of 2 processes, 1 now; resume with as many"
    ):
        run(tmp_path / "b", ckpt=ckpt)


def test_another_optimiser_starts_with_fresh_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "a", stop=StopAfter(epochs=2))
    solver = spec(optimizer=OptimizerSpec("SGD", {"lr": 0.01, "momentum": 0.9}))
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        net, _ = run(tmp_path / "b", ckpt=tmp_path / "a" / "step=20.ckpt", solver=solver)
    assert "starts with fresh state" in caplog.text
    assert net.used == net.solver_plan.curve("lr")[20:].tolist()
