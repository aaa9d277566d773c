"""Holds a run against its plan.

Every trainable parameter is in an optimiser, a checkpoint fits optimisers and groups, the run is as long as planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_solver.callbacks.order import take_places
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.parts import Part, batches_per_step, sign, skipped_in, sort_states
from lightning_solver.plan import Plan
from lightning_solver.run_length import forget_loader
from lightning_solver.several import by_name
from lightning_solver.spec import SolverSpec


class PlanGuard(Callback):
    """Added by :class:`SolverMixin`.

    Raises:
        SolverError: At the first optimiser step of an epoch, if a parameter that requires a gradient is not in the
            optimiser: one that was made after ``configure_optimizers``, or that was frozen then.
    """

    role = "guard"

    def __init__(self) -> None:
        self._checked = False
        self._told = False
        self._compared = False
        self._idle: set[str] = set()
        self._by_hand: set[str] = set()
        self._skipped: dict[str, int] = {}

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Callbacks act in the order in which they have to."""
        take_places(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """What was planned is what will be run.

        Raises:
            SolverError: The scheduler of a plan is not the Trainer's.
        """
        self._told = self._compared = False
        self._idle, self._by_hand = set(), set()
        if getattr(pl_module, "solver", None) is None:
            return
        name, parts = type(pl_module).__name__, pl_module.solver_parts
        if not parts or not any(part.optimizer is one for part in parts.values() for one in trainer.optimizers):
            specs = by_name(pl_module.solver).values()
            beside = ["accumulate"] * any(one.accumulation() is not None for one in specs)
            beside += ["averages"] * any(bool(one.averages) for one in specs)
            but = f", but for its {' and '.join(beside)}" if beside else ""
            report(f"{name} has a configure_optimizers of its own: its solver is not followed{but}")
            return
        if not _follows(trainer, pl_module):
            do = "return what super().configure_optimizers() returns, the scheduler too"
            what = "the scheduler of the plan is not among the Trainer's, so that no schedule would be followed"
            raise SolverError(f"{name}.configure_optimizers", what, do=do)
        for part_name, count in self._skipped.items():
            if part_name in parts:
                parts[part_name].skipped = count
        self._skipped = {}
        runs = pl_module.run_lengths()
        changed = [part for part in parts.values() if _length(runs[part.name]) != _length(part.plan.run)]
        for part in changed:
            now, then = runs[part.name].total_steps, part.plan.run.total_steps
            report(f"the run is of {now} optimiser steps{_of(part, parts)} now, not of {then}: planned anew")
        if changed:
            pl_module.plan_anew(runs)
        for part in parts.values():
            made = trainer.global_step if pl_module.automatic_optimization else part.taken
            if part not in changed and part.plan.run.epochs_known and made > 0:
                self._compare_epoch(trainer, part, made, pl_module.automatic_optimization)
            # A second fit of one Trainer goes on counting; so does a checkpoint without schedulers.
            made = trainer.global_step if pl_module.automatic_optimization else part.earlier
            if part.scheduler.last_epoch == 0 and made > 0:
                which = _of(part, parts)
                report(f"training goes on at step {made}{which} with a new optimiser, and the schedules with it")
                part.scheduler.go_to(made)

    def _compare_epoch(self, trainer: Trainer, part: Part, made: int, automatic: bool) -> None:
        """A resumed run stands where its plan has the present epoch, unless batches have another size now."""
        run, slack = part.plan.run, 0 if automatic else _slack(part)
        low = run.steps_at_epoch(Fraction(trainer.current_epoch))
        high = run.steps_at_epoch(Fraction(trainer.current_epoch + 1))
        if not low - slack <= made <= high + slack:
            what = f"the checkpoint was written after {made} optimiser steps, but"
            where = f"epoch {trainer.current_epoch} goes from step {float(low):g} to {float(high):g} of the plan"
            why = "batch size, devices or accumulation have changed, and the run will not end where the schedule does"
            report(f"{what} {where}: {why}", ["set max_steps to say when it ends"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Look again in each epoch: parameters may have been unfrozen, and the scheduler replaced."""
        self._checked = False
        if pl_module.solver_parts and not self._told and not _follows(trainer, pl_module):
            self._told = True
            report("another scheduler has taken over: the schedules of the solver are not followed from here on")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Under manual optimisation look at the steps of the first epoch, so that nobody waits for the end of the run.

        Validations go before it, the first one is over by now.
        """
        if pl_module.automatic_optimization or self._compared:
            return
        self._compared = True
        parts = pl_module.solver_parts
        self._tell_idle(trainer, parts)
        for part in parts.values():
            made, run = part.taken, part.plan.run
            if trainer.current_epoch > 0 or trainer.should_stop or not made or not run.epochs_known:
                continue
            planned = run.steps_at_epoch(Fraction(1))
            if run.total_steps is not None:
                planned = min(planned, Fraction(run.total_steps))
            if abs(made - planned) > _slack(part):
                real = f"{made} optimiser steps{_of(part, parts)} were made in the first epoch"
                report(f"{real}, {float(planned):g} were planned: say batches_per_step, {_batches(part)} at present")

    def _tell_idle(self, trainer: Trainer, parts: Mapping[str, Part]) -> None:
        """Say once of each optimiser that it has made no step in batches that were enough for one."""
        batches = trainer.fit_loop.total_batch_idx + 1
        for name, part in parts.items():
            if part.scheduler.last_epoch > 0:
                continue
            if part.real_steps.take():  # which a turn has taken already
                self._by_hand.add(name)
            expected = batches / batches_per_step(part.plan.spec)
            follows = any(part.optimizer is one for one in trainer.optimizers)
            if not follows or part.gathered or expected <= _slack(part) or name in self._by_hand | self._idle:
                continue
            self._idle.add(name)
            turn = f"self.solver_turn({name!r})" if len(parts) > 1 else "self.solver_turn()"
            why = f"training_step never took its turn, {turn}"
            if part.batches:
                why = f"none of the losses that its turns were given ({part.batches}) led to one"
            report(f"{name} has made no step: {why}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look for parameters that would never be trained."""
        if self._checked:
            return
        self._checked = True
        known = {id(tensor) for o in trainer.optimizers for group in o.param_groups for tensor in group["params"]}
        lost = [n for n, p in pl_module.named_parameters() if p.requires_grad and id(p) not in known]
        if lost:
            plans: Mapping[str, Plan] = getattr(pl_module, "solver_plans", {})
            frozen = {id(tensor) for plan in plans.values() for tensor in plan.never}
            lost = [n for n, p in pl_module.named_parameters() if p.requires_grad and id(p) not in known | frozen]
        if lost:
            what = "is trainable but not in the optimiser, and would never be trained"
            got = f"{len(lost)} such parameters" if len(lost) > 1 else "a parameter made or unfrozen after the plan"
            do = "make it in __init__ or configure_model, and let it require its gradient from the start"
            raise SolverError(lost[0], what, got=got, do=do)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Bring the states of several optimisers into their present order.

        Strategies that shard restore when the optimiser is there already, by themselves and group by group.

        Raises:
            SolverError: The checkpoint holds the states of other optimisers, or of other groups that are sharded.
        """
        if trainer.state.fn != "fit" or getattr(pl_module, "solver", None) is None:
            return
        self._skipped = skipped_in(checkpoint)
        solver: Any = pl_module.solver
        lost = sort_states(checkpoint, list(by_name(solver)))
        if lost:
            what = "the checkpoint was written in mid-window: the gradients gathered by then are lost, and a new window"
            report(f"{what} begins", lost)
        if trainer.strategy.restore_checkpoint_after_setup:
            forget_loader(trainer)
            if "optimizer_states" not in checkpoint:
                refuse_regrouped(pl_module, checkpoint)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Say whose the states are: Lightning restores them by place."""
        if not pl_module.automatic_optimization and pl_module.solver_parts:
            sign(checkpoint, pl_module.solver_parts)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Loading a sharded checkpoint into other groups may fail deep in torch: say what the matter is."""
        meta = Path(trainer.ckpt_path or "") / "meta.pt"
        if trainer.global_step == 0 and not isinstance(exception, SolverError) and trainer.ckpt_path and meta.is_file():
            refuse_regrouped(pl_module, torch.load(meta, weights_only=True, map_location="cpu"))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Say so if the run was not as long as planned, but for one that was stopped on purpose."""
        parts = pl_module.solver_parts
        if not pl_module.automatic_optimization:
            self._tell_idle(trainer, parts)
        for name, part in parts.items():
            planned = part.plan.run.total_steps
            if pl_module.automatic_optimization:
                made, slack = trainer.global_step, 0
            else:
                made, slack = part.taken, _slack(part)
                if name in self._by_hand and part.plan.curves and made == 0:
                    how = "call self.lr_schedulers().step() after each step, or use self.solver_turn()"
                    report(f"the schedules{_of(part, parts)} never moved: under manual optimisation {how}")
                if name in self._by_hand | self._idle and made == 0:
                    continue
            if part.gathered:
                what = f"the last {part.gathered} of {part.window} batches{_of(part, parts)} have led to no step"
                report(f"{what}: the run ended in mid-window")
            if planned is not None and not trainer.should_stop and abs(made - planned) > slack:
                why = "" if pl_module.automatic_optimization else f" (batches_per_step {_batches(part)})"
                which = _of(part, parts)
                report(f"the plan was made for {planned} optimiser steps{which}{why}, but the run made {made}")


def _follows(trainer: Trainer, module: Any) -> bool:
    """Whether the schedulers of the plans are the Trainer's."""
    active = [config.scheduler for config in trainer.lr_scheduler_configs]
    return all(any(one is scheduler for one in active) for scheduler in module.solver_schedulers.values())


def _of(part: Part, parts: Mapping[str, Part]) -> str:
    """Which optimiser is meant, where there are several."""
    return f" of {part.name}" if len(parts) > 1 else ""


def _batches(part: Part) -> str:
    return str(batches_per_step(part.plan.spec))


def _slack(part: Part) -> int:
    """By how many steps a run may differ under manual optimisation: a step of several batches may have been begun."""
    return 0 if batches_per_step(part.plan.spec).numerator == 1 else 1


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
    plans: Mapping[str, Plan] = getattr(module, "solver_plans", {})
    for plan, state in zip(plans.values(), checkpoint.get("lr_schedulers", [])):
        if "spec" in state:
            _refuse_regrouped(module, plan, SolverSpec.from_dict(state["spec"], "saved spec"))


def _refuse_regrouped(module: LightningModule, plan: Plan, saved: SolverSpec) -> None:
    old = saved.replace(beyond_run="allow").plan(module, run=plan.run)
    if old.recipe.cls is plan.recipe.cls and [g.names for g in old.groups] == [g.names for g in plan.groups]:
        return
    what = "the parameters are grouped in another way than in the sharded checkpoint, which cannot be regrouped"
    got = f"groups {[g.name for g in old.groups]} then, {[g.name for g in plan.groups]} now"
    do = "resume by the same rules, or from a full checkpoint (save_distributed_checkpoint=False)"
    raise SolverError("ckpt_path", what, got=got, do=do)
