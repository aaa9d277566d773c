"""The memory that the allocator of a device keeps for later, given back at set times."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_solver.callbacks.order import take_places
from lightning_solver.errors import SolverError


class EmptyCache(Callback):
    """Gives memory that the allocator holds, but nothing uses, back to the device: ``EmptyCacheHook`` of MMCV.

    What is in use is not touched, so no run needs less memory at its height. It helps where another program shares the
    device, and where training and validation leave memory in pieces of sizes that do not suit the other. The device is
    waited for each time; after every batch that is slow. Nothing is done on a CPU.

    Args:
        before_epoch: Before each epoch of training, validation, test and prediction.
        after_epoch: After each of them.
        after_batch: After each of their batches; MMCV's ``after_iter``.

    Raises:
        SolverError: It is to act at no time.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[EmptyCache()], logger=False, enable_checkpointing=False)
    """

    role = "cache"

    def __init__(self, *, before_epoch: bool = False, after_epoch: bool = True, after_batch: bool = False) -> None:
        if not (before_epoch or after_epoch or after_batch):
            raise SolverError("EmptyCache", "is to act at no time", do="choose one, or leave the callback out")
        self._before_epoch, self._after_epoch, self._after_batch = before_epoch, after_epoch, after_batch

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to."""
        take_places(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before an epoch."""
        if self._before_epoch:
            empty_cache(trainer.strategy.root_device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After an epoch."""
        if self._after_epoch:
            empty_cache(trainer.strategy.root_device)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        self.on_train_epoch_end(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        self.on_train_epoch_end(trainer, pl_module)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a batch."""
        if self._after_batch:
            empty_cache(trainer.strategy.root_device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """As in training."""
        self.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """As in training."""
        self.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """As in training."""
        self.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def empty_cache(device: torch.device) -> bool:
    """Give memory that is held but not used back to a device.

    Args:
        device: The device; all of its kind that this process uses.

    Returns:
        Whether there was anything to be asked: ``False`` for a CPU, and for a device without an allocator of its own.

    Example:
        >>> empty_cache(torch.device("cpu"))
        False
    """
    # torch.accelerator has it from torch 2.9 on, not for all devices; torch.cuda, torch.mps and torch.xpu always have.
    empty: Any = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if device.type == "cpu" or empty is None:
        return False
    empty()
    return True
