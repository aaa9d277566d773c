"""Modules that the tests of the command line name in YAML."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_solver import SolverMixin, SolverSpec
from small import Net, loader


class WithArgument(Net):
    """Takes the block as its argument ``solver``."""

    def __init__(self, solver: SolverSpec | None = None, width: int = 3) -> None:
        super().__init__(solver)
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader(8)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.head(self.backbone(batch)).square().mean())

    test_dataloader = predict_dataloader = val_dataloader

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.head(self.backbone(batch))


class WithoutArgument(SolverMixin, LightningModule):
    """Knows nothing of solvers: the block is the top-level key."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(8, width)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()

    def train_dataloader(self) -> Any:
        return loader()


class Plain(LightningModule):
    """Has no mixin."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)
