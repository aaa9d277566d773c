"""Schedule-free and other optimisers with train() and eval()."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_optimizer
import schedulefree
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.plugins import AsyncCheckpointIO
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_solver import OptimizerSpec, SolverError
from lightning_solver.callbacks.optimizer_mode import OptimizerMode
from lightning_solver.optimizers.composite import CompositeOptimizer
from lightning_solver.optimizers.modes import POINT, ModeSwitch, has_modes, schedule_free_notes
from lightning_solver.schedules import Constant, Linear
from small import Net as PlannedNet
from small import Numbers, spec, trainer
from two_processes import start

Make = Callable[[Any], torch.optim.Optimizer]


class Lookahead(torch.optim.SGD):
    """Keeps nothing in its state and no flag; its switch is one between two lists."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.05)
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.trained: list[Tensor] | None = None

    def _flat(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def eval(self) -> None:
        if self.trained is None:
            self.trained = [p.clone() for p in self._flat()]
            for p, slow in zip(self._flat(), self.slow):
                p.copy_(slow)

    @torch.no_grad()
    def train(self) -> None:
        if self.trained is not None:
            for p, fast in zip(self._flat(), self.trained):
                p.copy_(fast)
            self.trained = None

    def step(self, closure: Any = None) -> Any:
        assert self.trained is None
        loss = super().step(closure)
        with torch.no_grad():
            for p, slow in zip(self._flat(), self.slow):
                slow.lerp_(p, 0.3)
        return loss


def composite(parameters: Any) -> Any:
    """The first parameter by a schedule-free member, the others by plain SGD."""
    first, *others = parameters
    return CompositeOptimizer({"free": adamw([first]), "plain": torch.optim.SGD(others, lr=0.05, momentum=0.9)})


MAKERS: dict[str, Make] = {
    "adamw": lambda p: schedulefree.AdamWScheduleFree(p, lr=0.05, warmup_steps=2, weight_decay=0.1),
    "sgd": lambda p: schedulefree.SGDScheduleFree(p, lr=0.5),
    "radam": lambda p: schedulefree.RAdamScheduleFree(p, lr=0.05),
    "adamw of pytorch_optimizer": lambda p: pytorch_optimizer.ScheduleFreeAdamW(p, lr=0.05),
    "sgd of pytorch_optimizer": lambda p: pytorch_optimizer.ScheduleFreeSGD(p, lr=0.5),
    "splus": lambda p: pytorch_optimizer.SPlus(p, lr=0.05),
    "wrapper": lambda p: pytorch_optimizer.ScheduleFreeWrapper(torch.optim.SGD([*p], lr=0.05, momentum=0.5)),
    "composite": composite,
}
adamw = MAKERS["adamw"]


class Net(LightningModule):
    """Two layers that share a weight; notes its weights wherever it is used."""

    def __init__(self, make: Make = adamw, fail_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.register_buffer("count", torch.zeros(1))
        self.make, self.fail_at = make, fail_at
        self.trained: list[Tensor] = []
        self.seen: list[tuple[str, Tensor]] = []

    def forward(self, batch: Tensor) -> Tensor:
        return self.frozen(self.second(self.first(batch).tanh()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.trained.append(flat(self))
        return (self(batch) - batch).square().mean()

    def _look(self, stage: str) -> None:
        self.seen.append((stage, flat(self)))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._look("sanity" if self.trainer.sanity_checking else "validation")
        if self.fail_at is not None and self.global_step >= self.fail_at:
            raise RuntimeError("validation has failed")

    def on_validation_end(self) -> None:
        self._look("validation end")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._look("test")

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._look("predict")
        return batch

    def configure_optimizers(self) -> Any:
        return self.make([p for p in self.parameters() if p.requires_grad])


class At(Callback):
    """Does something after so many optimiser steps."""

    def __init__(self, step: int, act: Callable[[Any, Any], None]) -> None:
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.act(trainer, pl_module)


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters() if p.requires_grad]).clone()


def flat_of(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[name].flatten() for name in ("first.weight", "first.bias", "second.bias")])


def point_of(optimizer: Any) -> Tensor:
    """The evaluated point, worked out on a copy of the optimiser."""
    mine = [p for group in optimizer.param_groups for p in group["params"]]
    twins = [p.detach().clone().requires_grad_() for p in mine]
    other = schedulefree.AdamWScheduleFree(twins)
    for group, saved in zip(other.param_groups, optimizer.param_groups):
        group.update({key: value for key, value in saved.items() if key != "params"})
    for twin, p in zip(twins, mine):
        other.state[twin] = dict(optimizer.state[p])
    other.eval()
    return torch.cat([twin.detach().flatten() for twin in twins])


def data(batches: int = 6) -> DataLoader[Tensor]:
    """The same batch again and again, so that a plain loader can go on in mid-epoch."""
    return DataLoader([*Numbers(4)] * batches, batch_size=4)  # type: ignore[arg-type]


def run(
    make: Make = adamw, *callbacks: Callback, net: Net | None = None, ckpt: Any = None, **kwargs: Any
) -> tuple[Net, Any]:
    net = Net(make) if net is None else net
    options = {"max_epochs": 2, "val_check_interval": 2, "limit_val_batches": 1, **kwargs}
    fit = trainer(callbacks=[OptimizerMode(), *callbacks], **options)
    fit.fit(net, data(), data(2), ckpt_path=ckpt, weights_only=True)
    return net, fit


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(one, other) for one, other in zip(a, b))


@pytest.fixture(autouse=True)
def _other_callbacks_may_have_saved() -> None:
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")


def load(path: Any) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def stop(trainer: Any, pl_module: Any) -> None:
    trainer.should_stop = True


@pytest.mark.parametrize("name", [*MAKERS, "lookahead"])
def test_switching_and_saving_leave_training_as_it_is(name: str, tmp_path: Path) -> None:
    make = {**MAKERS, "lookahead": Lookahead}[name]
    alone, _ = run(make, limit_val_batches=0)
    watched, _ = run(make)
    save = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    saving, _ = run(make, save, enable_checkpointing=True)
    assert same(alone.trained, watched.trained)
    assert same(alone.trained, saving.trained)
    assert torch.equal(flat(alone), flat(watched))
    assert torch.equal(flat(alone), flat(saving))
    assert not torch.equal(flat(alone), alone.trained[-1])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("step", [3, 4, 6], ids=["between validations", "at a validation", "at the end of an epoch"])
def test_a_resumed_run_is_bitwise_the_straight_one(name: str, step: int, tmp_path: Path) -> None:
    straight, _ = run(MAKERS[name])
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    run(MAKERS[name], keep, enable_checkpointing=True)
    resumed, _ = run(MAKERS[name], ckpt=tmp_path / f"step={step}.ckpt")
    assert same(straight.trained[step:], resumed.trained)
    assert torch.equal(flat(straight), flat(resumed))


@pytest.mark.parametrize("name", MAKERS)
def test_a_checkpoint_made_by_hand_after_fit_resumes_bitwise(name: str, tmp_path: Path) -> None:
    straight, _ = run(MAKERS[name])
    _, fit = run(MAKERS[name], max_epochs=1)
    fit.save_checkpoint(tmp_path / "x.ckpt")
    resumed, _ = run(MAKERS[name], ckpt=tmp_path / "x.ckpt")
    assert same(straight.trained[6:], resumed.trained)
    assert torch.equal(flat(straight), flat(resumed))


def test_a_checkpoint_of_a_validation_resumes_bitwise(tmp_path: Path) -> None:
    straight, _ = run()
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False)
    run(adamw, keep, enable_checkpointing=True)
    resumed, _ = run(ckpt=tmp_path / "step=8.ckpt")
    assert same(straight.trained[8:], resumed.trained)
    assert torch.equal(flat(straight), flat(resumed))


def test_evaluation_sees_the_evaluated_point_and_steps_start_from_the_trained_one() -> None:
    points: list[Tensor] = []
    modes: list[bool] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            points.append(point_of(trainer.optimizers[0]))

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            modes.append(optimizer.param_groups[0]["train_mode"])

    net, fit = run(adamw, Look())
    fit.test(net, data(1), verbose=False)
    fit.predict(net, data(1), return_predictions=False)
    trainer().test(net, data(1), verbose=False)
    stages = [stage for stage, _ in net.seen]
    assert stages == ["sanity", "validation end", *["validation", "validation end"] * 6, "test", "predict", "test"]
    expected = [net.trained[0]] * 2 + [points[i] for i in (1, 3, 5, 7, 9, 11) for _ in range(2)] + [points[-1]] * 3
    assert same([weights for _, weights in net.seen], expected)
    assert not torch.equal(points[1], net.trained[2])
    assert modes == [True] * 12
    assert fit.optimizers[0].param_groups[0]["train_mode"] is False


@pytest.mark.parametrize("weights_only", [False, True])
def test_every_file_has_the_evaluated_point(weights_only: bool, tmp_path: Path) -> None:
    points: dict[int, Tensor] = {}

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            points[trainer.global_step] = point_of(trainer.optimizers[0])

    by_step = ModelCheckpoint(
        tmp_path / "step", every_n_train_steps=1, save_top_k=-1, filename="{step}", save_weights_only=weights_only
    )
    by_epoch = ModelCheckpoint(tmp_path / "epoch", save_top_k=-1, filename="{step}", save_weights_only=weights_only)
    by_hand = At(3, lambda fit, _: fit.save_checkpoint(tmp_path / "hand.ckpt", weights_only=weights_only))
    run(adamw, Look(), by_hand, by_step, by_epoch, enable_checkpointing=True)
    files = [tmp_path / "hand.ckpt", *sorted((tmp_path / "step").iterdir()), *sorted((tmp_path / "epoch").iterdir())]
    assert len(files) == 1 + 12 + 6
    for file in files:
        kept = load(file)
        assert torch.equal(flat_of(kept["state_dict"]), points[kept["global_step"]]), file
        assert torch.equal(kept["state_dict"]["first.weight"], kept["state_dict"]["second.weight"])
        assert ("optimizer_states" in kept) is not weights_only


def test_an_asynchronous_writer_gets_weights_that_do_not_change(tmp_path: Path) -> None:
    plain = ModelCheckpoint(tmp_path / "a", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    run(adamw, plain, enable_checkpointing=True)
    later = ModelCheckpoint(tmp_path / "b", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    run(adamw, later, enable_checkpointing=True, plugins=[AsyncCheckpointIO()])
    for file in (tmp_path / "a").iterdir():
        one, other = load(file), load(tmp_path / "b" / file.name)
        assert torch.equal(flat_of(one["state_dict"]), flat_of(other["state_dict"]))
        a, b = (kept["optimizer_states"][0]["state"][0][POINT] for kept in (one, other))
        assert torch.equal(a, b)


def test_a_checkpoint_serves_who_does_not_know_the_callback(tmp_path: Path) -> None:
    """Its optimiser state is that of the evaluated point: the usual train() goes on from there."""
    straight, _ = run()
    run(adamw, At(6, lambda fit, _: fit.save_checkpoint(tmp_path / "x.ckpt")))

    class ByHand(Net):
        def on_train_start(self) -> None:
            self.optimizers().train()  # type: ignore[union-attr]

    net = ByHand()
    trainer(max_epochs=2, limit_val_batches=0).fit(net, data(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    torch.testing.assert_close(torch.stack(net.trained), torch.stack(straight.trained[6:]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_checkpoint_without_the_trained_weights_is_resumed_by_the_optimiser(
    evaluated: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, _ = run()

    class ByHand(Net):
        def on_train_start(self) -> None:
            self.optimizers().train()  # type: ignore[union-attr]

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            if evaluated:
                optimizer: Any = self.trainer.optimizers[0]
                optimizer.eval()
                checkpoint["state_dict"] = {name: value.clone() for name, value in self.state_dict().items()}
                checkpoint["optimizer_states"] = [copy.deepcopy(optimizer.state_dict())]
                optimizer.train()

    save = At(6, lambda fit, _: fit.save_checkpoint(tmp_path / "x.ckpt"))
    trainer(max_epochs=1, limit_val_batches=0, callbacks=[save]).fit(ByHand(), data())
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed, _ = run(ckpt=tmp_path / "x.ckpt")
    assert "does not hold the weights at which AdamWScheduleFree trains" in caplog.text
    torch.testing.assert_close(torch.stack(resumed.trained), torch.stack(straight.trained[6:]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_breaks_off_in_training_leaves_the_evaluated_point(
    error: type[BaseException], tmp_path: Path
) -> None:
    straight, _ = run()
    points: list[Tensor] = []

    def fail(fit: Any, net: Any) -> None:
        points.append(point_of(fit.optimizers[0]))
        raise error("now")

    net = Net()
    keep = ModelCheckpoint(tmp_path, save_on_exception=True, every_n_train_steps=100)
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        run(adamw, At(5, fail), keep, net=net, enable_checkpointing=True)
    assert torch.equal(flat(net), points[0])
    (file,) = tmp_path.iterdir()
    assert torch.equal(flat_of(load(file)["state_dict"]), points[0])
    trainer().test(net, data(1), verbose=False)
    assert torch.equal(net.seen[-1][1], points[0])
    resumed, _ = run(ckpt=file)
    assert same(straight.trained[5:], resumed.trained)
    assert torch.equal(flat(straight), flat(resumed))


def test_a_validation_that_fails_leaves_the_evaluated_point_and_the_run_goes_on_bitwise(tmp_path: Path) -> None:
    straight, _ = run()
    net = Net(fail_at=4)
    keep = ModelCheckpoint(tmp_path, save_on_exception=True, every_n_train_steps=100)
    with pytest.raises(RuntimeError, match="validation has failed"):
        run(adamw, keep, net=net, enable_checkpointing=True)
    assert torch.equal(flat(net), net.seen[-1][1])
    assert not torch.equal(flat(net), straight.trained[4])
    (file,) = tmp_path.iterdir()
    assert torch.equal(flat_of(load(file)["state_dict"]), flat(net))
    resumed, _ = run(ckpt=file, limit_val_batches=0)
    assert same(straight.trained[4:], resumed.trained)
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    again, _ = run(net=net, limit_val_batches=0)
    expected, _ = run(net=fresh, limit_val_batches=0)
    assert torch.equal(flat(again), flat(expected))


def test_a_second_fit_goes_on_in_training_mode() -> None:
    net, fit = run(max_epochs=1)
    done = flat(net)
    fit.fit_loop.max_epochs = 2
    fit.fit(net, data(), data(2))
    assert torch.equal(net.trained[6], done)  # a new optimiser starts where the evaluated weights are
    assert fit.optimizers[0].param_groups[0]["k"] == 6
    assert not torch.equal(flat(net), done)


def test_a_second_fit_with_the_same_optimiser_goes_on_bitwise(caplog: pytest.LogCaptureFixture) -> None:
    straight, _ = run()
    kept: list[Any] = []

    def make(parameters: Any) -> Any:
        kept[:] = kept or [adamw(parameters)]
        return kept[0]

    net, fit = run(make, max_epochs=1)
    fit.fit_loop.max_epochs = 2
    fit.fit(net, data(), data(2))
    assert same(straight.trained, net.trained)
    net.load_state_dict({name: value + 1 for name, value in net.state_dict().items()})
    slow, fast = flat(net), torch.cat([kept[0].state[p]["z"].flatten() for p in net.parameters() if p.requires_grad])
    fit.fit_loop.max_epochs = 3
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit.fit(net, data())
    assert "3 parameters were written to while they were evaluated" in caplog.text
    torch.testing.assert_close(net.trained[12], torch.lerp(slow, fast, 0.1))


def test_weights_that_were_loaded_after_fit_are_saved_without_the_trained_ones(tmp_path: Path) -> None:
    net, fit = run(max_epochs=1)
    net.load_state_dict({name: value + 1 for name, value in net.state_dict().items()})
    fit.save_checkpoint(tmp_path / "x.ckpt")
    kept = load(tmp_path / "x.ckpt")
    assert torch.equal(flat_of(kept["state_dict"]), flat(net))
    assert all(POINT not in state for state in kept["optimizer_states"][0]["state"].values())


def test_a_state_dict_between_forward_and_backward_does_not_disturb_the_gradient() -> None:
    class Saves(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if self.global_step > 2:
                given = flat_of(self.state_dict())
                assert torch.equal(given, point_of(self.trainer.optimizers[0]))
                assert not torch.equal(given, flat(self))
                assert self.state_dict(keep_vars=True)["first.weight"] is self.first.weight
            return loss

    straight, _ = run()
    saves, _ = run(net=Saves())
    assert same(straight.trained, saves.trained)


def test_frozen_weights_are_not_copied_and_copies_of_the_module_are_on_their_own() -> None:
    copies: list[Net] = []

    def look(fit: Any, net: Any) -> None:
        state = net.state_dict()
        assert state["frozen.weight"].data_ptr() == net.frozen.weight.data_ptr()
        assert state["count"].data_ptr() == net.count.data_ptr()
        assert state["first.weight"].data_ptr() != net.first.weight.data_ptr()
        net.trainer, kept = None, net.trainer
        twin = copy.deepcopy(net)
        net.trainer = kept
        assert torch.equal(flat_of(twin.state_dict()), flat(net))
        copies.append(twin)

    net, _ = run(adamw, At(3, look))
    assert copies
    assert net.state_dict()["first.weight"].data_ptr() == net.first.weight.data_ptr()
    assert len(net._state_dict_hooks) == 0


def test_the_switch_can_be_pickled_with_a_module() -> None:
    net = nn.Linear(2, 2)
    switch = ModeSwitch([schedulefree.AdamWScheduleFree(net.parameters())], net)
    twin = pickle.loads(pickle.dumps(net))
    assert torch.equal(twin.state_dict()["weight"], net.weight)
    switch.close()


def test_a_switch_that_was_interrupted_comes_back() -> None:
    net = nn.Linear(4, 4)

    class Breaks(Lookahead):
        armed = False

        def eval(self) -> None:
            if self.armed:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].zero_()
                raise KeyboardInterrupt
            super().eval()

    optimizer = Breaks(net.parameters())
    switch = ModeSwitch([optimizer], net)
    switch.train()
    for _ in range(3):
        net(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    trained = net.weight.detach().clone()
    optimizer.armed = True
    with pytest.raises(KeyboardInterrupt):
        switch.eval()
    optimizer.armed = False
    switch.eval()
    assert torch.equal(net.weight, optimizer.slow[0])
    switch.train()
    assert torch.equal(net.weight, trained)


@pytest.mark.parametrize("back", [True, False])
def test_a_user_who_switches_as_well_does_no_harm(back: bool) -> None:
    class Both(Net):
        def on_validation_model_eval(self) -> None:
            super().on_validation_model_eval()
            self.trainer.optimizers[0].eval()  # type: ignore[attr-defined]

        def on_validation_end(self) -> None:
            super().on_validation_end()
            if back:
                self.trainer.optimizers[0].train()  # type: ignore[attr-defined]

    straight, _ = run()
    both, _ = run(net=Both())
    torch.testing.assert_close(torch.stack(both.trained), torch.stack(straight.trained), rtol=0, atol=1e-6)


def test_a_switch_alone_needs_no_trainer() -> None:
    net = nn.Linear(4, 4)
    optimizer = schedulefree.AdamWScheduleFree(net.parameters(), lr=0.1)
    switch = ModeSwitch([optimizer], net)
    assert switch.training is None
    switch.train()
    for _ in range(3):
        net(torch.ones(1, 4)).square().sum().backward()
        optimizer.step()
    trained = net.weight.detach().clone()
    with switch.evaluated() as points:
        assert torch.equal(points[net.weight], trained)
        assert torch.equal(flat(net), torch.cat([t.flatten() for t in net.state_dict().values()]))
        assert not torch.equal(net.weight, trained)
    assert torch.equal(net.weight, trained)
    with torch.inference_mode():
        switch.eval()
    point = optimizer.state_dict()["state"][0][POINT]
    assert torch.equal(point, trained)
    assert not point.is_inference()
    assert POINT not in optimizer.state[net.weight]
    switch.release()
    assert POINT not in optimizer.state_dict()["state"][0]
    assert not net._state_dict_hooks
    assert not net._state_dict_pre_hooks


def test_a_validation_by_another_trainer_in_mid_training_sees_the_evaluated_point() -> None:
    straight, _ = run(limit_val_batches=0)
    mode = OptimizerMode()
    net = Net()
    points: list[Tensor] = []

    def validate(fit: Any, module: Any) -> None:
        points.append(point_of(fit.optimizers[0]))
        trainer(callbacks=[mode]).validate(module, data(1), verbose=False)
        module.trainer = fit

    net = Net()
    trainer(max_epochs=2, callbacks=[mode, At(3, validate)]).fit(net, data())
    assert torch.equal(net.seen[0][1], points[0])
    assert same(straight.trained, net.trained)


def test_optimisers_without_modes_are_left_alone(tmp_path: Path) -> None:
    plain: Make = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    assert not has_modes(plain([nn.Parameter(torch.zeros(1))]))
    net, _ = run(plain, At(3, lambda fit, net: fit.save_checkpoint(tmp_path / "x.ckpt")))
    assert torch.equal(flat_of(load(tmp_path / "x.ckpt")["state_dict"]), net.trained[3])


def planned(**changes: Any) -> Any:
    args = {"lr": 0.05, "weight_decay": 0.1}
    free = OptimizerSpec("schedulefree.AdamWScheduleFree", args)
    return spec(optimizer=free, schedules={"lr": [Linear(start=0.1, until="20%"), Constant()]}, **changes)


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_planned_run_with_warm_up_and_groups_resumes_bitwise(step: int, tmp_path: Path) -> None:
    def fit(ckpt: Any = None, *callbacks: Callback) -> PlannedNet:
        torch.manual_seed(0)
        net = PlannedNet(planned())
        options: dict[str, Any] = {"max_epochs": 2, "val_check_interval": 2, "enable_checkpointing": bool(callbacks)}
        trainer(callbacks=[OptimizerMode(), *callbacks], **options).fit(
            net, data(), data(1), ckpt_path=ckpt, weights_only=True
        )
        return net

    straight = fit()
    fit(None, ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}"))
    resumed = fit(tmp_path / f"step={step}.ckpt")
    assert straight.used[step:] == resumed.used
    assert torch.equal(flat(straight), flat(resumed))
    groups = [net.trainer.optimizers[0].param_groups[0] for net in (straight, resumed)]
    assert [group["k"] for group in groups] == [12, 12]


def test_averages_of_the_same_weights_are_refused() -> None:
    message = r"Trainer\.callbacks: AdamWScheduleFree averages the weights itself.*got StochasticWeightAveraging; drop"
    with pytest.raises(SolverError, match=message):
        run(adamw, StochasticWeightAveraging(swa_lrs=0.1))


def test_fsdp1_is_refused() -> None:
    net = Net()
    fit: Any = SimpleNamespace(optimizers=[net.configure_optimizers()], strategy=FSDPStrategy(), callbacks=[])
    message = r"Trainer\.strategy: AdamWScheduleFree is evaluated at other weights.*got FSDPStrategy; use ModelParallel"
    with pytest.raises(SolverError, match=message):
        OptimizerMode().on_fit_start(fit, net)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ddp", "fsdp2_full", "fsdp2_sharded", "fsdp2_without"])
def test_two_processes(case: str, tmp_path: Path) -> None:
    done = start(Path(__file__).parent / "distributed_mode_cases.py", case, str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]


def test_notes_say_what_is_odd_about_schedules() -> None:
    cls = schedulefree.AdamWScheduleFree
    assert schedule_free_notes(cls, {"lr": [[0.1, 0.2], [0.2, 0.4], [0.2, 0.4]]}) == []
    assert schedule_free_notes(torch.optim.AdamW, {"lr": [2.0, 1.0], "momentum": [0.9, 0.8]}) == []
    (falls,) = schedule_free_notes(pytorch_optimizer.ScheduleFreeAdamW, {"lr": [[0.1, 0.2], [0.1, 0.1]]})
    assert "lr falls" in falls
    (moves,) = schedule_free_notes(schedulefree.SGDScheduleFreeClosure, {"momentum": [0.9, 0.95]})
    assert "momentum is scheduled" in moves
