"""Holds a run against its plan.

Every trainable parameter is in the optimiser, a sharded checkpoint fits the groups, the run is as long as planned.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.plan import Plan
from lightning_solver.run_length import forget_loader, trainer_run_length
from lightning_solver.spec import SolverSpec


class PlanGuard(Callback):
    """Added by :class:`SolverMixin`.

    Raises:
        SolverError: At the first optimiser step of an epoch, if a parameter that requires a gradient is not in the
            optimiser: one that was made after ``configure_optimizers``, or that was frozen then.
    """

    def __init__(self) -> None:
        self._checked = False
        self._told = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """What was planned is what will be run.

        Raises:
            SolverError: The scheduler of the plan is not the Trainer's.
        """
        self._told = False
        plan: Plan | None = pl_module.solver_plan
        if not isinstance(getattr(pl_module, "solver", None), SolverSpec):
            return
        name = type(pl_module).__name__
        if plan is None or all(
            optimizer is not pl_module.solver_scheduler.optimizer for optimizer in trainer.optimizers
        ):
            report(f"{name} has a configure_optimizers of its own: its solver is not followed")
            return
        if not _follows(trainer, pl_module):
            do = "return what super().configure_optimizers() returns, the scheduler too"
            what = "the scheduler of the plan is not among the Trainer's, so that no schedule would be followed"
            raise SolverError(f"{name}.configure_optimizers", what, do=do)
        run = trainer_run_length(trainer)
        if _length(run) != _length(plan.run):
            report(f"the run is of {run.total_steps} optimiser steps now, not of {plan.run.total_steps}: planned anew")
            pl_module.plan_anew(run)
        elif run.epochs_known and trainer.global_step > 0:
            self._compare_epoch(trainer, run)
        if pl_module.solver_scheduler.last_epoch == 0 and trainer.global_step > 0 and pl_module.automatic_optimization:
            # A second fit of one Trainer goes on counting; so does a checkpoint without schedulers.
            report(f"training goes on at step {trainer.global_step} with a new optimiser, and the schedules with it")
            pl_module.solver_scheduler.go_to(trainer.global_step)

    def _compare_epoch(self, trainer: Trainer, run: RunLength) -> None:
        """A resumed run stands where its plan has the present epoch, unless batches have another size now."""
        low = run.steps_at_epoch(Fraction(trainer.current_epoch))
        high = run.steps_at_epoch(Fraction(trainer.current_epoch + 1))
        if not low <= trainer.global_step <= high:
            what = f"the checkpoint was written after {trainer.global_step} optimiser steps, but"
            where = f"epoch {trainer.current_epoch} goes from step {float(low):g} to {float(high):g} of the plan"
            why = "batch size, devices or accumulation have changed, and the run will not end where the schedule does"
            report(f"{what} {where}: {why}", ["set max_steps to say when it ends"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Look again in each epoch: parameters may have been unfrozen, and the scheduler replaced."""
        self._checked = False
        if pl_module.solver_plan is not None and not self._told and not _follows(trainer, pl_module):
            self._told = True
            report("another scheduler has taken over: the schedules of the solver are not followed from here on")

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

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Strategies that shard restore when the optimiser is there already, by themselves and group by group."""
        if trainer.state.fn == "fit" and trainer.strategy.restore_checkpoint_after_setup:
            forget_loader(trainer)
            if "optimizer_states" not in checkpoint:
                refuse_regrouped(pl_module, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Loading a sharded checkpoint into other groups may fail deep in torch: say what the matter is."""
        meta = Path(trainer.ckpt_path or "") / "meta.pt"
        if trainer.global_step == 0 and not isinstance(exception, SolverError) and trainer.ckpt_path and meta.is_file():
            refuse_regrouped(pl_module, torch.load(meta, weights_only=True, map_location="cpu"))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the run was not as long as planned, but for one that was stopped on purpose."""
        plan: Plan | None = getattr(pl_module, "solver_plan", None)
        planned = None if plan is None else plan.run.total_steps
        scheduler = getattr(pl_module, "solver_scheduler", None)
        if not pl_module.automatic_optimization and plan is not None and plan.curves and trainer.global_step > 0:
            if scheduler is not None and scheduler.last_epoch == 0:
                report("the schedules never moved: under manual optimisation call self.lr_schedulers().step()")
            return
        if planned is None or trainer.should_stop or not pl_module.automatic_optimization:
            return
        if trainer.global_step != planned:
            report(f"the plan was made for {planned} optimiser steps, but the run made {trainer.global_step}")


def _follows(trainer: Trainer, module: Any) -> bool:
    """Whether the scheduler of the plan is the Trainer's."""
    return any(config.scheduler is module.solver_scheduler for config in trainer.lr_scheduler_configs)


def _length(run: RunLength) -> tuple[Any, ...]:
    return run.total_steps, run.steps_per_epoch, run.epoch_ends


def refuse_regrouped(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """A sharded checkpoint is loaded group by group: it cannot be carried over to other groups.

    Args:
        module: The module with its plan.
        checkpoint: What the checkpoint holds beside the shards.

    Raises:
        SolverError: The parameters were grouped in another way when the checkpoint was written.
    """
    plan: Plan | None = getattr(module, "solver_plan", None)
    schedulers = checkpoint.get("lr_schedulers") or [{}]
    if plan is None or "spec" not in schedulers[0]:
        return
    saved = SolverSpec.from_dict(schedulers[0]["spec"], "saved spec").replace(beyond_run="allow")
    old = saved.plan(module, run=plan.run)
    if old.recipe.cls is plan.recipe.cls and [g.names for g in old.groups] == [g.names for g in plan.groups]:
        return
    what = "the parameters are grouped in another way than in the sharded checkpoint, which cannot be regrouped"
    got = f"groups {[g.name for g in old.groups]} then, {[g.name for g in plan.groups]} now"
    do = "resume by the same rules, or from a full checkpoint (save_distributed_checkpoint=False)"
    raise SolverError("ckpt_path", what, got=got, do=do)
