"""EMA, SWA and PowerEMA as callbacks of any Trainer, with a module that knows nothing of this package."""

from __future__ import annotations

import copy
import logging
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BaseFinetuning, Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn

from averaging_cases import (
    STEPS,
    At,
    Net,
    Oops,
    average_of,
    close,
    data,
    ema,
    equal,
    everything,
    far,
    fit,
    live_of,
    make_trainer,
    mean,
    of_state,
    other_data,
    raises,
    straight,
    vector,
)
from lightning_solver import SolverError
from lightning_solver.averaging import PowerWarmup, UpdateBN
from lightning_solver.averaging.weight_sets import KEY
from lightning_solver.callbacks import EMA, SWA, PowerEMA

pytestmark = [
    # Lightning's advice about what these tests do on purpose
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning"),
]

DECAY = 0.8


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Lightning ignores further interrupts after the first."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def saved(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def each_epoch(folder: Path, **kwargs: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, **kwargs)


# ---------------------------------------------------------------------- what an update is


def test_an_update_follows_a_step_and_not_a_batch() -> None:
    net, callback = Net(), EMA(DECAY)
    fit(net, callback, accumulate_grad_batches=3, max_epochs=2)
    ends = [2, 5, 8, 9, 12, 15, 18, 19]  # the last window of an epoch is short
    close(vector(net), ema([net.trail[index] for index in ends], DECAY))
    assert callback.averaged["ema"].count.steps == 8


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`:UserWarning")
def test_a_window_with_one_real_batch_counts() -> None:
    class SometimesNone(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx in (1, 2, 3) else super().training_step(batch, batch_idx)

    net, callback = SometimesNone(), EMA(DECAY)
    fit(net, callback, accumulate_grad_batches=2, max_epochs=1)
    close(vector(net), ema([net.trail[index] for index in (1, 5, 7, 9)], DECAY))
    assert callback.averaged["ema"].count.steps == 4


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [EMA(DECAY), SWA(start=3, every=2), PowerEMA(0.1)], ids=["EMA", "SWA", "PowerEMA"])
def test_a_step_that_the_loss_scaler_skipped_is_none(fused: bool, kind: Callback) -> None:
    class Overflowing(Net):
        overflow: tuple[int, ...] = (2, 3, 7)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if batch_idx in self.overflow else loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), self.lr, fused=fused)

    net, callback = Overflowing(), copy.deepcopy(kind)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    fit(net, callback, max_epochs=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    (averaged,) = callback.averaged.values()  # type: ignore[attr-defined]
    assert averaged.count.steps == 7
    expected = averaged.average.over([torch.zeros_like(net.trail[0])], total_steps=10, steps_per_epoch=10)
    for index in (0, 1, 4, 5, 6, 8, 9):
        expected.tensors[0].copy_(net.trail[index])
        expected.update()
    close(average_of(averaged), expected.values[0])


class Manual(Net):
    """Steps its optimisers so many times for a batch."""

    def __init__(self, times: tuple[int, ...]) -> None:
        super().__init__()
        self.times = times
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self.optimizers()
        for optimizer, times in zip(optimizers if isinstance(optimizers, list) else [optimizers], self.times):
            for _ in range(times):
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()

    def configure_optimizers(self) -> Any:
        if len(self.times) == 1:
            return torch.optim.SGD(self.parameters(), self.lr)
        return [torch.optim.SGD(layer.parameters(), self.lr) for layer in (self.layers[0], self.layers[3])]


@pytest.mark.parametrize("times", [(1,), (3,), (1, 1), (2, 1)], ids=str)
def test_manual_optimisation(times: tuple[int, ...]) -> None:
    """Several steps for a batch count all, and are taken in at its end; of several optimisers, those of the busiest."""
    net, callback = Manual(times), EMA(DECAY)
    fit(net, callback)
    close(vector(net), ema(net.trail, DECAY ** max(times)))
    assert callback.averaged["ema"].count.steps == 20 * max(times)


def test_a_start_and_a_pace() -> None:
    net = Net()
    fit(net, EMA(0.9, start=4, every=3, until=15))
    close(vector(net), ema(net.trail[3:15:3], 0.9**3))

    net = Net()
    fit(net, EMA(0.9, start="1ep", every="1/2ep"))
    close(vector(net), ema(net.trail[9::5], 0.9**5))


def test_an_average_that_begins_with_the_weights_of_the_beginning() -> None:
    net = Net()
    initial = vector(net)
    fit(net, EMA(0.9, start=0))
    close(vector(net), ema([initial, *net.trail], 0.9))

    net = Net()
    fit(net, EMA(0.9, first="blend"))
    close(vector(net), ema([initial, *net.trail], 0.9))


def test_the_end_of_a_run_is_taken_in_wherever_it_is() -> None:
    net = Net()
    fit(net, SWA(start="50%", every=4), max_steps=15, max_epochs=-1)
    close(vector(net), mean([net.trail[index] for index in (7, 11, 14)]))


def test_training_is_the_same_with_and_without() -> None:
    without = straight(max_epochs=3, val_check_interval=3)
    for callback in (EMA(DECAY), EMA(DECAY, keep="live", device="cpu"), SWA(every=2, start=2), PowerEMA(0.05)):
        net = Net()
        fit(net, callback, max_epochs=3, val_check_interval=3)
        assert equal(net.trail, without)


@pytest.mark.parametrize("settings", [{"max_steps": 13}, {"max_epochs": 1, "limit_train_batches": 7}], ids=str)
def test_a_run_that_ends_in_mid_epoch(settings: dict[str, Any]) -> None:
    net = Net()
    fit(net, EMA(DECAY), **settings)
    assert len(net.trail) in (7, 13)
    close(vector(net), ema(net.trail, DECAY))


@pytest.mark.parametrize("interval", [3, 4])
def test_a_validation_in_mid_epoch_and_mid_window_sees_the_average_so_far(interval: int) -> None:
    net = Net()
    fit(net, EMA(DECAY), accumulate_grad_batches=3, max_epochs=1, val_check_interval=interval)
    ends = [2, 5, 8, 9]
    seen = [value for _, value in net.saw]
    validations = range(interval, STEPS + 1, interval)
    assert len(seen) == len(validations)
    for batches, weights in zip(validations, seen):
        points = [net.trail[index] for index in ends if index < batches]
        close(weights, ema(points, DECAY))


def test_the_sanity_check_sees_the_weights_that_the_run_begins_with() -> None:
    net = Net()
    initial = vector(net)
    fit(net, EMA(DECAY), num_sanity_val_steps=2, max_epochs=1)
    assert torch.equal(net.saw[0][1], initial)
    close(net.saw[1][1], ema(net.trail, DECAY))


def test_the_sanity_check_of_a_resumed_run_sees_the_average(tmp_path: Path) -> None:
    fit(Net(), EMA(DECAY), each_epoch(tmp_path), max_epochs=1)
    net, callback = Net(), EMA(DECAY)
    begin = At("on_train_start", lambda trainer, module: module.trail.append(vector(module)))
    trainer = make_trainer(callback, begin, num_sanity_val_steps=2)
    trainer.fit(net, data(), other_data(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    found = saved(tmp_path / "epoch=0.ckpt")
    assert torch.equal(net.saw[0][1], of_state(found["state_dict"]))
    assert torch.equal(net.trail[0], of_state(found[KEY]["live"]))


def test_a_fast_dev_run() -> None:
    net = Net()
    fit(net, EMA(DECAY), fast_dev_run=2)
    assert len(net.trail) == 2
    close(vector(net), ema(net.trail, DECAY))


@pytest.mark.parametrize("settings", [{"limit_train_batches": 0}, {"max_epochs": 0}, {"max_steps": 0}], ids=str)
def test_a_run_without_a_step(settings: dict[str, Any], tmp_path: Path) -> None:
    net, callback = Net(), EMA(DECAY, start=0)
    initial = vector(net)
    trainer = fit(net, callback, **settings)
    assert torch.equal(vector(net), initial)
    trainer.save_checkpoint(tmp_path / "none.ckpt")
    assert torch.equal(of_state(saved(tmp_path / "none.ckpt")["state_dict"]), initial)


def test_an_average_that_begins_after_the_end_keeps_the_training(caplog: pytest.LogCaptureFixture) -> None:
    for callback in (EMA(DECAY, start=21), SWA(start="2ep+1st"), PowerEMA(0.1, start=1000)):
        net = Net()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lightning_solver"):
            trainer = fit(net, callback)
        assert torch.equal(vector(net), net.trail[-1])
        assert "but the run ends after 20: the trained weights are evaluated and kept" in caplog.text
        trainer.test(net, other_data(), verbose=False)
        assert torch.equal(net.saw[-1][1], net.trail[-1])


@pytest.mark.parametrize("before", ["follow", "every", "hold"])
def test_an_average_that_has_not_begun_is_neither_evaluated_nor_saved_nor_kept(before: Any, tmp_path: Path) -> None:
    """Whatever it holds before."""
    net, callback = Net(), EMA(DECAY, start=100, every=7, first="blend", before=before)
    trainer = fit(net, callback, each_epoch(tmp_path), val_check_interval=5)
    assert [
        index for index, (_, weights) in enumerate(net.saw) if not torch.equal(weights, net.trail[5 * index + 4])
    ] == []
    assert torch.equal(vector(net), net.trail[-1])
    assert torch.equal(of_state(net.state_dict()), net.trail[-1])
    found = saved(tmp_path / "epoch=1.ckpt")
    assert torch.equal(of_state(found["state_dict"]), net.trail[-1])
    assert "lightning_solver_average" not in found["state_dict"]._metadata[""]
    trainer.test(net, other_data(), verbose=False)
    assert torch.equal(net.saw[-1][1], net.trail[-1])


# ---------------------------------------------------------------------- whatever happens

HOOKS = [
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_save_checkpoint",
]


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("error", [Oops("on purpose"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_was_changed_is_undone(hook: str, error: BaseException, first: bool, tmp_path: Path) -> None:
    """The live weights are in the module, and the file has both sets in their places."""
    nth = {"on_train_batch_start": 13, "on_before_backward": 13, "on_before_optimizer_step": 13}.get(hook, 2)
    nth = 1 if hook in ("on_train_start", "on_train_end") else 13 if hook == "on_train_batch_end" else nth
    net, callback = Net(), EMA(DECAY)
    live = [vector(net)]
    fails = At(hook, raises(error), nth)
    keep = ModelCheckpoint(tmp_path, save_on_exception=True, filename="saved", every_n_epochs=1, monitor="val_loss")
    watch = At("on_train_batch_end", lambda trainer, module: live.append(vector(module)))
    callbacks = [watch, fails, callback, keep] if first else [watch, callback, fails, keep]
    with pytest.raises((Oops, SystemExit)):
        fit(net, *callbacks)
    assert fails.called == nth + (hook == "on_save_checkpoint")  # which is called again, for the file
    assert torch.equal(vector(net), live[-1])
    averaged = callback.averaged["ema"]
    assert torch.equal(live_of(averaged), live[-1])
    steps = averaged.count.steps
    assert steps == (len(live) - 1 if hook != "on_train_batch_end" or not first else 12)
    if hook == "on_save_checkpoint":
        return
    if steps:
        found = saved(tmp_path / "saved.ckpt")
        close(of_state(found["state_dict"]), ema(live[1 : steps + 1], DECAY))
        assert torch.equal(of_state(found[KEY]["live"]), live[-1])

    # nothing stands in the way of a further run, which goes on
    again = make_trainer(callback, max_epochs=1)
    again.fit(net, data(), other_data())
    assert averaged.count.steps == callback.averaged["ema"].count.steps - (
        0 if averaged is callback.averaged["ema"] else steps
    )
    assert len(net.trail) >= STEPS


def test_a_run_that_was_interrupted_goes_on_with_its_average() -> None:
    whole = EMA(DECAY)
    fit(Net(), whole, max_epochs=2)

    net, callback = Net(), EMA(DECAY)
    with pytest.raises(Oops):
        fit(net, callback, At("on_validation_batch_end", raises()), max_epochs=2)
    again = make_trainer(callback, max_epochs=1)
    again.fit(net, data(), other_data())
    assert equal(everything(callback.averaged["ema"]), everything(whole.averaged["ema"]))


@pytest.mark.parametrize("keep", ["average", "live"])
@pytest.mark.parametrize(
    "hook", ["on_train_epoch_end", "on_train_batch_end", "on_validation_batch_end", "on_validation_end"]
)
@pytest.mark.parametrize("file", [False, True], ids=["", "of a file"])
def test_an_evaluation_in_mid_run_by_another_trainer(hook: str, keep: Any, file: bool, tmp_path: Path) -> None:
    """With the same callback, which finds the module in the middle of something and leaves it so."""

    def evaluate(trainer: Any, module: Any) -> None:
        before = vector(module)
        path = tmp_path / "file.ckpt" if file else None
        if file:
            trainer.save_checkpoint(path, weights_only=True)
        seen = len(net.saw)
        make_trainer(callback).test(module, other_data(), ckpt_path=path, weights_only=True, verbose=False)
        close(net.saw[seen][1], average_of(callback.averaged["ema"]))
        assert torch.equal(vector(module), before)
        module.trainer = trainer

    net, callback = Net(), EMA(DECAY, keep=keep)
    fit(net, callback, At(hook, evaluate, nth=2), each_epoch(tmp_path), max_epochs=3)
    assert equal(net.trail, straight(max_epochs=3))
    close(average_of(callback.averaged["ema"]), ema(net.trail, DECAY))
    assert torch.equal(vector(net), average_of(callback.averaged["ema"]) if keep == "average" else net.trail[-1])
    found = saved(tmp_path / "epoch=2.ckpt")
    assert torch.equal(of_state(found["state_dict"]), average_of(callback.averaged["ema"]))
    assert torch.equal(of_state(found[KEY]["live"]), net.trail[-1])


def test_a_run_of_another_module_that_fails_leaves_the_first_one_alone() -> None:
    class Fails(Net):
        def setup(self, stage: str) -> None:
            raise Oops("on purpose")

    net, callback = Net(), EMA(DECAY)
    fit(net, callback)
    held = vector(net)
    with pytest.raises(Oops):
        fit(Fails(), callback)
    assert torch.equal(vector(net), held)


class FailsToTest(Net):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        raise Oops("on purpose")


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_test_that_fails_leaves_the_module_as_it_was(keep: Any) -> None:
    net, callback = FailsToTest(), EMA(DECAY, keep=keep)
    trainer = fit(net, callback)
    before = vector(net)
    with pytest.raises(Oops):
        trainer.test(net, other_data())
    assert torch.equal(vector(net), before)
    close(net.saw[-1][1], ema(net.trail, DECAY))
    assert torch.equal(live_of(callback.averaged["ema"]), net.trail[-1])


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_test_of_a_file_that_fails_does_not_cost_the_live_weights(tmp_path: Path, keep: Any) -> None:
    net, callback = FailsToTest(), EMA(DECAY, keep=keep)
    trainer = fit(net, callback, each_epoch(tmp_path))
    with pytest.raises(Oops):
        trainer.test(net, other_data(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, data(), other_data())
    assert torch.equal(net.trail[-1], straight(max_epochs=3)[-1])
    close(vector(net) if keep == "average" else average_of(callback.averaged["ema"]), ema(net.trail, DECAY))


# ---------------------------------------------------------------------- files


def test_all_kinds_of_files_have_the_average_as_their_state_dict(tmp_path: Path) -> None:
    full = ModelCheckpoint(tmp_path / "full", monitor="val_loss", save_top_k=-1, filename="{epoch}", save_last=True)
    alone = ModelCheckpoint(tmp_path / "alone", save_weights_only=True, every_n_train_steps=7, filename="{step}")
    net, callback = Net(), EMA(DECAY)
    fit(net, callback, full, alone)
    average = [ema(net.trail[:count], DECAY) for count in (10, 20)]
    close(of_state(saved(tmp_path / "full/epoch=0.ckpt")["state_dict"]), average[0])
    close(of_state(saved(tmp_path / "full/last.ckpt")["state_dict"]), average[1])
    close(of_state(saved(tmp_path / "alone/step=14.ckpt")["state_dict"]), ema(net.trail[:14], DECAY))
    assert "callbacks" not in saved(tmp_path / "alone/step=14.ckpt")
    for step, epoch in ((10, 0), (20, 1)):
        assert torch.equal(of_state(saved(tmp_path / f"full/epoch={epoch}.ckpt")[KEY]["live"]), net.trail[step - 1])
    again = Net()
    again.load_state_dict(saved(full.best_model_path)["state_dict"])
    best = min(range(2), key=lambda epoch: float(full.best_k_models[str(tmp_path / f"full/epoch={epoch}.ckpt")]))
    close(vector(again), average[best])


def test_one_set_is_in_the_file_once(tmp_path: Path) -> None:
    """The average is not written a second time where the state_dict has it exactly."""
    fit(Net(), EMA(DECAY), each_epoch(tmp_path))
    assert saved(tmp_path / "epoch=1.ckpt")[KEY]["values"] == {}


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_file_after_fit_or_after_a_test_has_both_sets(tmp_path: Path, keep: Any) -> None:
    net = Net()
    trainer = fit(net, EMA(DECAY, keep=keep))
    for name in ("fit", "test"):
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        trainer.save_checkpoint(tmp_path / f"{name}-weights.ckpt", weights_only=True)
        trainer.test(net, other_data(), verbose=False)
        found = saved(tmp_path / f"{name}.ckpt")
        close(of_state(found["state_dict"]), ema(net.trail, DECAY))
        assert torch.equal(of_state(found[KEY]["live"]), net.trail[-1])
        close(of_state(saved(tmp_path / f"{name}-weights.ckpt")["state_dict"]), ema(net.trail, DECAY))


@pytest.mark.parametrize("keep", ["average", "live"])
def test_after_a_file_was_tested_the_state_dict_is_that_of_the_file(tmp_path: Path, keep: Any) -> None:
    net = Net()
    trainer = fit(net, EMA(DECAY, keep=keep), each_epoch(tmp_path))
    during: list[Tensor] = []
    net.on_test_end = lambda: during.append(of_state(net.state_dict()))  # type: ignore[method-assign]
    trainer.test(net, other_data(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True, verbose=False)
    file = of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"])
    assert torch.equal(net.saw[-1][1], file)
    assert torch.equal(during[0], file)
    assert torch.equal(vector(net), file)
    assert torch.equal(of_state(net.state_dict()), file)


# ---------------------------------------------------------------------- evaluations after fit


@pytest.mark.parametrize("keep", ["average", "live"])
@pytest.mark.parametrize("fresh", ["nothing", "trainer", "trainer and callback"])
def test_evaluations_after_fit_see_the_average(tmp_path: Path, keep: Any, fresh: str) -> None:
    net, callback = Net(), EMA(DECAY, keep=keep)
    trainer = fit(net, callback, each_epoch(tmp_path))
    held = vector(net)
    average = ema(net.trail, DECAY)
    close(held, average if keep == "average" else net.trail[-1])
    if fresh == "trainer":
        trainer = make_trainer(callback)
    elif fresh == "trainer and callback":
        trainer = make_trainer(EMA(DECAY, keep=keep))
    expected = held if fresh == "trainer and callback" else average  # a fresh callback knows nothing of the last fit
    trainer.validate(net, other_data(), verbose=False)
    trainer.test(net, other_data(), verbose=False)
    trainer.predict(net, other_data())
    for _, weights in net.saw[-3:]:
        close(weights, expected)
    assert torch.equal(vector(net), held)

    file = of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"])
    for evaluate in (trainer.validate, trainer.test, trainer.predict):
        quiet = {} if evaluate == trainer.predict else {"verbose": False}
        evaluate(net, other_data(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True, **quiet)
        assert torch.equal(net.saw[-1][1], file)


def test_a_fresh_module_can_be_tested_with_the_same_callbacks(tmp_path: Path) -> None:
    callback = EMA(DECAY)
    trainer = fit(Net(), callback, each_epoch(tmp_path))
    net = Net()
    initial = vector(net)
    trainer.test(net, other_data(), verbose=False)
    assert torch.equal(net.saw[-1][1], initial)
    trainer.test(net, other_data(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True, verbose=False)
    assert torch.equal(net.saw[-1][1], of_state(saved(tmp_path / "epoch=1.ckpt")["state_dict"]))


def test_load_from_checkpoint_gives_the_average(tmp_path: Path) -> None:
    net = Net()
    fit(net, EMA(DECAY), each_epoch(tmp_path))
    again = Net.load_from_checkpoint(tmp_path / "epoch=1.ckpt", weights_only=True)
    assert torch.equal(vector(again), vector(net))


def test_a_test_of_a_file_between_two_fits_leaves_no_trace(tmp_path: Path) -> None:
    for keep in ("average", "live"):
        net, callback = Net(), EMA(DECAY, keep=keep)  # type: ignore[arg-type]
        trainer = fit(net, callback, each_epoch(tmp_path))
        before = everything(callback.averaged["ema"])
        for _ in range(2):
            trainer.test(net, other_data(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True, verbose=False)
        trainer.fit_loop.max_epochs = 3
        begin = At("on_train_start", lambda trainer, module: found.extend(everything(callback.averaged["ema"])))  # noqa: B023
        found: list[Tensor] = []
        trainer.callbacks.append(begin)  # type: ignore[attr-defined]
        trainer.fit(net, data(), other_data())
        assert equal(found, before)
        assert torch.equal(net.trail[-1], straight(max_epochs=3)[-1])


USES = [{"keep": "average"}, {"keep": "live"}, {"evaluated": False}]


@pytest.mark.parametrize("use", USES, ids=str)
def test_what_was_loaded_for_a_test_stays_until_training_goes_on(tmp_path: Path, use: dict[str, Any]) -> None:
    """A test without a file is one of what the module holds; the live weights are safe all the while."""
    net, callback = Net(), EMA(DECAY, **use)
    trainer = fit(net, callback, each_epoch(tmp_path))
    trainer.test(net, other_data(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True, verbose=False)
    file = vector(net)
    assert torch.equal(file, of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"]))
    trainer.test(net, other_data(), verbose=False)
    assert torch.equal(net.saw[-1][1], file)
    assert torch.equal(vector(net), file)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, data(), other_data())
    assert torch.equal(net.trail[-1], straight(max_epochs=3)[-1])


# ---------------------------------------------------------------------- further fits


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_second_fit_from_a_file_is_that_of_the_file(tmp_path: Path, keep: Any) -> None:
    net, callback = Net(), EMA(DECAY, keep=keep)
    fit(net, callback, each_epoch(tmp_path))
    expected, held = everything(callback.averaged["ema"]), vector(net)
    fit(net, callback, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert equal(net.trail[2 * STEPS :], net.trail[STEPS : 2 * STEPS])
    assert equal(everything(callback.averaged["ema"]), expected)
    assert torch.equal(vector(net), held)


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_second_fit_goes_on_with_a_fresh_trainer_too(keep: Any, tmp_path: Path) -> None:
    net, callback = Net(), EMA(DECAY, keep=keep)
    fit(net, callback, max_epochs=1)
    fit(net, callback, each_epoch(tmp_path), max_epochs=1)
    assert equal(net.trail, straight(max_epochs=2))
    close(average_of(callback.averaged["ema"]), ema(net.trail, DECAY))
    found = saved(tmp_path / "epoch=0.ckpt")
    assert torch.equal(of_state(found["state_dict"]), average_of(callback.averaged["ema"]))
    assert torch.equal(of_state(found[KEY]["live"]), net.trail[-1])


def test_after_a_release_the_module_is_what_it_holds(tmp_path: Path) -> None:
    net, callback = Net(), EMA(DECAY)
    fit(net, callback)
    held = vector(net)
    callback.release()
    assert callback.averaged == {}
    assert torch.equal(vector(net), held)
    trainer = fit(net, callback, max_epochs=1)
    close(vector(net), ema(net.trail[-STEPS:], DECAY))
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    assert saved(tmp_path / "again.ckpt")[KEY]["averages"]["ema"]["count"]["steps"] == STEPS


@pytest.mark.parametrize("use", USES, ids=str)
def test_other_weights_that_were_loaded_between_two_fits_are_taken(
    use: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    net, callback = Net(), EMA(DECAY, **use)
    fit(net, callback)
    net.load_state_dict(Net().state_dict())
    net.trail.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, callback)
    assert "the module was given other weights since the last fit" in caplog.text
    assert equal(net.trail, straight())
    close(average_of(callback.averaged["ema"]), ema(net.trail, DECAY))


def test_a_later_fit_without_the_callback_is_not_served_the_old_average(tmp_path: Path) -> None:
    net = Net()
    fit(net, EMA(DECAY, keep="live"))
    net.trail.clear()
    fit(net, each_epoch(tmp_path))
    assert torch.equal(of_state(saved(tmp_path / "epoch=1.ckpt")["state_dict"]), net.trail[-1])
    assert torch.equal(of_state(net.state_dict()), net.trail[-1])


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_later_fit_with_another_callback_has_its_own_average(tmp_path: Path, keep: Any) -> None:
    net = Net()
    fit(net, EMA(DECAY, keep=keep))
    net.trail.clear()
    fit(net, EMA(0.5, start=15), each_epoch(tmp_path))
    assert torch.equal(of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"]), net.trail[9])
    close(of_state(saved(tmp_path / "epoch=1.ckpt")["state_dict"]), ema(net.trail[14:], 0.5))


def test_the_same_callback_with_another_module() -> None:
    callback, first, second = EMA(DECAY), Net(), Net()
    fit(first, callback)
    held = vector(first)
    fit(second, callback, max_epochs=1)
    assert torch.equal(vector(first), held)
    close(vector(second), ema(second.trail, DECAY))
    assert callback.averaged["ema"].count.steps == STEPS


def test_a_search_for_a_learning_rate_before_leaves_no_trace(tmp_path: Path) -> None:
    net, callback = Net(), EMA(DECAY)
    trainer = make_trainer(callback, folder=tmp_path)
    found = Tuner(trainer).lr_find(net, data(), num_training=8, update_attr=False)
    assert found is not None
    assert len(found.results["lr"]) > 3
    net.trail.clear()
    net.saw.clear()
    trainer.fit(net, data(), other_data())
    assert equal(net.trail, straight())
    close(vector(net), ema(net.trail, DECAY))
    assert callback.averaged["ema"].count.steps == 20


def test_a_search_for_a_learning_rate_after_a_fit_leaves_no_trace(tmp_path: Path) -> None:
    net, callback = Net(), EMA(DECAY)
    trainer = fit(net, callback, folder=tmp_path, max_epochs=1)
    before, held = everything(callback.averaged["ema"]), vector(net)
    Tuner(trainer).lr_find(net, data(), num_training=8, update_attr=False)
    assert torch.equal(vector(net), held)
    assert equal(everything(callback.averaged["ema"]), before)


def test_a_search_for_a_batch_size_leaves_no_trace(tmp_path: Path) -> None:
    class Sized(Net):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 2

        def train_dataloader(self) -> Any:
            return data(batch_size=self.batch_size)

        def val_dataloader(self) -> Any:
            return other_data()

    net, callback = Sized(), EMA(DECAY)
    trainer = make_trainer(callback, folder=tmp_path, max_epochs=1)
    Tuner(trainer).scale_batch_size(net, steps_per_trial=2, max_trials=1, mode="power")
    net.trail.clear()
    initial = vector(Net())
    begin: list[Tensor] = []
    trainer.callbacks.append(At("on_train_start", lambda trainer, module: begin.append(vector(module))))  # type: ignore[attr-defined]
    trainer.fit(net)
    assert torch.equal(begin[0], initial)
    close(vector(net), ema(net.trail, DECAY))
    assert callback.averaged["ema"].count.steps == len(net.trail)


# ---------------------------------------------------------------------- copies of a module


@pytest.mark.parametrize("keep", ["average", "live"])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_the_module_is_a_module_of_its_own(keep: Any, copied: Callable[[Any], Any]) -> None:
    net, callback = Net(), EMA(DECAY, keep=keep)
    fit(net, callback)
    other = copied(net)
    assert torch.equal(vector(other), vector(net))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
    assert (of_state(other.state_dict()) == 7.0).all()
    close(average_of(callback.averaged["ema"]), ema(net.trail, DECAY))
    fit(other, EMA(0.5))
    close(vector(other), ema(other.trail[-20:], 0.5))


def test_a_tied_weight_is_averaged_once_and_saved_under_both_names(tmp_path: Path) -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.layers[0]

    net, callback = Tied(), EMA(DECAY, keep="live")
    fit(net, callback, each_epoch(tmp_path))
    assert len(callback.averaged["ema"].names) == 4
    found = saved(tmp_path / "epoch=1.ckpt")["state_dict"]
    close(of_state(found), ema(net.trail, DECAY))
    assert torch.equal(found["again.weight"], found["layers.0.weight"])
    assert torch.equal(net.again.weight, net.trail[-1][:24].view(6, 4))  # type: ignore[arg-type]


def test_the_state_dict_of_what_the_module_is_a_part_of() -> None:
    net = Net()
    fit(net, EMA(DECAY, keep="live"))
    inner = {name.removeprefix("0."): value for name, value in nn.Sequential(net).state_dict().items()}
    close(of_state(inner), ema(net.trail, DECAY))


def test_callbacks_can_be_copied_before_they_are_used() -> None:
    net = Net()
    fit(net, copy.deepcopy(EMA(DECAY)))
    close(vector(net), ema(net.trail, DECAY))


# ---------------------------------------------------------------------- several averages


def test_three_averages_at_once(tmp_path: Path) -> None:
    fast = EMA(0.5, name="fast", evaluated=False)
    tail, power = SWA(start="50%", every=1), PowerEMA(0.1, evaluated=False)
    tail = SWA(start="50%", every=1, evaluated=True)
    net = Net()
    fit(net, fast, tail, power, each_epoch(tmp_path))
    assert {*fast.averaged} == {*tail.averaged} == {"fast", "swa", "power_ema"}
    close(vector(net), mean(net.trail[9:]))
    close(average_of(fast.averaged["fast"]), ema(net.trail, 0.5))
    found = saved(tmp_path / "epoch=1.ckpt")
    assert found[KEY]["state_dict"] == ["swa"]
    close(of_state(found[KEY]["values"]["fast"]), ema(net.trail, 0.5))


def test_without_one_that_is_evaluated_the_trained_weights_are(tmp_path: Path) -> None:
    callback, net = EMA(DECAY, evaluated=False), Net()
    trainer = fit(net, callback, each_epoch(tmp_path))
    assert torch.equal(net.saw[-1][1], net.trail[-1])
    assert torch.equal(vector(net), net.trail[-1])
    found = saved(tmp_path / "epoch=1.ckpt")
    assert torch.equal(of_state(found["state_dict"]), net.trail[-1])
    close(of_state(found[KEY]["values"]["ema"]), ema(net.trail, DECAY))
    trainer.test(net, other_data(), verbose=False)
    assert torch.equal(net.saw[-1][1], net.trail[-1])


def test_both_sets_are_validated_on_request() -> None:
    net = Net()
    trainer = fit(net, EMA(DECAY, evaluate_live=True))
    assert {"val_loss", "val_loss_live"} <= {*trainer.callback_metrics}
    live = Net()
    only = fit(live)
    assert torch.equal(trainer.callback_metrics["val_loss_live"], only.callback_metrics["val_loss"])
    assert equal(net.trail, live.trail)
    with_average = Net()
    both = fit(with_average, EMA(DECAY))
    assert torch.equal(trainer.callback_metrics["val_loss"], both.callback_metrics["val_loss"])


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("callbacks", "match"),
    [
        (
            [EMA(0.9), EMA(0.5)],
            r"Trainer\.callbacks: two averages have the same name; got 'ema'; give one of them another",
        ),
        ([EMA(0.9), SWA(name="ema")], r"two averages have the same name; got 'ema'"),
        ([EMA(0.9), SWA()], r"only one of the averages can be evaluated.*got ema, swa; say evaluated: true for one"),
        ([EMA(0.9), EMAWeightAveraging(decay=0.9)], r"got EMAWeightAveraging; drop one of the two"),
        ([EMA(0.9, only="layer.*")], r"EMA\('ema'\)\.only: matches no parameter or buffer; got 'layer\.\*'"),
        ([EMA(0.9, leave_out="*")], r"EMA\('ema'\): there is nothing to average"),
        ([SWA()], r"SWA\('swa'\)\.start: needs the length of the run; got neither max_epochs nor max_steps"),
    ],
    ids=["twice", "one name", "both evaluated", "Lightning's own", "no match", "nothing left", "no end"],
)
def test_what_cannot_be_is_said_before_training(callbacks: list[Callback], match: str) -> None:
    net = Net()
    initial = vector(net)
    with pytest.raises(SolverError, match=match):
        fit(net, *copy.deepcopy(callbacks), **({"max_epochs": -1, "max_steps": -1} if len(callbacks) < 2 else {}))
    assert net.trail == []
    assert torch.equal(vector(net), initial)


def test_beside_an_optimiser_that_averages_itself() -> None:
    class Free(Net):
        def configure_optimizers(self) -> Any:
            return schedulefree.SGDScheduleFree(self.parameters(), lr=self.lr)

    with pytest.raises(SolverError, match="SGDScheduleFree averages the weights itself"):
        fit(Free(), EMA(DECAY))


def test_statistics_that_cannot_be_estimated_are_refused_before_training() -> None:
    class Headless(LightningModule):
        configure_optimizers = Net.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.layers, self.lr, self.steps = Net(batch_norm=True).layers, 0.1, 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.steps += 1
            return (self.layers(batch[0]) - batch[1]).square().mean()

    net = Headless()
    with pytest.raises(SolverError, match="update_bn: "):
        fit(net, EMA(DECAY, update_bn=True), val=None)
    assert net.steps == 0


# ---------------------------------------------------------------------- frozen at first


class Unfreezes(BaseFinetuning):
    """Trains the first layer from the second epoch on."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.layers[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.layers[0], optimizer, lr=pl_module.lr)


class Finetuned(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], self.lr)


class UnfreezesItself(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers[0].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.layers[0].requires_grad_(self.current_epoch >= 1)


@pytest.mark.parametrize("how", ["callback before", "callback after", "module"])
def test_what_is_unfrozen_in_mid_run_is_averaged_from_then_on(how: str) -> None:
    net, callback = UnfreezesItself() if how == "module" else Finetuned(), EMA(DECAY)
    own = {"callback before": [Unfreezes(), callback], "callback after": [callback, Unfreezes()]}.get(how, [callback])
    initial = vector(net)
    fit(net, *own, max_epochs=3)
    first = 30  # weight and bias of the first layer: 4 * 6 + 6
    assert torch.equal(net.trail[STEPS - 1][:first], initial[:first])
    assert far(net.trail[-1][:first], initial[:first])
    close(vector(net), ema(net.trail, DECAY))


def test_what_is_unfrozen_while_another_optimiser_has_its_turn() -> None:
    """In a turn the parameters of the other optimisers require no gradient, and yet their average is not of nothing."""

    class Toggling(Manual):
        def __init__(self) -> None:
            super().__init__((1, 1))
            self.layers[0].bias.requires_grad_(False)  # type: ignore[union-attr, operator]

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.layers[0].bias.requires_grad_(len(self.trail) >= 5)  # type: ignore[union-attr, operator]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()
                self.untoggle_optimizer(optimizer)

    net = Toggling()
    body, head = EMA(DECAY, only="layers.0.*"), EMA(DECAY, only="layers.3.*", evaluated=False, name="head")
    fit(net, body, head)
    assert {*body.averaged["ema"].names} == {"layers.0.weight", "layers.0.bias"}
    close(vector(net)[:30], ema(net.trail, DECAY)[:30])
    close(average_of(body.averaged["head"]), ema(net.trail, DECAY)[30:])


def test_a_run_in_which_something_was_unfrozen_is_resumed_bitwise(tmp_path: Path) -> None:
    whole, again = EMA(DECAY), EMA(DECAY)
    fit(UnfreezesItself(), whole, each_epoch(tmp_path), max_epochs=4)
    fit(UnfreezesItself(), again, ckpt_path=tmp_path / "epoch=1.ckpt", max_epochs=4)
    assert equal(everything(again.averaged["ema"]), everything(whole.averaged["ema"]))


# ---------------------------------------------------------------------- half precision, compiled modules


def test_an_average_in_float32_of_weights_in_half_precision(tmp_path: Path) -> None:
    net, callback = Net(), EMA(0.95)
    trainer = fit(net, callback, each_epoch(tmp_path), precision="bf16-true")
    averaged = callback.averaged["ema"]
    assert {value.dtype for value in averaged.values} == {torch.float32}
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}
    close(average_of(averaged), ema(net.trail, 0.95))
    assert torch.equal(vector(net), average_of(averaged).bfloat16().float())
    assert torch.equal(net.saw[-1][1], vector(net))
    assert torch.equal(live_of(averaged), net.trail[-1])
    found = saved(tmp_path / "epoch=1.ckpt")
    assert torch.equal(of_state(found[KEY]["values"]["ema"]), average_of(averaged))
    assert found["state_dict"]["layers.0.weight"].dtype == torch.bfloat16
    trainer.test(net, other_data(), verbose=False)
    assert torch.equal(net.saw[-1][1], vector(net))


def test_a_compiled_module(tmp_path: Path) -> None:
    net, plain = Net(), Net()
    trainer = fit(torch.compile(net, backend="eager"), EMA(DECAY), each_epoch(tmp_path))
    fit(plain, EMA(DECAY))
    close(vector(net), vector(plain))
    for (_, here), (_, there) in zip(net.saw, plain.saw):
        close(here, there)
    assert {*saved(tmp_path / "epoch=1.ckpt")["state_dict"]} == {*plain.state_dict()}
    first = trainer.test(net, other_data(), verbose=False)[0]["test_loss"]
    assert first == pytest.approx(make_trainer().test(plain, other_data(), verbose=False)[0]["test_loss"])


# ---------------------------------------------------------------------- resuming

RESUMED: dict[str, list[Callback]] = {
    "EMA": [EMA(DECAY)],
    "EMA from the start": [EMA(DECAY, start=0)],
    "pace": [EMA(DECAY, start=4, every=3)],
    "per update": [EMA(DECAY, start=4, every=3, decay_per="update")],
    "half-life and warm-up": [EMA(half_life="1/3ep", warmup=PowerWarmup(), every="2.5")],
    "late": [EMA(DECAY, start=18)],
    "blend": [EMA(DECAY, start=5, first="blend", before="hold")],
    "every": [EMA(DECAY, start=8, every=4, before="every", first="blend")],
    "until": [EMA(DECAY, until=9)],
    "SWA": [SWA()],
    "tail": [SWA(start="40%", every=1)],
    "PowerEMA": [PowerEMA(0.1)],
    "some of it": [EMA(DECAY, leave_out="layers.0.*", buffers="copy")],
    "kept live": [EMA(DECAY, keep="live")],
    "in float32": [EMA(DECAY, dtype="float32")],
    "on the CPU": [EMA(DECAY, device="cpu")],
    "statistics": [EMA(DECAY, update_bn=UpdateBN(batches=2))],
    "not evaluated": [EMA(DECAY, evaluated=False)],
    "several": [EMA(DECAY), SWA(start="40%", evaluated=False), EMA(0.5, name="b", every=2, evaluated=False)],
}


class Saves(Callback):
    """Writes files in mid-epoch; listed last, as Lightning does it with its own."""

    def __init__(self, folder: Path, *steps: int) -> None:
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_straight_one_bit_by_bit(name: str, tmp_path: Path) -> None:
    """From files of mid-epoch, of the end of an epoch, of the end of the run, and of after it."""

    def run(folder: Path, ckpt: Path | None = None) -> tuple[Net, Any]:
        callbacks: list[Any] = copy.deepcopy(RESUMED[name])
        net = Net(batch_norm=True)
        keep = Saves(folder, 3, 17), each_epoch(folder)
        trainer = fit(net, *callbacks, *keep, ckpt_path=ckpt, train=data(stateful=True))
        trainer.save_checkpoint(folder / "after.ckpt")
        return net, callbacks[0].averaged

    net, whole = run(tmp_path / "a")
    for file, step in {"step=3": 3, "epoch=0": 10, "step=17": 17, "epoch=1": 20, "after": 20}.items():
        if (name, file) == ("statistics", "epoch=1"):
            continue  # saved before they were estimated; the run that is resumed has no training data to do it with
        again, averages = run(tmp_path / file, tmp_path / f"a/{file}.ckpt")
        assert equal(again.trail, net.trail[step:]), file
        assert {*averages} == {*whole}
        for which, averaged in averages.items():
            assert averaged.count == whole[which].count
            assert equal(everything(averaged), everything(whole[which])), (which, file)
        assert all(torch.equal(net.state_dict()[key], value) for key, value in again.state_dict().items()), file
        assert torch.equal(vector(again), vector(net)), file
        theirs, ours = saved(tmp_path / "a/after.ckpt"), saved(tmp_path / file / "after.ckpt")
        assert str(theirs[KEY]) == str(ours[KEY])
        assert str(theirs["state_dict"]) == str(ours["state_dict"])


def test_half_precision_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    def run(folder: Path, ckpt: Path | None = None) -> Any:
        callback, keep = EMA(0.95), ModelCheckpoint(folder, every_n_train_steps=7, save_top_k=-1, filename="{step}")
        fit(Net(), callback, keep, ckpt_path=ckpt, train=data(stateful=True), precision="bf16-true")
        return callback.averaged["ema"]

    whole = run(tmp_path / "a")
    assert equal(everything(run(tmp_path / "b", tmp_path / "a/step=7.ckpt")), everything(whole))


def test_a_run_that_was_extended_goes_on(tmp_path: Path) -> None:
    whole, again = EMA(DECAY), EMA(DECAY)
    fit(Net(), EMA(DECAY), each_epoch(tmp_path), max_epochs=2)
    fit(Net(), whole, max_epochs=3)
    fit(Net(), again, ckpt_path=tmp_path / "epoch=1.ckpt", max_epochs=3)
    assert equal(everything(again.averaged["ema"]), everything(whole.averaged["ema"]))


def test_a_file_without_averages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The average begins with the weights of the file, and counts the steps that were made."""
    fit(Net(), each_epoch(tmp_path), max_epochs=1)
    net, callback = Net(), EMA(DECAY)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, callback, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert "the checkpoint does not have ema: averages the weights from here on" in caplog.text
    assert equal(net.trail, straight()[STEPS:])
    start = of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"])
    close(vector(net), ema([start, *net.trail], DECAY))
    assert callback.averaged["ema"].count.steps == 20


def test_an_average_that_is_not_there_any_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow = EMA(0.9, name="slow", evaluated=False)
    fit(Net(), EMA(DECAY), slow, each_epoch(tmp_path), max_epochs=1)
    net, callback = Net(), EMA(DECAY)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, callback, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert "the checkpoint has averages that are not there any more, and are dropped: slow" in caplog.text
    assert equal(net.trail, straight()[STEPS:])

    # the one that was evaluated: its state_dict is not what training goes on from
    net, slow = Net(), EMA(0.9, name="slow", evaluated=False)
    fit(net, slow, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert equal(net.trail, straight()[STEPS:])
    whole = EMA(0.9, name="slow")
    fit(Net(), whole)
    assert equal(everything(slow.averaged["slow"]), everything(whole.averaged["slow"]))


@pytest.mark.filterwarnings("default:Be aware that when using `ckpt_path`:UserWarning")
def test_a_run_that_lacks_the_callback_is_told(tmp_path: Path) -> None:
    """Without any callback of ours nobody can bring the live weights back; Lightning says what is missing."""
    fit(Net(), EMA(DECAY), each_epoch(tmp_path), max_epochs=1)
    with pytest.warns(UserWarning, match=r"EMA\{'name': 'ema'\}"):
        fit(Net(), ckpt_path=tmp_path / "epoch=0.ckpt")


def test_another_decay_goes_on_from_the_same_average(tmp_path: Path) -> None:
    fit(Net(), EMA(DECAY), each_epoch(tmp_path), max_epochs=1)
    net = Net()
    fit(net, EMA(0.5), ckpt_path=tmp_path / "epoch=0.ckpt")
    start = of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"])
    close(vector(net), ema([start, *net.trail], 0.5))


def test_an_average_that_does_not_fit_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    fit(Net(), EMA(DECAY, evaluated=False, only="layers.0.*"), each_epoch(tmp_path), max_epochs=1)
    net = Net()
    what = r"layers\.3\.weight: the saved average lacks a tensor that is averaged now"
    with pytest.raises(SolverError, match=what):
        fit(net, EMA(DECAY, evaluated=False), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert net.trail == []


# ---------------------------------------------------------------------- YAML


class FromYaml(Net):
    def train_dataloader(self) -> Any:
        return data()

    def val_dataloader(self) -> Any:
        return other_data()

    test_dataloader = val_dataloader


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_callbacks_in_the_yaml_of_lightning_cli(tmp_path: Path) -> None:
    callbacks = [
        {
            "class_path": "lightning_solver.callbacks.EMA",
            "init_args": {"decay": 0.8, "start": "1/2ep", "leave_out": ["layers.3.*"], "name": "slow", "every": 2},
        },
        {
            "class_path": "lightning_solver.callbacks.SWA",
            "init_args": {"start": "50%", "every": 1, "evaluated": False, "update_bn": {"batches": 3}},
        },
        {
            "class_path": "lightning_solver.callbacks.EMA",
            "init_args": {
                "half_life": "2ep",
                "evaluated": False,
                "warmup": {"class_path": "lightning_solver.averaging.PowerWarmup", "init_args": {"gamma": 2.0}},
            },
        },
    ]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    config = {
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "logger": False, "callbacks": callbacks, **quiet},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    cli = LightningCLI(FromYaml, args=["fit", "--config", str(path)], save_config_callback=None)
    slow, tail, warm = (c for c in cli.trainer.callbacks if isinstance(c, (EMA, SWA)))  # type: ignore[attr-defined]
    assert slow.average == EMA(0.8, start="1/2ep", leave_out=["layers.3.*"], every=2).average
    assert tail.average.update_bn == UpdateBN(batches=3)
    assert warm.average == EMA(half_life="2ep", evaluated=False, warmup=PowerWarmup(gamma=2.0)).average
    net = cli.model
    close(vector(net)[:30], ema([point[:30] for point in net.trail[4::2]], 0.8**2))
    close(average_of(tail.averaged["swa"]), mean(net.trail[9:]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_misspelt_argument_in_yaml_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"class_path": "lightning_solver.callbacks.EMA", "init_args": {"decay": 0.8, "evry": 2}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [entry], "logger": False}}))
    with pytest.raises(SystemExit):
        LightningCLI(FromYaml, args=["fit", "--config", str(path)], save_config_callback=None)
    assert "evry" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_decay_that_makes_no_sense_in_yaml_is_refused(tmp_path: Path) -> None:
    entry = {"class_path": "lightning_solver.callbacks.EMA", "init_args": {"decay": 1.5}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [entry], "logger": False}}))
    with pytest.raises(ValueError, match=r"EMA\.decay: must be from 0 to 1; got 1\.5"):
        LightningCLI(FromYaml, args=["fit", "--config", str(path)], save_config_callback=None)
