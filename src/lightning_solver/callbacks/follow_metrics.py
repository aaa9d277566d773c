"""Hands the metrics of a validation to the schedules that follow them, once for each validation that logged them."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.logs import report


class FollowMetrics(Callback):
    """Added by :class:`SolverMixin`; it does something only where a schedule is a ``Plateau``.

    Every process takes the mean over the processes that logged the metric, and so the same decision.

    Raises:
        SolverError: Before the first step, or after the first validation, if a metric is not logged.
    """

    role = "metrics"

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """A schedule that follows a metric needs validations."""
        monitors = _monitors(pl_module)
        if monitors and not trainer.enable_validation:
            do = "give validation data and a validation_step, or another schedule"
            what = "is what a Plateau follows, but the run has no validation that could log it"
            raise SolverError(sorted(monitors)[0], what, do=do)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Take the metrics that this validation has logged."""
        monitors = sorted(_monitors(pl_module))
        if not monitors or trainer.state.fn != "fit":
            return
        logged = trainer.callback_metrics
        fresh = {name: logged[name] for name in monitors if name in logged and logged[name] is not self._seen.get(name)}
        if trainer.sanity_checking:
            if logged:
                _refuse_missing([name for name in monitors if name not in logged], logged)
            return
        self._seen.update(fresh)
        values = _shared(trainer, pl_module, monitors, fresh)
        _refuse_missing([name for name in monitors if name not in values and name not in self._seen], logged)
        schedulers = pl_module.solver_schedulers
        for name, scheduler in schedulers.items():
            dropped = scheduler.observe(values)
            if dropped:
                which = f"{name}: " if len(schedulers) > 1 else ""
                what = f"{', '.join(sorted(scheduler.monitors))}: no improvement at step {scheduler.last_epoch}"
                report(f"{which}{what}, so {', '.join(dropped)} drops")


def _monitors(module: Any) -> set[str]:
    schedulers = getattr(module, "solver_schedulers", {})
    return {name for scheduler in schedulers.values() for name in scheduler.monitors}


def _refuse_missing(missing: list[str], logged: Any) -> None:
    if missing:
        do = f"log it in every validation; {suggestion(missing[0], logged, 'metrics')}"
        raise SolverError(missing[0], "is what a Plateau follows, but the validation has not logged it", do=do)


def _shared(trainer: Trainer, module: Any, monitors: list[str], fresh: dict[str, Any]) -> dict[str, float]:
    """The mean of each metric over the processes that have it: the same numbers in every process."""
    values = {name: float(value) for name, value in fresh.items()}
    if trainer.world_size == 1:
        return values
    own = [(values.get(name, 0.0), float(name in values)) for name in monitors]
    total: Any = trainer.strategy.reduce(torch.tensor(own, dtype=torch.float64, device=module.device), reduce_op="sum")
    means = {name: float(value / count) for name, (value, count) in zip(monitors, total.tolist()) if count}
    return {name: mean if math.isfinite(mean) else math.nan for name, mean in means.items()}
