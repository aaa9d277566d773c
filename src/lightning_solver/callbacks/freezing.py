"""What is frozen by a rule stays as it is: no gradient, and no running statistics of frozen normalisation layers."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.callbacks.order import rest
from lightning_solver.norm_modes import NormModes


class Freezing(Callback):
    """Added by :class:`SolverMixin`; it does something only where a rule freezes parameters.

    Nothing is kept: what is frozen follows from the number of the step, so that there is nothing to restore.
    """

    role = "freeze"

    def __init__(self) -> None:
        self._modes: list[tuple[NormModes, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """One for each optimiser whose plan freezes something."""
        self._modes = [(NormModes(pl_module), scheduler) for scheduler in _schedulers(pl_module)]
        if not any(scheduler.freezes for _, scheduler in self._modes):
            rest(self)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Frozen layers are in evaluation mode."""
        for modes, scheduler in self._modes:
            modes.set(scheduler.plan, scheduler.last_epoch)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gradients of what is frozen are dropped before a loss scaler looks at them."""
        for scheduler in _schedulers(pl_module):
            scheduler.drop_frozen()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        """Gradients of what is frozen are dropped before they are clipped or measured."""
        for scheduler in _schedulers(pl_module):
            if scheduler.optimizer is getattr(optimizer, "optimizer", optimizer):
                scheduler.drop_frozen()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The layers go back to the mode of the module."""
        for modes, _ in self._modes:
            modes.release()
        self._modes = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As at the end of training."""
        self.on_train_end(trainer, pl_module)


def _schedulers(module: Any) -> list[Any]:
    """The schedulers that the plans of a module have built."""
    return [*getattr(module, "solver_schedulers", {}).values()]
