"""A small module, its data and a quiet Trainer."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_solver import OptimizerSpec, Rule, SolverMixin, SolverSpec
from lightning_solver.schedules import Cosine, Linear


class Numbers(Dataset[Tensor]):
    def __init__(self, length: int, noise: bool = False) -> None:
        self.data = torch.randn(length, 8, generator=torch.Generator().manual_seed(0))
        self.noise = noise

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        row = self.data[index]
        return row + 0.1 * torch.randn(8) if self.noise else row


class Stream(IterableDataset[Tensor]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Any:
        return iter(torch.randn(self.length, 8))


class Net(SolverMixin, LightningModule):
    """A backbone with a norm, dropout and a head; notes the learning rates with which each step was made."""

    def __init__(self, solver: SolverSpec | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.solver = solver
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Dropout(dropout))
        self.head = nn.Linear(16, 2)
        self.used: list[list[float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = (self.head(self.backbone(batch)) - batch[:, :2]).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.head(self.backbone(batch)).square().mean())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.used.append([group["lr"] for group in optimizer.param_groups])


def loader(length: int = 40, batch_size: int = 4, **kwargs: Any) -> DataLoader[Tensor]:
    return DataLoader(Numbers(length), batch_size=batch_size, **kwargs)


def spec(**changes: Any) -> SolverSpec:
    given: dict[str, Any] = {
        "optimizer": OptimizerSpec("AdamW", {"lr": 0.01, "weight_decay": 0.05}),
        "rules": [Rule(match="backbone.*", lr_scale=0.1)],
        "schedules": {"lr": [Linear(start=0.1, until="20%"), Cosine(end=0.01)]},
    }
    return SolverSpec(**{**given, **changes})


def trainer(**kwargs: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(**{**quiet, **kwargs})
