"""Validation on the live weights beside that on others: the same numbers as two validations, and nothing disturbed."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy, MeanMetric, Metric, MetricCollection, Precision, Recall
from torchmetrics.wrappers import MinMaxMetric

from lightning_solver import SolverError
from lightning_solver.callbacks.live_evaluation import LiveEvaluation
from small import trainer
from two_processes import start


class Net(LightningModule):
    """Logs in every way that there is: values, metrics, collections, by step, at the end, from the hooks around it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.accuracy = Accuracy(task="multiclass", num_classes=3)
        self.by_hand = MeanMetric()
        self.held = [self.by_hand]
        self.best = MinMaxMetric(MeanMetric())
        rates: dict[str, Any] = {"task": "multiclass", "num_classes": 3, "average": "macro"}
        self.rates = MetricCollection({"precision": Precision(**rates), "recall": Recall(**rates)}, prefix="val_")

    def forward(self, x: Tensor) -> Any:
        return self.body(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        scores = self(x)
        loss = nn.functional.cross_entropy(scores, y)
        self.log("val_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("val/worst", loss, reduce_fx="max", logger=False)
        self.log_dict({"noise": torch.rand(()), "mean_score": scores.mean()}, batch_size=1)
        self.accuracy(scores, y)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.rates.update(scores, y)
        self.log_dict(self.rates)
        self.held[0].update(loss)
        self.best.update(loss)
        x.zero_()  # a step may change what it is given
        return loss

    def on_validation_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.losses: list[Tensor] = []

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs)
        self.log("after", sum(self.losses))

    def on_validation_epoch_end(self) -> None:
        self.log("by_hand", self.by_hand.compute())
        self.by_hand.reset()
        self.log("lowest", self.best.compute()["min"])
        self.best.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(length: int = 30, seed: int = 0, **kwargs: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    tensors = (torch.randn(length, 4, generator=generator), torch.randint(0, 3, (length,), generator=generator))
    return DataLoader(TensorDataset(*tensors), batch_size=8, **kwargs)


class Both(Callback):
    """Exchanges the weights by hand around the second pass."""

    def __init__(self, other: dict[str, Tensor], *, first: bool = True) -> None:
        self.other = other
        self.first = first
        self.live = LiveEvaluation()

    def swapped(self, module: Any, what: Any, *args: Any) -> None:
        own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self.other)
        try:
            what(*args)
        finally:
            module.load_state_dict(own)

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, index: int, loader: int = 0) -> None:
        if self.first:
            self.swapped(module, self.live.batch, trainer, module, batch, index, loader)

    def on_validation_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        if not self.first:
            self.swapped(module, self.live.batch, trainer, module, batch, index, loader)

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        self.swapped(module, self.live.epoch_end, trainer, module)


def nets(kind: type[LightningModule] = Net) -> tuple[LightningModule, dict[str, Tensor]]:
    """A module and other weights for it."""
    torch.manual_seed(1)
    other = kind().state_dict()
    torch.manual_seed(2)
    return kind(), other


def validated(module: LightningModule, *callbacks: Callback, loaders: Any = None, **kwargs: Any) -> dict[str, float]:
    torch.manual_seed(3)
    fitter = trainer(callbacks=[*callbacks], **kwargs)
    fitter.validate(module, loaders if loaders is not None else data(), verbose=False)
    return {name: value.item() for name, value in fitter.callback_metrics.items()}


def suffixed(name: str) -> str:
    ahead, mark, behind = name.partition("/dataloader_idx_")
    stem, forked, _ = ahead.partition("_epoch")
    return f"{stem}_live{forked}{mark}{behind}"


def alone(kind: type[LightningModule] = Net, loaders: Any = None, times: int = 1) -> dict[str, float]:
    """What two modules log, one with each set of weights; at the last of so many validations."""
    module, other = nets(kind)
    second = copy.deepcopy(module)
    second.load_state_dict(other)
    for _ in range(times):
        found, live = validated(module, loaders=loaders), validated(second, loaders=loaders)
    return found | {suffixed(name): value for name, value in live.items()}


def test_both_passes_log_what_two_validations_log() -> None:
    module, other = nets()
    together = validated(module, Both(other))
    assert together == alone()
    assert {"val_loss_live", "val_loss_live_epoch", "accuracy_live", "val_recall_live", "lowest_live"} <= {*together}
    assert together["val_loss"] != together["val_loss_live"]
    assert together["by_hand"] != together["by_hand_live"]


def test_a_second_validation_begins_afresh_but_for_what_remembers_the_first() -> None:
    module, other = nets()
    both = Both(other)
    validated(module, both, loaders=data(seed=5))
    again = validated(module, both)
    module, other = nets()
    second = copy.deepcopy(module)
    second.load_state_dict(other)
    for one in (module, second):
        validated(one, loaders=data(seed=5))
    expected = validated(module) | {suffixed(name): value for name, value in validated(second).items()}
    assert again == expected


class ByHand(Net):
    """Computes a collection itself, and resets metrics when an epoch begins."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        scores = self(batch[0])
        self.rates.update(scores, batch[1])
        self.accuracy.update(scores, batch[1])
        if batch_idx == 1:
            self.log_dict({f"early_{name}": value for name, value in self.rates.compute().items()})
        return scores.sum()

    def on_validation_epoch_start(self) -> None:
        self.accuracy.reset()
        self.rates.reset()

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.rates.compute())
        self.log("accuracy", self.accuracy.compute())


def test_metrics_that_are_reset_when_an_epoch_begins_begin_afresh_for_the_live_weights_too() -> None:
    module, other = nets(ByHand)
    both = Both(other)
    validated(module, both, loaders=data(seed=5))
    assert validated(module, both) == alone(ByHand)


class Plain(Net):
    """Without hooks around the step, and without random numbers or batches that change."""

    def __init__(self) -> None:
        super().__init__()
        self.body[2] = nn.Identity()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return super().validation_step([part.clone() for part in batch], batch_idx)

    on_validation_batch_start = LightningModule.on_validation_batch_start  # type: ignore[assignment]
    on_validation_batch_end = LightningModule.on_validation_batch_end  # type: ignore[assignment]


def test_the_second_pass_may_come_after_the_first_one() -> None:
    module, other = nets(Plain)
    together, expected = validated(module, Both(other, first=False)), alone(Plain)
    del together["noise_live"], expected["noise_live"]
    assert together == expected


class Several(Plain):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:  # type: ignore[override]
        super().validation_step(batch, batch_idx)
        self.log(f"own_{dataloader_idx}", batch[0].mean(), add_dataloader_idx=False)
        self.log("last", float(batch_idx), reduce_fx="max")

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
        self.log("seen", float(dataloader_idx))


def test_loaders_one_after_another_are_told_apart() -> None:
    module, other = nets(Several)
    loaders = [data(), data(16, seed=1)]
    together = validated(module, Both(other), loaders=loaders)
    assert together == alone(Several, loaders)
    assert together["seen_live/dataloader_idx_1"] == 1.0
    assert together["last_live/dataloader_idx_0"] == 3.0
    assert together["own_1_live"] == together["own_1"]


class Pairs(Plain):
    def validation_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().validation_step(batch["a"], 0)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_loaders_beside_each_other_and_a_step_without_a_number() -> None:
    module, other = nets(Pairs)
    loaders = CombinedLoader({"a": data(), "b": data(16, seed=1)}, "max_size_cycle")
    assert validated(module, Both(other), loaders=loaders) == alone(Pairs, loaders)


def test_each_step_is_logged_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, other = nets()
    second = copy.deepcopy(module)
    second.load_state_dict(other)
    logs: list[list[dict[str, float]]] = []
    for one, callbacks in ((module, [Both(other)]), (module, []), (second, [])):
        logger = CSVLogger(tmp_path)
        found: list[dict[str, float]] = []
        monkeypatch.setattr(logger, "log_metrics", lambda metrics, step, found=found: found.append(dict(metrics)))
        one = copy.deepcopy(one)
        validated(one, *callbacks, logger=logger)
        logs.append(found)
    together, first, live = ([entry for entry in found if "accuracy_step" in entry] for found in logs)
    assert len(together) == len(first) == len(live) == 4
    for entry, one, two in zip(together, first, live):
        assert entry == one | {name.replace("_step", "_live_step"): value for name, value in two.items()}


class Noisy(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("python", random.random())
        self.log("numpy", float(np.random.rand()))
        return super().validation_step(batch, batch_idx)


def test_training_is_bitwise_the_same() -> None:
    results = []
    for both in (False, True):
        module, other = nets(Noisy)
        seed_everything(4, verbose=False)
        fitter = trainer(max_epochs=2, val_check_interval=2, callbacks=[Both(other)] if both else [])
        fitter.fit(module, data(shuffle=True), data(seed=1))
        numbers = torch.rand(1).item(), float(np.random.rand()), random.random()
        logged = {name: v.item() for name, v in fitter.callback_metrics.items() if not name.endswith("_live")}
        logged = {name: value for name, value in logged.items() if "_live" not in name}
        results.append((module.state_dict(), numbers, logged))
    (weights, numbers, logged), (beside, numbers_beside, logged_beside) = results
    assert numbers == numbers_beside
    assert logged == logged_beside
    assert all(torch.equal(weights[name], beside[name]) for name in weights)


def test_what_is_logged_can_be_monitored(tmp_path: Path) -> None:
    module, other = nets()
    best = ModelCheckpoint(tmp_path, monitor="accuracy_live", mode="max")
    stop = EarlyStopping("val_loss_live", patience=1)
    fitter = trainer(max_epochs=9, callbacks=[Both(other), best, stop], enable_checkpointing=True)
    fitter.fit(module, data(), data(seed=1))
    assert best.best_model_score == fitter.callback_metrics["accuracy_live"]
    assert stop.stopped_epoch  # the other weights never change


class Fails(Net):
    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().validation_step(batch, batch_idx)
        torch.rand(1)
        if self.error is not None:
            raise self.error
        return loss


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_in_the_second_pass_leaves_the_module_as_it_was(error: BaseException) -> None:
    class Note(Callback):
        def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            self.numbers = torch.get_rng_state()
            self.states = {n: dict(vars(m)) for n, m in module.named_modules() if isinstance(m, Metric)}
            module.error = error if batch_idx == 1 else None

    module, other = nets(Fails)
    note, both = Note(), Both(other)
    with pytest.raises((ValueError, SystemExit, KeyboardInterrupt)):
        validated(module, note, both)
    assert torch.equal(torch.get_rng_state(), note.numbers)
    assert "log" not in vars(module)
    for name, state in note.states.items():
        assert state["_update_count"] == vars(module.get_submodule(name))["_update_count"]
        for key in state["_defaults"]:
            assert state[key] is vars(module.get_submodule(name))[key]
    module.error = None
    assert validated(module, both)["val_loss_live"] == alone()["val_loss_live"]


def test_what_was_cut_short_is_undone_by_abort() -> None:
    module, _ = nets()
    module.by_hand.update(1.0)
    live = LiveEvaluation()
    live.abort(module)
    entered = live._second_pass(module)
    entered.__enter__()
    module.by_hand.update(5.0)
    assert module.by_hand.compute() == 5.0
    assert "log" in vars(module)
    live.abort(module)
    live.abort(module)
    assert module.by_hand.compute() == 1.0
    assert "log" not in vars(module)


def test_a_log_of_the_users_own_stays() -> None:
    module, other = nets()
    names: list[str] = []
    log = module.log

    def own(name: str, *args: Any, **kwargs: Any) -> None:
        names.append(name)
        log(name, *args, **kwargs)

    module.log = own  # type: ignore[method-assign]
    validated(module, Both(other))
    assert {"val_loss", "val_loss_live"} <= {*names}
    assert module.log is own


class Fetches(Net):
    def validation_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
        next(dataloader_iter)

    on_validation_batch_start = LightningModule.on_validation_batch_start  # type: ignore[assignment]
    on_validation_batch_end = LightningModule.on_validation_batch_end  # type: ignore[assignment]


@pytest.mark.filterwarnings("ignore:Found `dataloader_iter`")
def test_a_step_that_fetches_its_own_batches_is_refused() -> None:
    module, other = nets(Fetches)
    with pytest.raises(SolverError, match="evaluate_live: validation_step fetches its own batches"):
        validated(module, Both(other))


class Features(MeanMetric):
    """A metric with a network in it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 1)


def test_networks_in_metrics_are_not_copied_and_functions_stay_bound() -> None:
    module, _ = nets()
    module.features = Features()
    live = LiveEvaluation()
    with live._second_pass(module):
        module.features.update(2.0)
        module.rates.update(torch.eye(3), torch.arange(3))
        assert module.rates._groups_checked
    assert not module.rates._groups_checked
    twins = {path: twin for path, _, twin in live._metrics._pairs}
    twin: Any = twins["features"]
    assert twin.network.weight is module.features.network.weight
    assert not module.features.update_called
    assert twin.compute() == 2.0


@pytest.mark.slow
def test_two_processes() -> None:
    done = start(Path(__file__).parent / "live_evaluation_cases.py")
    assert done.returncode == 0, done.stderr[-4000:]
