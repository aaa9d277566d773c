"""What users struggle with when they average weights: each case fails with Lightning's own callbacks, and not here.

The first half of a test shows what Lightning does, so that it fails when Lightning mends it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

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
from lightning_solver import OptimizerSpec, SolverError, SolverMixin, SolverSpec, averaging
from lightning_solver.averaging import PowerWarmup
from lightning_solver.averaging.weight_sets import KEY
from lightning_solver.callbacks import EMA, SWA

pytestmark = [
    # Lightning's advice about what these tests do on purpose
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

DECAY = 0.8


def best(folder: Path, **kwargs: Any) -> ModelCheckpoint:
    """Keeps the best file by the metric of the validations."""
    return ModelCheckpoint(folder, monitor="val_loss", filename="best", **kwargs)


def saved(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


# ---------------------------------------------------------------------- an average that begins late, or never


def test_an_average_that_never_begins_does_not_cost_the_training(caplog: pytest.LogCaptureFixture) -> None:
    """A start beyond the end of the run: the model got its initial weights back, and the training was lost."""
    theirs = Net()
    initial = vector(theirs)
    fit(theirs, EMAWeightAveraging(decay=DECAY, update_starting_at_step=100))
    assert torch.equal(vector(theirs), initial)

    ours = Net()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(ours, EMA(DECAY, start=100))
    assert torch.equal(vector(ours), straight()[-1])
    assert "begins after step 100, but the run ends after 20: the trained weights are evaluated and kept" in caplog.text


def test_before_an_average_begins_the_trained_weights_are_validated_and_saved(tmp_path: Path) -> None:
    """Until the start, validations and files were of the initial weights."""

    def run(callback: Callback, folder: Path) -> tuple[Tensor, Tensor, Net]:
        net = Net()
        keep = ModelCheckpoint(folder, every_n_train_steps=STEPS // 2, save_top_k=-1, filename="{step}")
        fit(net, callback, keep, val_check_interval=STEPS // 2)
        return net.saw[0][1], of_state(saved(folder / "step=5.ckpt")["state_dict"]), net

    initial = vector(Net())
    validated, stored, _ = run(EMAWeightAveraging(decay=DECAY, update_starting_at_step=12), tmp_path / "theirs")
    assert torch.equal(validated, initial)
    assert torch.equal(stored, initial)

    validated, stored, net = run(EMA(DECAY, start=13), tmp_path / "ours")
    assert torch.equal(validated, net.trail[4])
    assert torch.equal(stored, net.trail[4])
    close(net.saw[-1][1], ema(net.trail[12:], DECAY))


# ---------------------------------------------------------------------- which weights are tested, saved, monitored


def test_the_weights_that_won_the_metric_are_those_that_are_tested(tmp_path: Path) -> None:
    """``test(ckpt_path="best")`` after ``fit`` saw the live weights, where the metric was of the average."""

    def run(callback: Callback, folder: Path) -> tuple[float, float, Tensor, Tensor]:
        net, keep = Net(), best(folder)
        trainer = fit(net, callback, keep)
        assert keep.best_model_score is not None
        found = trainer.test(net, other_data(), ckpt_path="best", verbose=False, weights_only=True)
        return (
            float(keep.best_model_score),
            found[0]["test_loss"],
            net.saw[-1][1],
            of_state(saved(keep.best_model_path)["state_dict"]),
        )

    monitored, tested, weights, stored = run(EMAWeightAveraging(decay=DECAY), tmp_path / "theirs")
    assert abs(tested - monitored) > 1e-3
    assert far(weights, stored)

    monitored, tested, weights, stored = run(EMA(DECAY), tmp_path / "ours")
    assert tested == monitored
    assert torch.equal(weights, stored)


def test_a_file_of_weights_alone_has_those_that_won_the_metric(tmp_path: Path) -> None:
    """``save_weights_only``: the metric was of the average, and the file of the live weights."""

    def run(callback: Callback, folder: Path) -> tuple[Tensor, Net, dict[str, Any]]:
        net, keep = Net(), best(folder, save_weights_only=True, mode="max")  # the first epoch is the worst
        fit(net, callback, keep)
        found = saved(keep.best_model_path)
        return of_state(found["state_dict"]), net, found

    stored, net, _ = run(EMAWeightAveraging(decay=DECAY), tmp_path / "theirs")
    assert torch.equal(stored, net.trail[STEPS - 1])
    assert far(stored, net.saw[0][1])

    stored, net, found = run(EMA(DECAY), tmp_path / "ours")
    assert torch.equal(stored, net.saw[0][1])
    assert far(stored, net.trail[STEPS - 1])
    assert found["state_dict"]._metadata[""]["lightning_solver_average"] == ["ema"]


def test_a_checkpoint_says_which_weights_it_holds(tmp_path: Path) -> None:
    """Nobody can tell from a file whether it is the best by a metric of the average: it has no mark."""
    theirs, ours = best(tmp_path / "theirs", save_weights_only=True), best(tmp_path / "ours")
    fit(Net(), EMAWeightAveraging(decay=DECAY), theirs)
    found = saved(theirs.best_model_path)
    assert not [key for key in found if "averag" in key or key == "current_model_state"]
    assert not [key for key in found["state_dict"]._metadata[""] if "averag" in key]

    fit(Net(), EMA(DECAY), ours)
    found = saved(ours.best_model_path)
    assert found[KEY]["state_dict"] == ["ema"]
    assert found["state_dict"]._metadata[""]["lightning_solver_average"] == ["ema"]


# ---------------------------------------------------------------------- the live weights survive


def resumed(path: Path, callback: Callback, epochs: int) -> Tensor:
    """The weights after the last step of a run that is resumed."""
    net = Net()
    fit(net, callback, ckpt_path=path, max_epochs=epochs)
    return net.trail[-1]


def test_a_file_that_is_saved_after_fit_still_has_the_live_weights(tmp_path: Path) -> None:
    """After ``fit`` both sets in the file were the average, and a resumed run went on from that."""
    last = straight(max_epochs=3)[-1]

    def run(callback: Callback, path: Path) -> dict[str, Any]:
        trainer = fit(Net(), callback)
        trainer.save_checkpoint(path)
        return saved(path)

    path = tmp_path / "theirs.ckpt"
    found = run(EMAWeightAveraging(decay=DECAY), path)
    assert torch.equal(of_state(found["current_model_state"]), of_state(found["state_dict"]))
    assert far(resumed(path, EMAWeightAveraging(decay=DECAY), 3), last)

    path = tmp_path / "ours.ckpt"
    found = run(EMA(DECAY), path)
    assert far(of_state(found[KEY]["live"]), of_state(found["state_dict"]))
    assert torch.equal(resumed(path, EMA(DECAY), 3), last)


def test_an_exception_in_a_validation_does_not_cross_the_two_sets(tmp_path: Path) -> None:
    """The module was left with the average, and the file that was saved on the exception had the two sets crossed."""

    def run(callback: Callback, folder: Path) -> tuple[Net, dict[str, Any]]:
        net = Net()
        keep = ModelCheckpoint(folder, save_on_exception=True, filename="saved")
        with pytest.raises(Oops):
            fit(net, callback, keep, At("on_validation_batch_end", raises()))
        return net, saved(folder / "saved.ckpt")

    net, found = run(EMAWeightAveraging(decay=DECAY), tmp_path / "theirs")
    live, average = net.trail[-1], net.saw[0][1]
    assert far(live, average)
    assert torch.equal(vector(net), average)
    assert torch.equal(of_state(found["state_dict"]), live)
    assert torch.equal(of_state(found["current_model_state"]), average)

    net, found = run(EMA(DECAY), tmp_path / "ours")
    live, average = net.trail[-1], net.saw[0][1]
    assert torch.equal(vector(net), live)
    assert torch.equal(of_state(found["state_dict"]), average)
    assert torch.equal(of_state(found[KEY]["live"]), live)


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_end", "on_validation_end"])
def test_a_file_that_is_saved_in_a_validation_has_the_two_sets_in_their_places(tmp_path: Path, hook: str) -> None:
    """A callback that saved while the two sets were exchanged wrote them crossed; the order of hooks decided."""

    def run(callback: Callback, path: Path) -> tuple[Net, dict[str, Any]]:
        net = Net()
        fit(net, callback, At(hook, lambda trainer, module: trainer.save_checkpoint(path), nth=1), max_epochs=1)
        return net, saved(path)

    net, found = run(EMAWeightAveraging(decay=DECAY), tmp_path / "theirs.ckpt")
    crossed = hook == "on_validation_batch_end"
    assert torch.equal(of_state(found["state_dict"]), net.trail[-1]) == crossed

    net, found = run(EMA(DECAY), tmp_path / "ours.ckpt")
    assert torch.equal(of_state(found["state_dict"]), net.saw[0][1])
    assert torch.equal(of_state(found[KEY]["live"]), net.trail[-1])


def test_the_module_keeps_the_live_weights_where_that_is_wanted() -> None:
    """There was no choice: ``fit`` ended with the average, and the live weights were gone."""
    net, callback = Net(), EMAWeightAveraging(decay=DECAY)
    fit(net, callback)
    assert far(vector(net), net.trail[-1])
    assert callback._average_model is not None
    assert torch.equal(vector(callback._average_model.module), vector(net))

    net, kept = Net(), EMA(DECAY, keep="live")
    fit(net, kept)
    assert torch.equal(vector(net), net.trail[-1])
    close(average_of(kept.averaged["ema"]), ema(net.trail, DECAY))


# ---------------------------------------------------------------------- counters


class ByEpoch(WeightAveraging):
    """As Lightning's documentation has it: once an epoch."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


def test_all_counts_are_in_the_checkpoint(tmp_path: Path) -> None:
    """The epoch of the latest update was not: a file of the end of a validation counted an epoch twice, or forgot it."""
    assert [*ByEpoch().state_dict()] == ["latest_update_step"]

    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}", monitor="val_loss")
    whole = SWA(start="1ep", every="1ep")
    fit(Net(), whole, keep, max_epochs=4)
    count = saved(tmp_path / "epoch=1.ckpt")[KEY]["averages"]["swa"]["count"]
    assert count == {"steps": 20, "began": 10, "updates": 2, "latest": 20}
    again = SWA(start="1ep", every="1ep")
    fit(Net(), again, ckpt_path=tmp_path / "epoch=1.ckpt", max_epochs=4)
    assert again.averaged["swa"].count == whole.averaged["swa"].count
    assert equal(everything(again.averaged["swa"]), everything(whole.averaged["swa"]))


# ---------------------------------------------------------------------- modules that are made late


class MadeLate(Net):
    """Makes its layers when it is told where it will be."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.made = 0
        self.hook = hook
        self.layers = nn.Sequential()

    def make(self) -> None:
        self.made += 1
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Identity(), nn.Tanh(), nn.Linear(6, 1))

    def setup(self, stage: str) -> None:
        if self.hook == "setup":
            self.make()


class Configured(MadeLate):
    def __init__(self) -> None:
        super().__init__("configure_model")

    def configure_model(self) -> None:
        self.make()


def test_layers_that_configure_model_makes_are_averaged_and_made_once() -> None:
    """It was called early, outside of the strategy, and once more later: no shards, and another set of weights."""
    net = Configured()
    with pytest.warns(UserWarning, match="doesn't support sharding"):
        fit(net, EMAWeightAveraging(decay=DECAY))
    assert net.made == 2

    ours, average = Configured(), EMA(DECAY)
    fit(ours, average)
    assert ours.made == 1
    close(vector(ours), ema(ours.trail, DECAY))
    assert len(average.averaged["ema"].names) == 4


def test_layers_that_setup_makes_are_averaged() -> None:
    """The copy of the module was made before its ``setup``: what that made was never averaged, without a word."""
    net = MadeLate("setup")
    fit(net, EMAWeightAveraging(decay=DECAY))
    assert torch.equal(vector(net), net.trail[-1])

    ours = MadeLate("setup")
    fit(ours, EMA(DECAY))
    close(vector(ours), ema(ours.trail, DECAY))


# ---------------------------------------------------------------------- torch.compile


class Compiled(Net):
    """Its layers are compiled, in a module of which torch puts a prefix before the names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.compile(self.layers, backend="aot_eager")  # type: ignore[assignment]


def test_compiled_layers_are_averaged_and_evaluated_under_their_own_names() -> None:
    """Averages that go by names find none behind the prefix that torch puts there, and a graph may keep what it saw.

    Lightning copies, and pairs by order: its average is right here.
    """
    net, plain, average = Compiled(), Net(), EMA(DECAY)
    fit(net, average)
    fit(plain, EMA(DECAY))
    assert [*net.state_dict()] != [*plain.state_dict()]
    assert average.averaged["ema"].names == tuple(name for name, _ in plain.named_parameters())
    assert [stage for stage, _ in net.saw] == ["val", "val"]
    for (_, here), (_, there) in zip(net.saw, plain.saw):
        close(here, there)
    batch = next(iter(other_data()))
    close(net.loss(batch).detach(), plain.loss(batch).detach())


# ---------------------------------------------------------------------- speed and memory


class Operations(TorchDispatchMode):
    """Counts what torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_an_update_is_one_operation_for_all_tensors() -> None:
    """Lightning does several for each tensor."""
    net, ours = Net(), EMA(DECAY)
    theirs = EMAWeightAveraging(decay=DECAY)
    fit(net, ours)
    fit(other := Net(), theirs)
    assert theirs._average_model is not None
    with Operations() as done:
        theirs._average_model.update_parameters(other)
    assert len(done.names) >= 4 * 4

    averaged = ours.averaged["ema"]
    averaged.swap()
    with Operations() as done:
        averaged.update()
    assert [name for name in done.names if name != "detach"] == ["_fused_sgd_"]


def test_nothing_is_copied_to_validate() -> None:
    """Each tensor was copied three times to bring the average in, and three times to take it out."""
    net, theirs = Net(), EMAWeightAveraging(decay=DECAY)
    fit(net, theirs)
    with Operations() as done:
        theirs._swap_models(net)
    assert done.names.count("clone") == 4
    assert done.names.count("copy_") == 8

    ours = EMA(DECAY)
    fit(Net(), ours)
    with Operations() as done:
        ours.averaged["ema"].swap()
    assert not {"clone", "copy_"} & {*done.names}


def test_what_else_a_module_holds_is_not_copied() -> None:
    """The whole LightningModule was copied, with all it holds; what cannot be copied was an error."""
    net = Net()
    net.lock = threading.Lock()
    with pytest.raises(TypeError, match="pickle"):
        fit(net, EMAWeightAveraging(decay=DECAY))

    fit(net, EMA(DECAY))
    close(vector(net), ema(net.trail, DECAY))


# ---------------------------------------------------------------------- the decay


def test_a_decay_is_for_a_step_however_often_the_average_is_updated() -> None:
    """With an update every fifth step, the same decay made an average five times as long."""
    theirs, ours = Net(), Net()
    fit(theirs, EMAWeightAveraging(decay=DECAY, update_every_n_steps=5))
    close(vector(theirs), ema(theirs.trail[::5], DECAY))

    fit(ours, EMA(DECAY, every=5))
    close(vector(ours), ema(ours.trail[::5], DECAY**5))


def test_a_half_life_and_a_warm_up() -> None:
    """There is a constant decay and nothing else."""
    with pytest.raises(TypeError, match="half_life"):
        fit(Net(), EMAWeightAveraging(half_life="1ep"))

    net = Net()
    fit(net, EMA(half_life="1ep", warmup=PowerWarmup()))
    average = net.trail[0].clone()
    for since, point in enumerate(net.trail[1:], start=1):
        average.lerp_(point, max(1 - 2 ** (-1 / STEPS), (1 + since) ** (-2 / 3)))
    close(vector(net), average)


def test_a_half_life_in_samples_is_the_same_length_with_any_accumulation() -> None:
    """A decay for a step is another length in samples as soon as steps take more of them."""
    theirs = Net()
    fit(theirs, EMAWeightAveraging(decay=DECAY), accumulate_grad_batches=5)
    close(vector(theirs), ema(theirs.trail[4::5], DECAY))

    for accumulate in (1, 2, 5):
        net, callback = Net(), EMA(half_life="40sp")
        fit(net, callback, accumulate_grad_batches=accumulate)
        steps = net.trail[accumulate - 1 :: accumulate]
        assert len(steps) == 20 // accumulate
        close(vector(net), ema(steps, 2 ** (-accumulate / 10)))


# ---------------------------------------------------------------------- steps that were none


class SometimesNone(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


class Overflowing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if batch_idx in (2, 3, 7) else loss


def scaled() -> list[Any]:
    return [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))]


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`:UserWarning")
@pytest.mark.parametrize(
    ("kind", "real", "plugins"),
    [
        (SometimesNone, [0, 2, 4, 6, 8], list),
        (Overflowing, [0, 1, 4, 5, 6, 8, 9], scaled),
    ],
    ids=["no loss", "skipped by the loss scaler"],
)
def test_only_real_steps_move_the_average(kind: type[Net], real: list[int], plugins: Callable[[], list[Any]]) -> None:
    """Batches without a loss, and steps that the loss scaler skipped, aged the average."""
    theirs = kind()
    fit(theirs, EMAWeightAveraging(decay=DECAY), max_epochs=1, plugins=plugins())
    close(vector(theirs), ema(theirs.trail, DECAY))

    ours, callback = kind(), EMA(DECAY)
    fit(ours, callback, max_epochs=1, plugins=plugins())
    steps = [ours.trail[index] for index in real]
    close(vector(ours), ema(steps, DECAY))
    assert far(vector(ours), ema(ours.trail, DECAY))
    assert callback.averaged["ema"].count.steps == len(real)


# ---------------------------------------------------------------------- buffers and batch norm


def test_counts_are_copied_and_statistics_averaged() -> None:
    """``num_batches_tracked`` was averaged, and cut off to a whole number at every step."""
    theirs, ours = Net(batch_norm=True), Net(batch_norm=True)
    fit(theirs, EMAWeightAveraging(decay=DECAY))
    assert int(theirs.layers[1].num_batches_tracked) < 20  # type: ignore[arg-type]

    means: list[Tensor] = []
    watch = At("on_train_batch_end", lambda trainer, module: means.append(module.layers[1].running_mean.clone()))
    fit(ours, EMA(DECAY), watch)
    assert int(ours.layers[1].num_batches_tracked) == 20  # type: ignore[arg-type]
    close(ours.layers[1].running_mean, ema(means, DECAY))  # type: ignore[arg-type]

    copied = Net(batch_norm=True)
    fit(copied, EMA(DECAY, buffers="copy"))
    close(copied.layers[1].running_mean, means[-1])  # type: ignore[arg-type]


def test_statistics_are_estimated_anew_without_an_epoch_that_was_not_asked_for() -> None:
    """A further epoch of training was run for them, with the Trainer's numbers changed behind one's back."""

    class Counting(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            modes.append(self.trainer.current_epoch)
            return super().training_step(batch, batch_idx)

    modes: list[int] = []
    fit(Counting(batch_norm=True), StochasticWeightAveraging(0.1, 1), max_epochs=3)
    assert {*modes} == {0, 1, 2, 3}

    modes.clear()
    net = Counting(batch_norm=True)
    trainer = fit(net, SWA(start="1ep", update_bn=True), max_epochs=3)
    assert {*modes} == {0, 1, 2}
    assert trainer.max_epochs == 3
    inputs = torch.cat([batch[0] for batch in data()])
    seen = net.layers[0](inputs).detach()
    close(net.layers[1].running_mean, seen.mean(0))  # type: ignore[arg-type]


# ---------------------------------------------------------------------- SWA


class Scheduled(Net):
    """Its learning rate falls at every step."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 50)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.__dict__.setdefault("rates", []).append(optimizer.param_groups[0]["lr"])


def test_the_learning_rate_is_left_alone() -> None:
    """The schedule was thrown away for another one, which moves once an epoch."""
    expected = [0.1 * (1 - step / 50) for step in range(40)]
    theirs = Scheduled()
    with pytest.warns(UserWarning, match="only supported every epoch"):
        fit(theirs, StochasticWeightAveraging(0.05, 0.5), max_epochs=4)
    assert theirs.rates[:10] == pytest.approx(expected[:10])
    assert theirs.rates[20:] != pytest.approx(expected[20:])

    ours = Scheduled()
    fit(ours, SWA(start="50%", every=1), max_epochs=4)
    assert ours.rates == pytest.approx(expected)
    close(vector(ours), mean(ours.trail[19:]))


class Stopping(Callback):
    """Stops early, as when a metric gets no better."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 2


@pytest.mark.parametrize("early", [Stopping(), EarlyStopping("val_loss", mode="max", patience=2)], ids=["", "metric"])
def test_the_average_is_transferred_when_training_stops_early(early: Callback) -> None:
    """The module kept the live weights of the last epoch."""
    theirs = Net()
    fit(theirs, StochasticWeightAveraging(0.1, 1), early, max_epochs=10)
    assert len(theirs.trail) == 3 * STEPS
    assert torch.equal(vector(theirs), theirs.trail[-1])

    ours = Net()
    early = type(early)() if isinstance(early, Stopping) else EarlyStopping("val_loss", mode="max", patience=2)
    fit(ours, SWA(start="1ep"), early, max_epochs=10)
    assert len(ours.trail) == 3 * STEPS
    close(vector(ours), mean(ours.trail[9::10]))


def test_the_last_weights_are_in_the_average() -> None:
    """Averaging at the beginnings of epochs, the weights after the last one were never taken in."""
    theirs = Net()
    fit(theirs, StochasticWeightAveraging(0.1, 3, annealing_strategy="linear"), max_epochs=5)
    ends = theirs.trail[9::10]
    close(vector(theirs), mean(ends[1:4]))

    ours = Net()
    fit(ours, SWA(start="2ep"), max_epochs=5)
    close(vector(ours), mean(ends[1:]))


class TwoOptimizers(Net):
    """Trains its two layers in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), self.lr) for layer in (self.layers[0], self.layers[3])]


def test_several_optimizers() -> None:
    """SWA refused them."""
    with pytest.raises(MisconfigurationException, match="1 `optimizer`"):
        fit(TwoOptimizers(), StochasticWeightAveraging(0.1, 1))

    ours = TwoOptimizers()
    fit(ours, SWA(start="1ep"), max_epochs=3)
    close(vector(ours), mean(ours.trail[9::10]))


# ---------------------------------------------------------------------- which averages, of what


def test_two_averages() -> None:
    """Two of them were refused, as they would have had the same place in a checkpoint."""
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `EMAWeightAveraging`"):
        make_trainer(EMAWeightAveraging(decay=0.5), EMAWeightAveraging(decay=0.9))

    net = Net()
    fast, slow = EMA(0.5, name="fast", evaluated=True), EMA(0.9, name="slow", evaluated=False)
    fit(net, fast, slow)
    close(vector(net), ema(net.trail, 0.5))
    close(average_of(slow.averaged["slow"]), ema(net.trail, 0.9))


def test_parameters_can_be_left_out() -> None:
    """Everything was averaged, or nothing."""
    with pytest.raises(TypeError, match="leave_out"):
        fit(Net(), EMAWeightAveraging(decay=DECAY, leave_out="layers.3.*"))

    net = Net()
    fit(net, EMA(DECAY, leave_out="layers.3.*"))
    last = 7  # weight and bias of the last layer
    close(vector(net)[:-last], ema(net.trail, DECAY)[:-last])
    assert torch.equal(vector(net)[-last:], net.trail[-1][-last:])


def test_training_can_go_on_from_the_average(tmp_path: Path) -> None:
    """There was no such choice."""
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(Net(), EMA(DECAY), keep)
    average = of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"])
    found: list[Tensor] = []
    start = At("on_train_batch_start", lambda trainer, module: found.append(vector(module)), nth=1)
    fit(Net(), EMA(DECAY, resume_from="average"), start, ckpt_path=tmp_path / "epoch=0.ckpt", max_epochs=2)
    assert torch.equal(found[0], average)


# ---------------------------------------------------------------------- state_dict


def test_a_state_dict_that_is_taken_in_a_validation_stays_what_it_is() -> None:
    """It shares the memory of the module: when the live weights came back, it was of these."""

    def run(callback: Callback) -> tuple[Tensor, Tensor, Tensor]:
        net = Net()
        taken: list[Any] = []
        during = At("on_validation_batch_end", lambda trainer, module: taken.append(module.state_dict()), nth=1)
        after = At("on_validation_end", lambda trainer, module: taken.append(of_state(taken[0])), nth=1)
        fit(net, callback, during, after, max_epochs=1)
        return taken[1], net.saw[0][1], net.trail[-1]

    taken, validated, live = run(EMAWeightAveraging(decay=DECAY))
    assert far(taken, validated)
    assert torch.equal(taken, live)

    taken, validated, live = run(EMA(DECAY))
    assert torch.equal(taken, validated)


def test_files_that_are_written_while_training_goes_on(tmp_path: Path) -> None:
    """What is in them is of the moment at which they were saved."""
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def note(trainer: Any, module: Any) -> None:
        kept[trainer.global_step] = average_of(callback.averaged["ema"]).clone(), vector(module)

    net, callback = Net(), EMA(DECAY)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = fit(net, callback, keep, At("on_train_batch_end", note), plugins=[AsyncCheckpointIO()], max_epochs=1)
    trainer.strategy.checkpoint_io.teardown()
    assert len(kept) == STEPS
    for step, (average, live) in kept.items():
        found = saved(tmp_path / f"step={step}.ckpt")
        assert torch.equal(of_state(found["state_dict"]), average)
        assert torch.equal(of_state(found[KEY]["live"]), live)


# ---------------------------------------------------------------------- resuming


def test_an_average_that_is_renamed_in_code_keeps_its_state(tmp_path: Path) -> None:
    """State was kept by the name of the class: a subclass lost it, and took in a step that it had already."""

    class Theirs(EMAWeightAveraging):
        pass

    class Ours(EMA):
        pass

    def run(first: Callback, second: Callback, folder: Path) -> Callback:
        keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        fit(Net(), first, keep, max_epochs=1)
        at: list[Any] = []
        start = At("on_train_start", lambda trainer, module: at.append(second.state_dict()))
        fit(Net(), second, start, ckpt_path=folder / "epoch=0.ckpt", max_epochs=2)
        states.append(at[0])
        return second

    states: list[Any] = []
    run(EMAWeightAveraging(decay=DECAY), Theirs(decay=DECAY), tmp_path / "theirs")
    assert states == [{"latest_update_step": 0}]

    again: Any = run(EMA(DECAY), Ours(DECAY), tmp_path / "ours")
    whole = EMA(DECAY)
    fit(Net(), whole)
    assert equal(everything(again.averaged["ema"]), everything(whole.averaged["ema"]))


def test_an_average_that_is_added_when_a_run_is_resumed(tmp_path: Path) -> None:
    """It begins with the weights of the checkpoint; Lightning's own does so with its next update."""
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(Net(), keep, max_epochs=1)
    start = of_state(saved(tmp_path / "epoch=0.ckpt")["state_dict"])
    theirs, ours = Net(), Net()
    with pytest.warns(UserWarning, match="was not created with WeightAveraging"):
        fit(theirs, EMAWeightAveraging(decay=DECAY), ckpt_path=tmp_path / "epoch=0.ckpt")
    close(vector(theirs), ema(theirs.trail, DECAY))
    fit(ours, EMA(DECAY), ckpt_path=tmp_path / "epoch=0.ckpt")
    close(vector(ours), ema([start, *ours.trail], DECAY))


def test_an_average_that_is_dropped_when_a_run_is_resumed(tmp_path: Path) -> None:
    """Training went on from the average, as that is the ``state_dict``; the live weights lay beside it."""

    class Solved(SolverMixin, Net):
        def __init__(self, averages: Any) -> None:
            super().__init__()
            self.solver = SolverSpec(OptimizerSpec("SGD", {"lr": 0.1}), averages=averages)

        configure_optimizers = SolverMixin.configure_optimizers

    last = straight()[-1]
    keep = ModelCheckpoint(tmp_path / "theirs", filename="{epoch}", save_top_k=-1)
    fit(Net(), EMAWeightAveraging(decay=DECAY), keep, max_epochs=1)
    theirs = Net()
    fit(theirs, ckpt_path=tmp_path / "theirs/epoch=0.ckpt")
    assert far(theirs.trail[-1], last)

    keep = ModelCheckpoint(tmp_path / "ours", filename="{epoch}", save_top_k=-1)
    fit(Solved({"ema": averaging.EMA(DECAY)}), keep, max_epochs=1)
    ours = Solved({})
    fit(ours, ckpt_path=tmp_path / "ours/epoch=0.ckpt")
    assert torch.equal(ours.trail[-1], last)


def test_everything_that_is_saved_loads_with_weights_only(tmp_path: Path) -> None:
    """What a callback keeps must be tensors, numbers, text, lists and mappings."""
    net = Net(batch_norm=True)
    callbacks = [EMA(half_life="1/2ep", warmup=PowerWarmup(), only=["layers.*"]), SWA(evaluated=False, update_bn=True)]
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(net, *callbacks, keep)
    found = saved(tmp_path / "epoch=1.ckpt")
    assert {*found[KEY]["averages"]} == {"ema", "swa"}


# ---------------------------------------------------------------------- Lightning's own examples


def test_example_of_an_exponential_average() -> None:
    """``EMAWeightAveraging()`` with its decay of 0.999: the same numbers, tested as they were validated."""
    theirs, ours = Net(), Net()
    fit(theirs, EMAWeightAveraging(decay=0.999))
    trainer = fit(ours, EMA(decay=0.999))
    close(vector(ours), vector(theirs))
    for (_, here), (_, there) in zip(ours.saw, theirs.saw):
        close(here, there)
    trainer.test(ours, other_data(), verbose=False)
    assert torch.equal(ours.saw[-1][1], vector(ours))


def test_example_of_a_subclass_that_says_when_to_update() -> None:
    """Their example starts after a number of steps, which are counted from 0 there."""

    class AfterSomeSteps(WeightAveraging):
        def __init__(self) -> None:
            super().__init__(avg_fn=get_ema_avg_fn())

        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return (step_idx is not None) and (step_idx >= 8)

    theirs, ours = Net(), Net()
    fit(theirs, AfterSomeSteps())
    fit(ours, EMA(0.999, start=9))
    close(vector(ours), vector(theirs))


def test_example_of_an_average_of_the_ends_of_epochs() -> None:
    """A subclass that averages once an epoch, from some epoch on, all alike."""

    class FromTheThirdEpoch(WeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return (epoch_idx is not None) and (epoch_idx >= 2)

    theirs, ours = Net(), Net()
    fit(theirs, FromTheThirdEpoch(), max_epochs=5)
    fit(ours, SWA(start="3ep"), max_epochs=5)
    close(vector(ours), vector(theirs))


def test_example_of_an_exponential_average_by_steps_and_epochs() -> None:
    """``update_every_n_steps`` and ``update_starting_at_step``; a decay per update is theirs."""
    theirs, ours = Net(), Net()
    fit(theirs, EMAWeightAveraging(decay=0.9, update_every_n_steps=3, update_starting_at_step=6))
    fit(ours, EMA(0.9, decay_per="update", start=7, every=3))
    close(vector(ours), vector(theirs))


def test_example_of_stochastic_weight_averaging() -> None:
    """``StochasticWeightAveraging(swa_lrs=1e-2)``: the same mean, of the epochs that it looks at."""
    theirs, ours = Net(lr=1e-2), Net(lr=1e-2)
    fit(theirs, StochasticWeightAveraging(swa_lrs=1e-2), max_epochs=5)
    fit(ours, SWA(start="3ep", until="4ep"), max_epochs=5)
    assert torch.equal(theirs.trail[-1], ours.trail[-1])
    close(vector(ours), vector(theirs))
    close(vector(ours), mean(ours.trail[29:40:10]))


# ---------------------------------------------------------------------- bad input


def test_beside_one_of_their_own() -> None:
    """Two callbacks that exchange weights behind each other's back."""
    for other in (EMAWeightAveraging(decay=DECAY), StochasticWeightAveraging(0.1)):
        net = Net()
        with pytest.raises(SolverError, match=r"Trainer\.callbacks: ema: two callbacks would both change"):
            fit(net, EMA(DECAY), other)
        assert net.trail == []


def test_live_weights_stay_until_they_are_let_go() -> None:
    """A further ``fit`` goes on from the live weights, and not from the average that the module holds."""

    def run(callback: Callback) -> Tensor:
        net = Net()
        trainer = fit(net, callback)
        trainer.fit_loop.max_epochs = 3
        trainer.fit(net, data(), other_data())
        return net.trail[-1]

    last = straight(max_epochs=3)[-1]
    assert far(run(EMAWeightAveraging(decay=DECAY)), last)
    callback = EMA(DECAY)
    assert torch.equal(run(callback), last)
    assert torch.equal(live_of(callback.averaged["ema"]), last)
    callback.release()
    assert callback.averaged == {}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_run_that_was_begun_with_lightnings_averaging_goes_on_with_ours(batch_norm: bool, tmp_path: Path) -> None:
    """Both sets are taken from such a file, and the run ends as if Lightning's had gone on."""

    def net() -> Net:
        return Net(batch_norm=batch_norm)

    theirs = EMAWeightAveraging(decay=DECAY)
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = net()
    fit(whole, theirs, keep, max_epochs=3)
    ours, other = EMA(DECAY), net()
    fit(other, ours, max_epochs=3, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert torch.equal(other.trail[-1], whole.trail[-1])
    assert torch.allclose(vector(other), vector(whole), rtol=1e-5, atol=1e-7)
    assert ours.averaged["ema"].count.updates == 30


def test_a_file_of_lightnings_averaging_that_had_not_begun_gives_the_live_weights(tmp_path: Path) -> None:
    theirs = EMAWeightAveraging(decay=DECAY, update_starting_at_step=25)
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = Net()
    fit(whole, theirs, keep, max_epochs=3)
    ours, other = EMA(DECAY, start=26), Net()
    fit(other, ours, max_epochs=3, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert torch.equal(other.trail[-1], whole.trail[-1])
    assert torch.allclose(vector(other), vector(whole), rtol=1e-5, atol=1e-7)
