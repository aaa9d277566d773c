"""Validation on the live weights beside that on others: the same numbers as two validations, and nothing disturbed."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy, MeanMetric, MetricCollection, Precision, Recall
from torchmetrics.wrappers import MinMaxMetric

from lightning_solver import SolverError
from lightning_solver.callbacks.live_validation import LiveValidation
from small import trainer


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
        self.counted = 0

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
        self.live = LiveValidation()

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
    assert together["val_loss"] != together["val_loss_live"] and together["by_hand"] != together["by_hand_live"]


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
