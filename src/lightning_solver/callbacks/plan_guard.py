"""Holds a run against its plan: every trainable parameter is in the optimiser, and the run was as long as planned."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.errors import SolverError
from lightning_solver.logs import report


class PlanGuard(Callback):
    """Added by :class:`SolverMixin`.

    Raises:
        SolverError: At the first optimiser step of an epoch, if a parameter that requires a gradient is not in the
            optimiser: one that was made after ``configure_optimizers``, or that was frozen then.
    """

    def __init__(self) -> None:
        self._checked = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look again in each epoch, as parameters may have been unfrozen."""
        self._checked = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look for parameters that would never be trained."""
        if self._checked:
            return
        self._checked = True
        known = {id(tensor) for o in trainer.optimizers for group in o.param_groups for tensor in group["params"]}
        lost = [n for n, p in pl_module.named_parameters() if p.requires_grad and id(p) not in known]
        if lost:
            what = "is trainable but not in the optimiser, and would never be trained"
            got = f"{len(lost)} such parameters" if len(lost) > 1 else "a parameter made or unfrozen after the plan"
            do = "make it in __init__ or configure_model, and let it require its gradient from the start"
            raise SolverError(lost[0], what, got=got, do=do)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the run was not as long as planned, but for one that was stopped on purpose."""
        plan: Any = getattr(pl_module, "solver_plan", None)
        planned = None if plan is None else plan.run.total_steps
        if planned is None or trainer.should_stop or not pl_module.automatic_optimization:
            return
        if trainer.global_step != planned:
            report(f"the plan was made for {planned} optimiser steps, but the run made {trainer.global_step}")
