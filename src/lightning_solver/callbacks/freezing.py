"""What is frozen by a rule stays as it is: no gradient, and no running statistics of frozen normalisation layers."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.norm_modes import NormModes


class Freezing(Callback):
    """Added by :class:`SolverMixin`; it does something only where a rule freezes parameters.

    Nothing is kept: what is frozen follows from the number of the step, so that there is nothing to restore.
    """

    def __init__(self) -> None:
        self._modes: list[tuple[NormModes, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Find the layers whose mode changes with the step."""
        found = [(NormModes(scheduler.plan, pl_module), scheduler) for scheduler in _schedulers(pl_module)]
        self._modes = [(modes, scheduler) for modes, scheduler in found if len(modes)]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Frozen layers are in evaluation mode."""
        for modes, scheduler in self._modes:
            modes.set(scheduler.last_epoch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        """Gradients of what is frozen are dropped before they are clipped or measured."""
        for scheduler in _schedulers(pl_module):
            if scheduler.optimizer is getattr(optimizer, "optimizer", optimizer):
                scheduler.drop_frozen()


def _schedulers(module: Any) -> list[Any]:
    """The schedulers that the plans of a module have built."""
    return [*getattr(module, "solver_schedulers", {}).values()]
