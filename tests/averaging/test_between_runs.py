"""What happens to averages and live weights between one run and the next, whoever has been at the module meanwhile."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
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
    straight,
    vector,
)
from lightning_solver.averaging.averaged import Averaged
from lightning_solver.averaging.weight_sets import KEY
from lightning_solver.callbacks import EMA, SWA

pytestmark = [
    # Lightning's advice about what these tests do on purpose
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning"),
]

DECAY = 0.8


class Fetching(Net):
    """Has data of its own, in batches of a size that can be searched for."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 4

    def train_dataloader(self) -> Any:
        return data(batch_size=self.batch_size)

    def val_dataloader(self) -> Any:
        return other_data()


class Counting(Net):
    """Gives itself another tensor in the place of a buffer at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps_seen", torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps_seen = self.steps_seen + 1
        return super().training_step(batch, batch_idx)


class Adversaries(Net):
    """Two optimisers that step in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.layers[index].parameters(), 0.1) for index in (0, 3)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


def saved(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def the(callback: Any) -> Averaged:
    """The one average of a callback."""
    (found,) = callback.averaged.values()
    return found  # type: ignore[no-any-return]


def first_epoch(folder: Path, net: Net | None = None, *callbacks: Any, **kwargs: Any) -> tuple[Path, list[Tensor]]:
    """The file of a run after its first epoch; and its averages and live weights then."""
    callbacks = callbacks or (EMA(DECAY),)
    trainer = fit(net or Net(), *callbacks, **{"max_epochs": 1, "folder": folder, **kwargs})
    trainer.save_checkpoint(folder / "first.ckpt")
    return folder / "first.ckpt", everything(the(callbacks[0]))


def finder(cls: type[LearningRateFinder] = LearningRateFinder) -> LearningRateFinder:
    return cls(num_training_steps=4, early_stop_threshold=None, update_attr=False)


def notes(into: list[Any], what: Callable[[], Any]) -> At:
    """Note something when training starts."""
    return At("on_train_start", lambda trainer, module: into.append(what()))


# ---------------------------------------------------------------------- a file that was loaded


def test_a_resume_that_fails_leaves_nothing_for_the_next_fit(tmp_path: Path) -> None:
    class Failing(Net):
        def configure_optimizers(self) -> Any:
            raise Oops("on purpose")

    path, _ = first_epoch(tmp_path)
    callback, alone, net = EMA(DECAY), Net(), Net()
    with pytest.raises(Oops):
        fit(Failing(), callback, ckpt_path=path)
    for each in (alone, net):
        nn.init.constant_(each.layers[0].weight, 0.5)
    fit(alone)
    fit(net, callback)
    assert equal(net.trail, alone.trail)
    assert the(callback).count.steps == 2 * STEPS
    close(vector(net), ema(net.trail, DECAY))


@pytest.mark.parametrize("search", [finder, lambda: BatchSizeFinder(max_trials=1, steps_per_trial=1)])
def test_a_search_beside_a_resume_does_not_cost_the_live_weights(search: Callable[[], Any], tmp_path: Path) -> None:
    path, before = first_epoch(tmp_path, Fetching())
    callback, begun = EMA(DECAY), []
    look = notes(begun, lambda: (everything(the(callback)), the(callback).count.steps))
    trainer = make_trainer(callback, search(), look, folder=tmp_path)
    net = Fetching()
    trainer.fit(net, ckpt_path=path, weights_only=True)
    held, steps = begun[-1]
    assert equal(held, before)
    assert steps == STEPS
    assert far(live_of(the(callback)), average_of(the(callback)))


def test_a_search_in_mid_run_goes_back_to_both_sets(tmp_path: Path) -> None:
    seen: list[Any] = []
    callback, net = EMA(DECAY), Net()

    class InMidRun(LearningRateFinder):
        def on_fit_start(self, *args: Any) -> None:
            pass

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                seen.append((everything(the(callback)), the(callback).count.steps, vector(pl_module)))
                self.lr_find(trainer, pl_module)
                net.trail[STEPS:] = []
                seen.append((everything(the(callback)), the(callback).count.steps, vector(pl_module)))

    fit(net, callback, finder(InMidRun), folder=tmp_path, val=None)
    (before, steps, held), (after, steps_after, held_after) = seen
    assert equal(before, after)
    assert steps == steps_after == STEPS
    assert torch.equal(held, held_after)
    assert torch.equal(held, net.trail[STEPS - 1])
    assert far(held, average_of(the(callback)))


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_search_by_another_trainer_between_two_fits_leaves_no_trace(keep: Any, tmp_path: Path) -> None:
    net, callback = Net(), EMA(DECAY, keep=keep)
    fit(net, callback, folder=tmp_path, max_epochs=1)
    before, held, count = everything(the(callback)), vector(net), the(callback).count.steps
    Tuner(make_trainer(callback, folder=tmp_path)).lr_find(net, data(), num_training=8, update_attr=False)
    assert torch.equal(vector(net), held)
    assert equal(everything(the(callback)), before)
    begun: list[Any] = []
    net.trail.clear()
    fit(net, callback, notes(begun, lambda: everything(the(callback))), max_epochs=1)
    assert equal(begun[0], before)
    assert equal(net.trail, straight()[STEPS:])
    assert the(callback).count.steps == count + STEPS
    close(average_of(the(callback)), ema(straight(), DECAY))


# ---------------------------------------------------------------------- what somebody has written


def fill_data(net: Net) -> None:
    for parameter in net.parameters():
        parameter.data.fill_(0.25)


def set_data(net: Net) -> None:
    for parameter in net.parameters():
        parameter.data = torch.full_like(parameter, 0.25)


def from_vector(net: Net) -> None:
    nn.utils.vector_to_parameters(torch.full_like(vector(net), 0.25), net.parameters())


def reinitialise(net: Net) -> None:
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.25)


@pytest.mark.parametrize("write", [fill_data, set_data, from_vector, reinitialise])
@pytest.mark.parametrize("keep", ["average", "live"])
def test_weights_that_were_written_in_any_way_are_what_the_next_fit_begins_with(
    keep: Any, write: Callable[[Net], None], caplog: pytest.LogCaptureFixture
) -> None:
    net, callback, alone = Net(), EMA(DECAY, keep=keep), Net()
    fit(net, callback, max_epochs=1)
    for each in (net, alone):
        write(each)
    net.trail.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, callback, max_epochs=1)
    fit(alone, max_epochs=1)
    assert "the module was given other weights since the last fit" in caplog.text
    assert equal(net.trail, alone.trail)
    close(average_of(the(callback)), ema(net.trail, DECAY))


@pytest.mark.parametrize("keep", ["average", "live"])
@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_further_fit_may_be_in_another_precision(precision: Any, keep: Any) -> None:
    net, alone, callback = Net(), Net(), EMA(DECAY, keep=keep)
    for each, callbacks in ((net, [callback]), (alone, [])):
        fit(each, *callbacks, max_epochs=1)
        each.trail.clear()
        fit(each, *callbacks, max_epochs=1, precision=precision)
    assert {parameter.dtype for parameter in net.parameters()} == {parameter.dtype for parameter in alone.parameters()}
    assert equal(net.trail, alone.trail)
    assert far(average_of(the(callback)), live_of(the(callback)))


def test_a_file_of_what_was_written_after_fit_does_not_bring_the_old_weights_back(tmp_path: Path) -> None:
    net, callback, begun = Net(), EMA(DECAY), []
    trainer = fit(net, callback)
    reinitialise(net)
    trainer.save_checkpoint(tmp_path / "written.ckpt")
    found = saved(tmp_path / "written.ckpt")
    assert torch.equal(of_state(found["state_dict"]), vector(net))
    assert KEY not in found
    resumed, fresh = Net(), EMA(DECAY)
    look = At("on_train_start", lambda trainer, module: begun.append(vector(module)))
    fit(resumed, fresh, look, ckpt_path=tmp_path / "written.ckpt", max_epochs=3)
    assert torch.equal(begun[0], vector(net))
    assert the(fresh).count.steps == 3 * STEPS


@pytest.mark.parametrize("written", [False, True])
def test_the_window_of_a_longer_run_is_reached_whatever_was_written(written: bool) -> None:
    net, callback = Net(), SWA("75%")
    trainer = fit(net, callback)
    if written:
        reinitialise(net)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(net, data(), other_data())
    averaged = the(callback)
    assert averaged.start == 3 * STEPS
    assert averaged.count.steps == 4 * STEPS
    if written:
        assert averaged.count.began == 3 * STEPS
        close(average_of(averaged), mean([net.trail[3 * STEPS - 1], net.trail[-1]]))


# ---------------------------------------------------------------------- other tensors, other optimisers


def test_a_buffer_that_the_module_makes_anew_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    path, _ = first_epoch(tmp_path, Counting())
    resumed, again, whole, callback = Counting(), EMA(DECAY), Counting(), EMA(DECAY)
    fit(resumed, again, ckpt_path=path)
    fit(whole, callback)
    assert equal(resumed.trail, whole.trail[STEPS:])
    assert equal(everything(the(again)), everything(the(callback)))
    live = dict(zip(the(callback).names, the(callback).weights))
    assert live["steps_seen"].item() == 2 * STEPS
    average = dict(zip(the(callback).names, the(callback).values))["steps_seen"]
    close(average, ema(torch.arange(1.0, 2 * STEPS + 1).split(1), DECAY))
    assert saved(path)[KEY]["live"]["steps_seen"].item() == STEPS


def test_a_buffer_that_the_module_makes_anew_does_not_cost_the_live_weights() -> None:
    net, callback = Counting(), EMA(DECAY)
    fit(net, callback, max_epochs=1)
    fit(net, callback, max_epochs=1)
    assert equal(net.trail, straight())
    assert the(callback).count.steps == 2 * STEPS
    close(average_of(the(callback)), ema(net.trail, DECAY))


@pytest.mark.parametrize("start", [3 * STEPS, "75%"])
def test_an_average_that_is_added_beside_two_optimisers_begins_where_it_says(start: int | str, tmp_path: Path) -> None:
    trainer = fit(Adversaries(), val=None)
    trainer.save_checkpoint(tmp_path / "without.ckpt")
    net, callback = Adversaries(), SWA(start, 1)
    fit(net, callback, ckpt_path=tmp_path / "without.ckpt", max_epochs=4, val=None)
    count = the(callback).count
    assert (count.steps, count.began) == (4 * STEPS, 3 * STEPS)
    close(vector(net), mean(net.trail[STEPS - 1 :]))


# ---------------------------------------------------------------------- another callback


@pytest.mark.parametrize("keep", ["average", "live"])
def test_a_new_callback_trains_the_live_weights_of_the_earlier_one(keep: Any) -> None:
    net, later = Net(), EMA(0.5)
    fit(net, EMA(DECAY, keep=keep), max_epochs=1)
    fit(net, later, max_epochs=1)
    assert equal(net.trail, straight())
    close(vector(net), ema(net.trail[STEPS:], 0.5))
    assert torch.equal(live_of(the(later)), net.trail[-1])


def test_a_new_callback_takes_what_was_written_since_the_earlier_one() -> None:
    net, alone = Net(), Net()
    fit(net, EMA(DECAY), max_epochs=1)
    for each in (net, alone):
        fill_data(each)
    net.trail.clear()
    fit(net, EMA(0.5), max_epochs=1)
    fit(alone, max_epochs=1)
    assert equal(net.trail, alone.trail)


def test_averages_of_earlier_callbacks_are_let_go() -> None:
    net, alive = Net(), []
    for _ in range(3):
        callback = EMA(DECAY)
        fit(net, callback, max_epochs=1, val=None)
        alive.append(weakref.ref(the(callback)))
    gc.collect()
    assert [each() is None for each in alive] == [True, True, False]
    assert len(net._state_dict_hooks) == len(net._state_dict_pre_hooks) == 1


# ---------------------------------------------------------------------- another average of the same name


def test_an_average_of_another_kind_begins_anew_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = first_epoch(tmp_path, None, EMA(DECAY, name="a"))
    net, callback = Net(), SWA(STEPS + 5, 1, name="a")
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, callback, ckpt_path=path)
    assert "the average a was of another kind" in caplog.text
    assert equal(net.trail, straight()[STEPS:])
    assert the(callback).count.began == STEPS + 5
    assert the(callback).count.updates == 6
    close(vector(net), mean(net.trail[4:]))


def test_an_average_that_goes_on_is_not_said_to_be_of_no_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, before = first_epoch(tmp_path)
    net, callback = Net(), EMA(0.5, start=1000)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, callback, ckpt_path=path)
    assert "the trained weights are" not in caplog.text
    assert equal(the(callback).values, before[: len(the(callback).values)])
    assert torch.equal(vector(net), average_of(the(callback)))


# ---------------------------------------------------------------------- evaluations after fit


def test_the_live_weights_of_the_end_are_not_tested_beside_a_file_of_an_earlier_epoch(tmp_path: Path) -> None:
    net, callback = Net(), EMA(DECAY, evaluate_live=True)
    trainer = fit(net, callback, ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1))
    (both,) = trainer.test(net, other_data(), verbose=False)
    assert {"test_loss", "test_loss_live"} <= both.keys()
    (early,) = trainer.test(net, other_data(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False, weights_only=True)
    assert "test_loss_live" not in early
    assert early["test_loss"] != both["test_loss"]
    close(net.saw[-1][1], of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"]))


@pytest.mark.parametrize("keep", ["average", "live"])
def test_an_average_that_the_user_puts_in_is_the_one_that_is_tested(keep: Any, tmp_path: Path) -> None:
    fast, slow, net = EMA(0.5, name="fast", keep=keep, evaluated=True), EMA(0.95, name="slow"), Net()
    trainer = fit(net, fast, slow)
    averages, held = fast.averaged, vector(net)
    expected = average_of(averages["slow"])
    with averages["slow"].swapped_in():
        trainer.test(net, other_data(), verbose=False)
    assert torch.equal(net.saw[-1][1], expected)
    assert torch.equal(vector(net), held)
    trainer.test(net, other_data(), verbose=False)
    assert torch.equal(net.saw[-1][1], average_of(averages["fast"]))
    close(of_state(net.state_dict()), average_of(averages["fast"]))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert KEY in saved(tmp_path / "after.ckpt")
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, data(), other_data())
    assert equal(net.trail, straight(max_epochs=3))
    assert averages["slow"].count.steps == 3 * STEPS


# ---------------------------------------------------------------------- processes


@pytest.mark.slow
def test_a_run_in_spawned_processes_gives_the_live_weights_back_where_they_are_to_stay() -> None:
    spawned = Net()
    settings: dict[str, Any] = {"strategy": "ddp_spawn", "devices": 1, "use_distributed_sampler": False}
    fit(spawned, EMA(DECAY, keep="live"), max_epochs=1, val=None, **settings)
    close(vector(spawned), straight(max_epochs=1)[-1])
